"""A conversation as one prompt, by a Jinja template as published models bring it."""

from collections.abc import Sequence
from typing import NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from serving.chat_format import Message


def prompt_of(template: str, messages: Sequence[Message]) -> str:
    """The prompt that the assistant's next turn follows.

    Raises:
        ValueError: the template refuses these messages, or fails on them.
    """
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refuse
    turns = [message.model_dump() for message in messages]
    try:
        # A document's beginning is marked by a token of ours, not by a text, and no text marks a turn's end.
        return environment.from_string(template).render(
            messages=turns, add_generation_prompt=True, bos_token="", eos_token=""
        )
    except TemplateError as error:
        raise ValueError(str(error)) from None


def _refuse(reason: str) -> NoReturn:
    """What templates call for conversations they do not take."""
    raise TemplateError(reason)
