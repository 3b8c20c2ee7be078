"""Models of transformers into ours, trained here, and out again: always the same logits as there."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from cluster.errors import DataError, SpecError
from cluster.layout import Layout
from jobs import hugging_face_folder
from jobs.hugging_face import their_name
from jobs.hugging_face_folder import HuggingFaceFolder
from jobs.parallel.feed import StepRows
from jobs.parallel.parted import part
from jobs.spec import EarlyStoppingSpec, OptimizerSpec, TrainSpec
from jobs.training_step import TrainingStep
from jobs.workloads import language
from jobs.workloads.chain import Batch, Chain
from jobs.workloads.language import LanguageSpec
from jobs.workloads.transformer import transformer
from tests.jobs.hugging_face_models import FORMS, loaded, model_of, tokens_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def saved(folder: Path, form: str = "llama", **how: str) -> HuggingFaceFolder:
    """A tiny model in a folder as transformers writes it."""
    model_of(form).save_pretrained(folder, **how)
    return HuggingFaceFolder(folder, "their-folder")


def ours_of(folder: HuggingFaceFolder) -> tuple[LanguageSpec, Chain]:
    spec = LanguageSpec(**folder.spec.model_dump(), context_length=23)
    model = transformer(spec)
    found = folder.weights([name for name, _ in model.named_parameters()])
    model.load_state_dict(found, strict=not spec.tie_embeddings)
    return spec, model


def batch_of(tokens: Tensor) -> Batch:
    position = torch.arange(tokens.shape[1] - 1).expand(len(tokens), -1)
    num_targets = torch.full((len(tokens),), float(position.shape[1]))
    return {"token": tokens[:, :-1], "target": tokens[:, 1:], "position": position, "num_targets": num_targets}


def trained(spec: LanguageSpec, model: Chain, batch: Batch) -> float:
    """One step here, as every worker makes it; returns the loss."""
    layout = Layout()
    parted = part(
        model, layout, language.partition(spec), lambda outputs, rows: language.loss(spec, outputs, rows), CPU
    )
    optimizer = OptimizerSpec(name="sgd", learning_rate=0.1, weight_decay=0.1)
    train = TrainSpec(
        optimizer=optimizer, schedule="constant", early_stopping=EarlyStoppingSpec(metric="bits_per_byte")
    )
    rows = StepRows([batch | {"weight": torch.ones(len(batch["token"]))}], len(batch["token"]), 0.0)
    result = TrainingStep(train, parted, 1)(rows, 0, wants_norm=False)
    return float(result.summed_loss) / rows.num_rows


@pytest.mark.parametrize("form", FORMS)
def test_a_model_goes_in_is_trained_a_step_and_comes_out_with_equal_logits(form: str, tmp_path: Path) -> None:
    theirs, tokens = model_of(form), tokens_of()
    batch = batch_of(tokens)
    spec, ours = ours_of(saved(tmp_path / "in", form))
    with torch.no_grad():
        before = theirs(tokens[:, :-1]).logits
        torch.testing.assert_close(ours(batch), before, rtol=0, atol=1e-5)

    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    loss = F.cross_entropy(theirs(tokens[:, :-1]).logits.flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    optimizer.step()
    assert trained(spec, ours, batch) == pytest.approx(loss.item(), rel=1e-6)

    (tmp_path / "out").mkdir()
    hugging_face_folder.write(tmp_path / "out", spec, ours)
    with torch.no_grad():
        after = theirs(tokens[:, :-1]).logits
        assert (after - before).abs().max() > 0.05  # the step moved something
        torch.testing.assert_close(ours(batch), after, rtol=0, atol=1e-5)
        torch.testing.assert_close(loaded(tmp_path / "out")(tokens[:, :-1]).logits, after, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_read_back_to_the_bit(form: str, tmp_path: Path) -> None:
    spec, ours = ours_of(saved(tmp_path / "in", form))
    (tmp_path / "out").mkdir()
    hugging_face_folder.write(tmp_path / "out", spec, ours)
    again, model = ours_of(HuggingFaceFolder(tmp_path / "out", "out"))
    assert again == spec
    assert all(torch.equal(one, other) for one, other in zip(ours.parameters(), model.parameters(), strict=True))


def test_weights_in_several_files_are_those_in_one(tmp_path: Path) -> None:
    whole, parts = saved(tmp_path / "whole"), saved(tmp_path / "parts", max_shard_size="40KB")
    files = sorted((tmp_path / "parts").glob("*.safetensors"))
    assert len(files) > 2
    assert whole.shapes() == parts.shapes()
    one, other = (ours_of(folder)[1].state_dict() for folder in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    files[1].unlink()
    with pytest.raises(DataError, match=rf"their-folder/{files[1].name} cannot be read: .* Fetch the folder again"):
        HuggingFaceFolder(tmp_path / "parts", "their-folder").shapes()


def test_shapes_are_those_of_the_weights(tmp_path: Path) -> None:
    folder = saved(tmp_path / "in", "qwen3")
    expected = {name: tuple(weight.shape) for name, weight in model_of("qwen3").state_dict().items()}
    assert folder.shapes() == expected


def test_half_precision_becomes_single(tmp_path: Path) -> None:
    model_of("llama").bfloat16().save_pretrained(tmp_path)
    _, ours = ours_of(HuggingFaceFolder(tmp_path, "their-folder"))
    for name, weight in ours.named_parameters():
        assert weight.dtype == torch.float32
        there = model_of("llama").state_dict()[their_name(name)]
        assert torch.equal(weight, there.bfloat16().float())


def test_rotary_frequencies_of_old_folders_are_left_out(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, tmp_path / "model.safetensors")
    assert folder.shapes().keys() == weights.keys()


def test_pickles_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(
        DataError, match=r"neither model\.safetensors nor .*, but no weights\. Give a folder with safet"
    ):
        folder.shapes()
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(DataError, match=r"but pytorch_model\.bin, whose pickles can run any code and are not read"):
        folder.shapes()


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {"lm_head.weight": weights["lm_head.weight"].char()}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"lm_head\.weight is of I8, weights have to be floats of BF16, F16, F32, F64"):
        folder.shapes()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, r"their-folder/config\.json cannot be read: .* has config\.json beside its weights"),
        ("config.json", b"{", r"their-folder/config\.json cannot be read"),
        ("config.json", b"[]", r"their-folder/config\.json is no JSON object"),
        (
            "model.safetensors",
            b"\xff" * 99,
            r"their-folder/model\.safetensors cannot be read: .*Fetch the folder again",
        ),
    ],
)
def test_a_damaged_folder_is_named(tmp_path: Path, file: str, content: bytes | None, message: str) -> None:
    saved(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    folder = HuggingFaceFolder(tmp_path, "their-folder")
    with pytest.raises(DataError, match=message):
        ours_of(folder)


def test_an_index_may_name_files_of_the_folder_alone(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path.parent / "outside.safetensors")
    index = {"weight_map": {"lm_head.weight": "../outside.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(
        DataError, match=r"names the file '\.\./outside\.safetensors', which does not lie in the folder"
    ):
        HuggingFaceFolder(tmp_path, "their-folder").shapes()


def test_an_index_that_names_a_weight_too_many_is_seen(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "a.safetensors")
    index = {"weight_map": {"lm_head.weight": "a.safetensors", "lm_head.bias": "a.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"a\.safetensors lacks lm_head\.bias, which model\.safetensors\.index\.json"):
        HuggingFaceFolder(tmp_path, "their-folder").shapes()


def test_another_form_than_the_spec_says_is_told_with_the_overrides(tmp_path: Path) -> None:
    folder = saved(tmp_path, "qwen3")
    folder.check_fits(folder.spec)
    other = folder.spec.model_copy(update={"hidden_dim": 64, "qk_norm": False})
    with pytest.raises(
        SpecError, match=r"another form than workload says\. Give workload\.hidden_dim=48 workload\.qk_n"
    ):
        folder.check_fits(other)
