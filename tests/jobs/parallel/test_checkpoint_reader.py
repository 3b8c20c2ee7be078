import io
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from cluster.storage import Storage
from jobs.parallel import checkpoint_reader
from jobs.parallel.checkpoint_reader import MAX_GAP_BYTES, MAX_READ_BYTES, METADATA, CheckpointReader, Span, coalesced
from jobs.parallel.checkpoint_writer import writer_to
from tests.s3 import S3Server

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

FOLDER = "checkpoints/step-1"
NUM_TENSORS = 200
FEWEST_READS = 2
"""The metadata, and all tensors as one."""


def tensors() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {f"layer{number}": torch.randn(number % 7, 5, generator=draw) for number in range(NUM_TENSORS)}


def empty() -> dict[str, Tensor]:
    return {name: torch.full_like(value, torch.nan) for name, value in tensors().items()}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A storage with a checkpoint of `tensors`, as torch itself writes it."""
    save(tensors(), checkpoint_id=tmp_path / FOLDER, no_dist=True)
    return Storage(str(tmp_path))


def read(storage: Storage, into: dict[str, Any]) -> dict[str, Any]:
    load(into, storage_reader=CheckpointReader(storage, FOLDER), no_dist=True)
    return into


def assert_read(storage: Storage) -> None:
    torch.testing.assert_close(read(storage, empty()), tensors(), rtol=0, atol=0)


def test_what_torch_has_written_is_read(storage: Storage) -> None:
    assert_read(storage)


def test_some_of_the_tensors_are_read_alone(storage: Storage) -> None:
    some = {name: value for name, value in empty().items() if name.endswith("3")}
    torch.testing.assert_close(read(storage, some), {name: tensors()[name] for name in some}, rtol=0, atol=0)


@pytest.mark.parametrize("most", [1, 5_000, 20_000])
def test_any_limit_of_a_read_gives_the_same_tensors(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(checkpoint_reader, "MAX_READ_BYTES", most)
    assert_read(storage)


def num_reads_of_a_load(s3: S3Server, storage: Storage, fewest: int) -> int:
    """How many reads a load takes: at least so many, and one more afterwards, are waited for until all are counted."""
    before = s3.num_reads()
    assert_read(storage)
    storage.read(f"{FOLDER}/{METADATA}")
    return s3.wait_for_reads(before + fewest + 1) - before - 1


@pytest.mark.services
def test_a_load_from_s3_asks_for_far_fewer_pieces_than_there_are_tensors(s3: S3Server) -> None:
    storage = s3.storage("reads")
    save(tensors(), storage_writer=writer_to(storage, FOLDER), no_dist=True)
    assert num_reads_of_a_load(s3, storage, FEWEST_READS) == FEWEST_READS


@pytest.mark.services
def test_a_load_from_s3_splits_what_is_too_large_for_one_read(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = s3.storage("limited-reads")
    save(tensors(), storage_writer=writer_to(storage, FOLDER), no_dist=True)
    (file,) = [info for info in storage.files(FOLDER) if info.base_name.endswith(".distcp")]
    monkeypatch.setattr(checkpoint_reader, "MAX_READ_BYTES", file.size // 9)
    assert 10 <= num_reads_of_a_load(s3, storage, 10) <= 12


def spans_of(sizes_and_gaps: list[tuple[int, int]]) -> list[Span]:
    spans, start = [], 0
    for size, gap in sizes_and_gaps:
        spans.append(Span(start, start + size))
        start += size + gap
    return spans


def test_neighbours_are_read_as_one_and_what_lies_far_apart_is_not() -> None:
    first, second, third = spans_of([(10, MAX_GAP_BYTES), (10, MAX_GAP_BYTES + 1), (10, 0)])
    assert coalesced([third, first, second, first]) == {
        Span(first.start, second.stop): [first, second],
        third: [third],
    }


def test_a_read_ends_where_it_would_grow_too_large() -> None:
    first, second, third = spans_of([(MAX_READ_BYTES - 10, 0), (10, 0), (1, 0)])
    assert coalesced([first, second, third]) == {Span(0, MAX_READ_BYTES): [first, second], third: [third]}


def test_a_tensor_larger_than_any_read_is_one_read() -> None:
    small, large = spans_of([(1, 0), (3 * MAX_READ_BYTES, 0)])
    assert coalesced([small, large]) == {small: [small], large: [large]}


def test_nothing_to_read_is_no_read() -> None:
    assert coalesced([]) == {}


@pytest.mark.parametrize("seed", range(5))
def test_every_span_lies_in_one_read_and_no_two_reads_could_have_been_one(seed: int) -> None:
    draw = np.random.default_rng(seed)
    sizes, gaps = draw.integers(1, 5_000_000, 300).tolist(), draw.exponential(1e6, 300).astype(int).tolist()
    spans = spans_of(list(zip(sizes, gaps, strict=True)))
    reads = coalesced(spans[place] for place in draw.permutation(len(spans)))
    assert [span for held in reads.values() for span in held] == spans
    for read, held in reads.items():
        assert read == Span(held[0].start, held[-1].stop)
        assert read.stop - read.start <= MAX_READ_BYTES
        assert all(after.start - before.stop <= MAX_GAP_BYTES for before, after in pairwise(held))
    for (read, _), (_, (following, *_)) in pairwise(reads.items()):
        is_far = following.start - read.stop > MAX_GAP_BYTES
        assert is_far or following.stop - read.start > MAX_READ_BYTES


class Runs:
    """Runs a command where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def dotted(path: Path) -> bytes:
    """A pickle that reaches the same command through a module that checkpoints do name."""
    module, name = "torch.distributed.checkpoint.filesystem", "os.system"
    command = f"touch {path}"
    parts = [b"\x80\x04", *(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)), b"\x93"]
    parts += [b"\x8c" + bytes([len(command)]) + command.encode(), b"\x85R."]
    return b"".join(parts)


@pytest.mark.parametrize("disguised", [lambda path: pickle.dumps(Runs(path)), dotted])
def test_metadata_that_would_run_something_are_refused(
    storage: Storage, tmp_path: Path, disguised: Callable[[Path], bytes]
) -> None:
    harmful = disguised(tmp_path / "ran")
    storage.write(f"{FOLDER}/{METADATA}", harmful)
    with pytest.raises(OSError, match=r"step-1/\.metadata is damaged: it names (posix|torch.*os)\.system"):
        assert CheckpointReader(storage, FOLDER).metadata
    assert not (tmp_path / "ran").exists()
    pickle.loads(harmful)
    assert (tmp_path / "ran").exists()  # it is harmful


def test_metadata_that_end_early_are_told(storage: Storage) -> None:
    stored = storage.read(f"{FOLDER}/{METADATA}")
    storage.write(f"{FOLDER}/{METADATA}", stored[:-50])
    with pytest.raises(OSError, match=r"step-1/\.metadata is damaged"):
        assert CheckpointReader(storage, FOLDER).metadata


def test_what_is_no_tensor_is_refused(tmp_path: Path) -> None:
    save({"words": OrderedDict(a=1), "number": 3}, checkpoint_id=tmp_path / FOLDER, no_dist=True)
    with pytest.raises(BaseException, match="number is no tensor"):  # torch's own error is no Exception
        read(Storage(str(tmp_path)), {"number": 0})


def test_a_tensor_with_code_in_it_is_refused(storage: Storage, tmp_path: Path) -> None:
    content = io.BytesIO()
    torch.save(Runs(tmp_path / "ran"), content)
    metadata = CheckpointReader(storage, FOLDER).metadata
    (place,) = [place for index, place in metadata.storage_data.items() if index.fqn == "layer6"]
    file = Path(storage.path(f"{FOLDER}/{place.relative_path}"))
    file.write_bytes(file.read_bytes()[: place.offset] + content.getvalue().ljust(place.length, b"\0"))
    with pytest.raises(BaseException, match=r"weights_only|Weights only"):
        read(storage, {"layer6": torch.zeros(6, 5)})
    assert not (tmp_path / "ran").exists()
