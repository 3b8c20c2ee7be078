import pytest

from cluster.errors import SpecError
from cluster.spec import check
from jobs.spec import CHAT_TEMPLATE, GenerationSpec
from serving.chat_format import Message
from serving.chat_template import prompt_of

MESSAGES = [
    Message(role="system", content="Be kind."),
    Message(role="user", content="Hello {{ 7 * 6 }}"),
]
CHATML = (
    "{{ bos_token }}{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_without_a_template_of_its_own_a_conversation_is_a_transcript() -> None:
    assert prompt_of(CHAT_TEMPLATE, MESSAGES) == "system: Be kind.\nuser: Hello {{ 7 * 6 }}\nassistant:"


def test_a_template_of_a_published_model_is_taken() -> None:
    wanted = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello {{ 7 * 6 }}<|im_end|>\n"
    assert prompt_of(CHATML, MESSAGES) == f"{wanted}<|im_start|>assistant\n"


def test_a_template_may_refuse() -> None:
    with pytest.raises(ValueError, match="no system turn here"):
        prompt_of("{{ raise_exception('no system turn here') }}", MESSAGES)


def test_a_template_reaches_nothing_of_the_server() -> None:
    with pytest.raises(ValueError, match="unsafe"):
        prompt_of("{{ ''.__class__.__mro__ }}", MESSAGES)


def test_what_is_no_template_is_refused_with_its_line() -> None:
    with pytest.raises(SpecError, match=r"chat_template.*no Jinja template: .*line 2"):
        check(GenerationSpec, {"chat_template": "{% for a in b %}\n{% endfo %}"}, "test")
