"""BERT of transformers into ours, trained a step, and out again: always the same logits as there."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from cluster.errors import DataError, SpecError
from cluster.layout import Layout
from jobs.hugging_face_encoder import config_of, differences, plain_name, spec_of, their_name
from jobs.hugging_face_folder import HuggingFaceFolder, write_encoder
from jobs.parallel.feed import StepRows
from jobs.parallel.parted import part
from jobs.spec import EarlyStoppingSpec, OptimizerSpec, TrainSpec
from jobs.training_step import TrainingStep
from jobs.workloads import WORKLOADS, Workload
from jobs.workloads.chain import Batch, Chain
from jobs.workloads.encoder import EncoderSpec, encoder
from jobs.workloads.tagging import NO_TAG, TaggingSpec
from jobs.workloads.text import TextSpec
from jobs.workloads.transformer import TransformerSpec
from tests.jobs.hugging_face_models import transformers

LABELS = ["greet", "leave", "ask"]
SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def bert(make: Any = None, **config: Any) -> Any:
    """A model with weights large enough that every part of it matters."""
    torch.manual_seed(0)
    make = make or transformers.BertForSequenceClassification
    model = make(transformers.BertConfig(**{**SIZES, **config}, num_labels=3))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            drawn = torch.randn_like(weight) / (weight.shape[-1] ** 0.5 if weight.ndim > 1 else 4)
            weight.copy_(drawn + (1 if name.endswith("LayerNorm.weight") else 0))
    return model.eval()


def rows(kind: str = "text") -> Batch:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([20, 7, 13, 1])
    classes, is_there = torch.randint(3, (4, 20), generator=generator), torch.arange(20)[None] < lengths[:, None]
    is_word = is_there & (torch.rand(4, 20, generator=generator) < 0.7)
    is_word[:, 0] = True
    return {
        "token": torch.randint(300, (4, 20), generator=generator),
        "is_there": is_there,
        "class": torch.tensor([0, 2, 1, 2]) if kind == "text" else torch.where(is_word, classes, NO_TAG),
        "key": torch.arange(4),
    }


def theirs_of(model: Any, batch: Batch) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=batch["token"], attention_mask=batch["is_there"].long()).logits
    return logits


def loss_of(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The mean over rows; of a row of words, the mean over them."""
    if logits.ndim == 2:
        return F.cross_entropy(logits, batch["class"])
    rows = zip(logits, batch["class"], strict=True)
    return torch.stack([F.cross_entropy(each, wanted, ignore_index=NO_TAG) for each, wanted in rows]).mean()


def ours_of(folder: Path, kind: str) -> tuple[TextSpec | TaggingSpec, Chain]:
    read = HuggingFaceFolder(folder, "their-folder")
    assert isinstance(read.spec, EncoderSpec)
    given = read.spec.model_dump() | {"dropout": 0.0, "context_length": 20, "tokenizer": "bpe"}
    spec = TextSpec(**given) if kind == "text" else TaggingSpec(**given)
    model = encoder(spec, 3, "text" if kind == "text" else "token")
    model.load_state_dict(read.weights([name for name, _ in model.named_parameters()]))
    return spec, model


def trained(spec: TextSpec | TaggingSpec, model: Chain, batch: Batch) -> float:
    """One step here, as every worker makes it; returns the loss."""
    workload: Workload[Any, Any] = WORKLOADS[spec.kind]
    losses = partial(workload.loss, spec)
    parted = part(model, Layout(), workload.partition(spec), losses, torch.device("cpu"))
    optimizer = OptimizerSpec(name="sgd", learning_rate=0.1, weight_decay=0.1)
    train = TrainSpec(optimizer=optimizer, schedule="constant", early_stopping=EarlyStoppingSpec(metric="accuracy"))
    step = StepRows([batch | {"weight": torch.ones(4)}], 4, 0.0)
    return float(TrainingStep(train, parted, 1)(step, 0, wants_norm=False).summed_loss) / 4


FORMS = {
    "text": (transformers.BertForSequenceClassification, transformers.AutoModelForSequenceClassification),
    "tagging": (transformers.BertForTokenClassification, transformers.AutoModelForTokenClassification),
}
"""Their model of each workload, and what loads it."""


@pytest.mark.parametrize(("kind", "activation"), [("text", "gelu"), ("text", "relu"), ("tagging", "gelu")])
def test_a_model_goes_in_is_trained_a_step_and_comes_out_with_equal_logits(
    tmp_path: Path, kind: str, activation: str
) -> None:
    make, auto = FORMS[kind]
    theirs, batch = bert(make, hidden_act=activation), rows(kind)
    theirs.save_pretrained(tmp_path / "in")
    spec, ours = ours_of(tmp_path / "in", kind)
    with torch.no_grad():
        before = theirs_of(theirs, batch)
        torch.testing.assert_close(ours(batch), before, rtol=0, atol=1e-5)

    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    loss = loss_of(theirs_of(theirs, batch), batch)
    loss.backward()
    optimizer.step()
    assert trained(spec, ours, batch) == pytest.approx(loss.item(), rel=1e-5)

    (tmp_path / "out").mkdir()
    write_encoder(tmp_path / "out", spec, LABELS, ours)
    again = auto.from_pretrained(str(tmp_path / "out")).eval()
    with torch.no_grad():
        after = theirs_of(theirs, batch)
        assert (after - before).abs().max() > 0.05  # the step moved something
        torch.testing.assert_close(ours(batch), after, rtol=0, atol=1e-5)
        torch.testing.assert_close(theirs_of(again, batch), after, rtol=0, atol=1e-5)
    assert again.config.id2label == dict(enumerate(LABELS))


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM", "old names"])
def test_folders_of_pre_trained_models_give_all_but_the_head(tmp_path: Path, kind: str) -> None:
    model = bert(getattr(transformers, kind, transformers.BertForPreTraining))
    model.save_pretrained(tmp_path)
    if kind == "old names":
        file = str(tmp_path / "model.safetensors")
        old = {name: weight.clone() for name, weight in load_file(file).items()}
        renamed = {re.sub("LayerNorm.weight$", "LayerNorm.gamma", name): weight for name, weight in old.items()}
        renamed = {re.sub("LayerNorm.bias$", "LayerNorm.beta", name): weight for name, weight in renamed.items()}
        save_file({**renamed, "bert.embeddings.position_ids": torch.arange(40)[None]}, file)
    folder = HuggingFaceFolder(tmp_path, "their-folder")
    ours = encoder(folder.spec, 3, "text")  # type: ignore[arg-type]
    wanted = {their_name(name): tuple(weight.shape) for name, weight in ours.named_parameters()}
    apart = set(wanted) ^ set(folder.shapes())
    without_pooler = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"} if kind == "BertForMaskedLM" else set()
    assert apart == {"classifier.weight", "classifier.bias"} | without_pooler
    found = folder.weights(["embedding.norm.weight", "layer1.down.weight"])
    there = dict(model.named_parameters())
    prefix = "" if kind == "BertModel" else "bert."
    assert torch.equal(found["embedding.norm.weight"], there[f"{prefix}embeddings.LayerNorm.weight"])
    assert torch.equal(found["layer1.down.weight"], there[f"{prefix}encoder.layer.1.output.dense.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type=relative_key is not supported, our"),
        ({"is_decoder": True}, "is_decoder=True is not supported, ours reads a text from both sides"),
        ({"type_vocab_size": 1}, "type_vocab_size=1 is not supported, ours has the two types"),
        ({"use_bidirectional": False}, "the key use_bidirectional=False is unknown here, so the model may compute"),
        ({"hidden_act": "gelu_new"}, "in our words.*gelu_new"),
        ({"hidden_size": None}, "hidden_size missing; without it the model is not known"),
    ],
)
def test_other_forms_are_refused(change: dict[str, Any], message: str) -> None:
    config = transformers.BertConfig(**SIZES).to_dict() | change
    with pytest.raises(DataError, match=message):
        spec_of(config, "config.json")


def test_a_configuration_comes_back() -> None:
    spec = EncoderSpec(num_layers=3, hidden_dim=32, num_heads=2, vocabulary_size=400, num_positions=77)
    config = json.loads(json.dumps(config_of(TextSpec(**spec.model_dump()), LABELS)))
    assert spec_of(config, "config.json") == spec
    assert differences(spec, spec) == []
    other = spec.model_copy(update={"num_positions": 512})
    assert differences(other, spec) == ["workload.num_positions=512"]


def test_names_that_are_not_needed_have_none() -> None:
    assert plain_name("cls.predictions.bias") is None
    assert plain_name("embeddings.position_ids") is None
    assert plain_name("embeddings.LayerNorm.gamma") == "bert.embeddings.LayerNorm.weight"


def test_a_decoder_is_no_encoder(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path)
    with pytest.raises(
        SpecError, match=r"holds a bert model, which is one of workload\.kind=text or tagging; give another"
    ):
        HuggingFaceFolder(tmp_path, "their-folder").check_fits(TransformerSpec())
