import json
import math
import random
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cluster.errors import DataError, SpecError
from cluster.layout import Layout
from cluster.spec import check, dump, parse
from cluster.storage import Storage
from jobs import prepare
from jobs.features.bpe import START
from jobs.features.columns import check_rows
from jobs.features.split import TrainRows
from jobs.features.transform import Transform
from jobs.parallel import check as check_layout
from jobs.prepared import read_split, read_transform
from jobs.spec import load_ring
from jobs.workloads import Workload, language
from jobs.workloads.chain import Batch, Chain
from jobs.workloads.language import IGNORED, LanguageSpec
from jobs.workloads.tokenizer import pieces_of
from tests.jobs.workloads import prepared as timeless

REPOSITORY = Path(__file__).parents[3]

ANSWERS: Workload[LanguageSpec, Tensor] = language  # mypy compares the module with the protocol
SPEC = LanguageSpec(context_length=16, num_layers=2, hidden_dim=32, num_heads=4, num_kv_heads=2, feed_forward_dim=48)
NOTHING_FITTED = Transform(())
TEXTS = ("the cat sat on the mat. ", "Grüße aus 世界! ", "a", "0123456789abcdef", "0123456789abcdefg")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Prepared:
    """What prepare would hand on."""

    train: TrainRows
    test: pa.Table


def rows_of(*texts: str, spec: LanguageSpec = SPEC) -> pa.Table:
    events = pa.table({"document": [f"d{number}" for number in range(len(texts))], "text": list(texts)})
    return language.unfold(spec, events)


def prepared(train: tuple[str, ...], test: tuple[str, ...], spec: LanguageSpec = SPEC) -> Prepared:
    rows = rows_of(*train, spec=spec)
    return Prepared(
        TrainRows(rows.append_column("split", pa.array(["train"] * rows.num_rows))), rows_of(*test, spec=spec)
    )


def model_of(spec: LanguageSpec = SPEC) -> Chain:
    """A model that is anything but at rest."""
    torch.manual_seed(0)
    model = language.build(spec, NOTHING_FITTED)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(torch.randn_like(weights) / math.sqrt(weights.shape[-1]))
    return model


def trained(rows: pa.Table, num_steps: int, spec: LanguageSpec = SPEC) -> Chain:
    """A plain training loop in one process."""
    torch.manual_seed(0)
    model = language.build(spec, NOTHING_FITTED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = language.tensors(rows)
    draws = torch.Generator().manual_seed(0)
    for _ in range(num_steps):
        index = torch.randint(len(batch["token"]), (16,), generator=draws)
        part = {name: values[index] for name, values in batch.items()}
        optimizer.zero_grad()
        language.loss(spec, model(part), part).mean().backward()
        optimizer.step()
    return model


def stretch(batch: Batch, spec: LanguageSpec, where: slice) -> Batch:
    """What one context peer would get."""
    sequence = language.partition(spec).sequence
    return {name: values[:, where] if name in sequence else values for name, values in batch.items()}


def test_documents_are_read_as_their_columns_say() -> None:
    raw = pa.table({"document": ["1", "2", None], "text": ["one", "", "three"]})
    checked = check_rows(raw, language.event_columns(SPEC))
    assert checked.column("reason").is_null().to_pylist() == [True, False, False]
    kept = checked.filter(pa.compute.is_null(checked.column("reason"))).drop_columns(["reason"])
    assert language.unfold(SPEC, kept).select(["document", "place", "num_tokens"]).to_pylist() == [
        {"document": "1", "place": 0, "num_tokens": 3}
    ]


def test_no_two_rows_share_the_columns_that_order_them() -> None:
    rows = rows_of(*TEXTS * 2)
    assert rows.num_rows == len(set(zip(*(rows.column(name).to_pylist() for name in language.ties), strict=True)))
    assert language.time is None


def test_tensors_are_inputs_targets_and_places() -> None:
    batch = language.tensors(rows_of("abc", "0123456789abcdefg"))
    tokens, targets = batch["token"].tolist(), batch["target"].tolist()
    assert tokens[0] == [START, *b"abc"] + [START] * 12
    assert targets[0] == [*b"abc"] + [IGNORED] * 13
    assert tokens[1] == [START, *b"0123456789abcde"]
    assert targets[1] == [*b"0123456789abcdef"]
    assert tokens[2] == [*b"fg"] + [START] * 14
    assert targets[2] == [*b"g"] + [IGNORED] * 15
    assert batch["position"].tolist() == [list(range(16))] * 3
    assert batch["num_targets"].tolist() == [3, 16, 1]
    assert [batch[name].dtype for name in ("token", "target", "position", "num_targets")] == [
        *[torch.int64] * 3,
        torch.float32,
    ]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_rows_loss_is_the_mean_over_its_real_targets(smoothing: float) -> None:
    batch = language.tensors(rows_of(*TEXTS))
    logits = model_of()(batch)
    losses = language.loss(SPEC.model_copy(update={"label_smoothing": smoothing}), logits, batch)
    for row, targets in enumerate(batch["target"]):
        num = int((targets != IGNORED).sum())
        each = -logits[row, :num].double().log_softmax(1)
        expected = (1 - smoothing) * each[torch.arange(num), targets[:num]].mean() + smoothing * each.mean()
        assert losses[row].item() == pytest.approx(expected.item(), rel=1e-5)
    assert losses.dtype == language.loss(SPEC, logits.bfloat16(), batch).dtype == torch.float32


def test_padding_gives_the_weights_no_gradient() -> None:
    batch = language.tensors(rows_of("abc"))
    logits = model_of()(batch).detach().requires_grad_()
    language.loss(SPEC, logits, batch).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 3:].abs().sum() == 0
    assert (logits.grad[0, :3].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("cuts", [(0, 8, 16), (0, 4, 8, 12, 16)])
def test_the_shares_of_stretches_add_up_to_the_rows_loss(cuts: tuple[int, ...]) -> None:
    batch = language.tensors(rows_of(*TEXTS))
    logits = model_of()(batch)
    pieces = [slice(begin, end) for begin, end in pairwise(cuts)]
    shares = [language.loss(SPEC, logits[:, piece], stretch(batch, SPEC, piece)) for piece in pieces]
    torch.testing.assert_close(sum(shares), language.loss(SPEC, logits, batch))


def test_stretches_whose_attention_sees_all_keys_compute_the_whole_models_logits() -> None:
    class Gathered(torch.nn.Module):
        """Stands for `attend` where keys come from elsewhere: keeps them of one pass, and shows them to the next."""

        def __init__(self, attend: torch.nn.Module) -> None:
            super().__init__()
            self.attend = attend
            self.kept: tuple[Tensor, Tensor, Tensor] | None = None

        def forward(self, query: Tensor, key: Tensor, value: Tensor, query_at: Tensor, key_at: Tensor) -> Tensor:
            self.kept = self.kept or (key, value, key_at)
            attended: Tensor = self.attend(query, *self.kept[:2], query_at, self.kept[2])
            return attended

    model, batch = model_of(), language.tensors(rows_of(*TEXTS))
    for number in range(SPEC.num_layers):
        attention = model[f"layer{number}"].attention
        attention.attend = Gathered(attention.attend)  # type: ignore[union-attr,arg-type]
    whole = model(batch)
    halves = [model(stretch(batch, SPEC, piece)) for piece in (slice(0, 8), slice(8, 16))]
    torch.testing.assert_close(torch.cat(halves, dim=1), whole, rtol=1e-5, atol=1e-5)


def test_bits_per_byte_are_those_of_each_byte_taken_alone() -> None:
    model = model_of()
    bits = []
    for row in rows_of(*TEXTS).to_pylist():
        for place in range(row["num_tokens"]):
            token = torch.tensor([row["tokens"][: place + 1]])
            logits = model({"token": token, "position": torch.arange(place + 1)[None]})[0, -1].double()
            bits.append(-math.log2(logits.softmax(0)[row["tokens"][place + 1]].item()))
    assert len(bits) == sum(len(text.encode()) for text in TEXTS)
    measured = language.evaluate(SPEC, model, NOTHING_FITTED, rows_of(*TEXTS))
    assert measured == {"bits_per_byte": pytest.approx(sum(bits) / len(bits), rel=1e-5)}


def test_evaluating_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = model_of(), rows_of(*TEXTS)
    at_once = language.evaluate(SPEC, model, NOTHING_FITTED, rows)
    monkeypatch.setattr(language, "TOKENS_AT_ONCE", 40)
    assert language.evaluate(SPEC, model, NOTHING_FITTED, rows) == pytest.approx(at_once, rel=1e-6)


def test_a_model_that_knows_nothing_needs_as_many_bits_as_its_vocabulary() -> None:
    model = language.build(SPEC, NOTHING_FITTED)
    with torch.no_grad():
        model["head"].output.weight.zero_()  # type: ignore[operator,union-attr]
    measured = language.evaluate(SPEC, model, NOTHING_FITTED, rows_of(*TEXTS))
    assert measured["bits_per_byte"] == pytest.approx(math.log2(288), rel=1e-6)


def test_a_trained_model_beats_both_baselines() -> None:
    order = random.Random(0)
    words = ["one", "two", "three", "four", "five", "six"]
    cycle = " ".join(words) + " "
    train = tuple((cycle * 8)[(begin := order.randrange(60)) : begin + 120] for _ in range(30))
    data = prepared(train, ((cycle * 3)[7:70],))
    baselines = language.baselines(SPEC, NOTHING_FITTED, data.train, data.test)
    before = language.evaluate(SPEC, trained(data.train.table, 0), NOTHING_FITTED, data.test)["bits_per_byte"]
    after = language.evaluate(SPEC, trained(data.train.table, 60), NOTHING_FITTED, data.test)["bits_per_byte"]
    bits = {name: scores["bits_per_byte"] for name, scores in baselines.items()}
    assert bits["unigram"] > bits["bigram"]
    assert before > 7
    assert after < min(bits.values())


def test_no_held_out_row_is_an_error_that_says_what_to_do() -> None:
    data = prepared(TEXTS, ())
    with pytest.raises(DataError, match=r"no held-out row .* prepare\.split\.valid"):
        language.evaluate(SPEC, model_of(), NOTHING_FITTED, data.test)
    with pytest.raises(DataError, match="no held-out row"):
        language.baselines(SPEC, NOTHING_FITTED, data.train, data.test)


def test_a_continuation_is_the_likeliest_byte_again_and_again() -> None:
    model, prompt = model_of(), "Gr"
    tokens = [START, *prompt.encode()]
    for byte, log_probability in language.continuation(SPEC, model, prompt, 12):
        logits = model({"token": torch.tensor([tokens]), "position": torch.arange(len(tokens))[None]})[0, -1]
        assert byte == int(logits[:256].argmax())
        assert log_probability == pytest.approx(logits.double().log_softmax(0)[byte].item(), abs=1e-5)
        tokens.append(byte)


def test_a_continuation_sees_no_more_than_the_context() -> None:
    model = model_of()
    long = "x" * 50 + "0123456789abcdef"
    assert language.continuation(SPEC, model, long, 5) == language.continuation(SPEC, model, "y" + long, 5)
    assert language.continuation(SPEC, model, long, 5) != language.continuation(SPEC, model, long[:-1], 5)


def test_a_continuation_never_holds_a_token_that_is_no_byte() -> None:
    model = language.build(SPEC, NOTHING_FITTED)
    with torch.no_grad():
        model["head"].output.weight[:256] = 0  # type: ignore[operator,union-attr]
    assert all(byte < 256 for byte, _ in language.continuation(SPEC, model, "a", 8))


def test_golden_rows_can_be_replayed_from_their_prompts() -> None:
    model = model_of()
    golden = language.golden(SPEC, model, NOTHING_FITTED, rows_of(*TEXTS * 20)).to_pylist()
    prompts = [row["prompt"] for row in golden]
    assert len(prompts) == len(set(prompts))
    assert {"", "Grüße, 世界", "the cat sat on t", "a"} <= set(prompts)
    for row in golden:
        answer = language.continuation(SPEC, model, row["prompt"], len(row["continuation"]))
        assert list(zip(row["continuation"], row["log_probabilities"], strict=True)) == answer


def test_an_empty_transform_can_be_written_and_read(tmp_path: Path) -> None:
    fitted = Transform(language.steps(SPEC)).fit([]).with_lookups({})
    fitted.save(tmp_path)
    assert Transform.load(tmp_path) == fitted


def test_a_model_written_and_read_answers_the_same(tmp_path: Path) -> None:
    model, other = model_of(), language.build(SPEC, NOTHING_FITTED)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    batch = language.tensors(rows_of(*TEXTS))
    assert torch.equal(model(batch), other(batch))


def test_a_spec_survives_being_written_and_read() -> None:
    assert parse(LanguageSpec, dump(SPEC), "test") == SPEC
    with pytest.raises(SpecError, match="context_length"):
        check(LanguageSpec, {"context_length": 0}, "test")


def test_partition_names_modules_of_the_model_none_inside_another() -> None:
    for changed in ({}, {"tie_embeddings": True}, {"qk_norm": True, "qkv_bias": True}):
        spec = SPEC.model_copy(update=changed)
        parts, model = language.partition(spec), language.build(spec, NOTHING_FITTED)
        paths = {path.replace("layer0", "layer*").replace("layer1", "layer*") for path, _ in model.named_modules()}
        assert {*parts.units, *parts.tensor, parts.attention} <= paths
        assert all("." not in unit for unit in parts.units)
        assert parts.num_links == len(model)
        assert not list(model.get_submodule(parts.attention.replace("*", "0")).parameters())
        assert set(parts.sequence) < set(language.tensors(rows_of("a")))


def test_partition_says_which_sizes_have_to_divide() -> None:
    parts = language.partition(SPEC)
    assert parts.tensor_divides == {
        "workload.num_heads": 4,
        "workload.num_kv_heads": 2,
        "workload.feed_forward_dim": 48,
        "workload.vocabulary_size": 288,
    }
    assert parts.sequence_divides == {"workload.context_length": 16}
    assert parts.refused == {}


def test_a_tied_matrix_stays_whole_and_the_refusals_say_how_out() -> None:
    parts = language.partition(SPEC.model_copy(update={"tie_embeddings": True}))
    assert set(parts.refused) == {"pipeline", "sequence_parallel"}
    assert all("workload.tie_embeddings=false lifts this" in reason for reason in parts.refused.values())
    assert parts.units == ("layer*",)
    assert "head.output" not in parts.tensor
    assert "workload.vocabulary_size" not in parts.tensor_divides


def test_nothing_else_is_asked_of_the_data() -> None:
    train = prepared(TEXTS, TEXTS).train
    assert language.item_columns(SPEC) == ()
    assert language.steps(SPEC) == ()
    assert language.lookups(NOTHING_FITTED, pa.table({}), lambda: train) == {}
    assert language.draw(SPEC, NOTHING_FITTED, torch.Generator()) == {}
    assert np.array_equal(train.table.column("num_tokens").to_numpy() > 0, [True] * train.table.num_rows)


BPE = SPEC.model_copy(update={"tokenizer": "bpe", "vocabulary_size": 288})
PACKED = BPE.model_copy(update={"packing": True})
DOCUMENTS = pa.table(
    {
        "document": [f"d{number}" for number in range(40)],
        "text": [("the cat sat on the mat. Grüße aus 世界! " * 4)[number : number * 3 + 60] for number in range(40)],
    }
)


@pytest.mark.parametrize("spec", [BPE, PACKED])
def test_bits_of_learned_tokens_are_shared_out_over_their_bytes(spec: LanguageSpec) -> None:
    data = timeless.prepare(DOCUMENTS, spec)
    model = model_of(spec)
    texts = dict(zip(*(DOCUMENTS.column(name).to_pylist() for name in ("document", "text")), strict=True))
    held_out = set(data.test.column("document").to_pylist())
    num_bytes = sum(len(texts[name].strip().encode()) for name in held_out)
    bits = 0.0
    for row in data.test.to_pylist():
        tokens = row["tokens"][: 1 + row["num_tokens"]]
        for place, target in enumerate(tokens[1:], start=1):
            if target != START:
                given = {"token": torch.tensor([tokens[:place]]), "position": torch.arange(place)[None]}
                bits -= math.log2(model(given)[0, -1].double().softmax(0)[target].item())
    measured = language.evaluate(spec, model, data.transform, data.test)
    assert measured == {"bits_per_byte": pytest.approx(bits / num_bytes, rel=1e-5)}


@pytest.mark.parametrize("spec", [BPE, PACKED])
def test_baselines_are_those_of_the_bytes_whatever_the_tokens(spec: LanguageSpec) -> None:
    found, bytewise = (timeless.prepare(DOCUMENTS, one) for one in (spec, SPEC))
    expected = language.baselines(SPEC, bytewise.transform, bytewise.train, bytewise.test)
    assert language.baselines(spec, found.transform, found.train, found.test) == expected


def test_two_steps_of_training_on_packed_tokens_lower_the_loss_and_golden_rows_are_replayed() -> None:
    data = timeless.prepare(DOCUMENTS, PACKED)
    before = language.evaluate(PACKED, trained(data.train.table, 0, PACKED), data.transform, data.test)
    model = trained(data.train.table, 2, PACKED)
    assert language.evaluate(PACKED, model, data.transform, data.test)["bits_per_byte"] < before["bits_per_byte"]
    num_known = len(pieces_of(PACKED, data.transform))
    for row in language.golden(PACKED, model, data.transform, data.test).to_pylist():
        assert all(token < num_known and token != START for token in row["continuation"])
        answer = language.continuation(PACKED, model, row["prompt"], len(row["continuation"]), data.transform)
        assert list(zip(row["continuation"], row["log_probabilities"], strict=True)) == answer


def test_a_border_of_documents_is_no_target() -> None:
    data = timeless.prepare(DOCUMENTS, PACKED)
    batch = language.tensors(data.train.table)
    assert (batch["token"][:, 1:] == START).any()
    assert not (batch["target"] == START).any()
    assert torch.equal(batch["num_targets"], (batch["target"] != IGNORED).sum(1).float())


def test_packing_rows_of_one_target_is_refused() -> None:
    with pytest.raises(SpecError, match=r"packing=true: with context_length=1 .* give context_length=2 or more"):
        check(LanguageSpec, {"packing": True, "context_length": 1}, "test")


@pytest.mark.parametrize("packing", [False, True])
def test_prepare_learns_the_tokens_and_writes_windows_of_them(tmp_path: Path, packing: bool) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in DOCUMENTS.to_pylist())
    (tmp_path / "raw/topics").mkdir(parents=True)
    (tmp_path / "raw/topics/part.jsonl").write_text(lines)
    given = [f"storage={tmp_path}", "workload.tokenizer=bpe", f"workload.packing={str(packing).lower()}"]
    ring = load_ring(REPOSITORY / "jobs/specs/language.yaml", [*given, "workload.context_length=16"])
    storage = Storage(ring.storage)
    folder = prepare.run(ring, storage).folder
    transform, workload = read_transform(storage, folder), ring.workload
    assert isinstance(workload, LanguageSpec)
    pieces, num_targets = pieces_of(workload, transform), 0
    for split in ("train", "valid", "test"):
        rows = read_split(storage, folder, split, language.ties)
        tokens = [row["tokens"][1 : 1 + row["num_tokens"]] for row in rows.to_pylist()]
        num_targets += sum(len(pieces[token]) for row in tokens for token in row)
    assert num_targets == sum(len(text.strip().encode()) for text in DOCUMENTS.column("text").to_pylist())
    assert prepare.run(ring, storage).why == "unchanged"
    assert "bpe" in prepare.describe(ring, storage)


def test_a_recurrent_network_takes_no_keys_of_a_transformer() -> None:
    assert LanguageSpec(architecture="gru", hidden_dim=30, num_layers=1, vocabulary_size=300).has_heads is False
    with pytest.raises(ValueError, match=r"architecture=lstm with num_heads=8, qk_norm=True: a recurrent network has"):
        LanguageSpec(architecture="lstm", num_heads=8, qk_norm=True)


@pytest.mark.parametrize("axis", ["tensor", "context"])
def test_a_recurrent_network_is_not_split_within_a_row(axis: str) -> None:
    spec = LanguageSpec(architecture="lstm")
    with pytest.raises(SpecError, match=rf"layout.{axis}=2 .*lstm"):
        check_layout(Layout.model_validate({axis: 2}), language.partition(spec), "language")


def test_a_recurrent_network_learns_what_two_bytes_back_says() -> None:
    """A bigram cannot tell what follows the b of "ab" and of "cb"."""
    spec = LanguageSpec(architecture="lstm", hidden_dim=16, num_layers=1, context_length=16)
    torch.manual_seed(0)
    documents = [("abx", "cby")[n % 2] * 6 for n in range(16)]
    rows = language.unfold(spec, pa.table({"document": [str(n) for n in range(16)], "text": documents}))
    model, batch = language.build(spec, Transform(())), language.tensors(rows)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        language.loss(spec, model(batch), batch).mean().backward()
        optimizer.step()
    bits = language.evaluate(spec, model, Transform(()), rows)["bits_per_byte"]
    assert bits < 0.1  # the first byte of a document alone cannot be known, 1 bit of 18 bytes: 0.056
