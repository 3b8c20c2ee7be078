"""Reading a checkpoint from any storage: only the bytes that this worker needs, in few and large reads.

torch's own reader asks for each tensor by itself, which takes a request each, or for whole files. A tensor of which
a part is needed is read whole.
"""

import io
import pickle
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import torch
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from cluster.storage import Storage

METADATA = ".metadata"
MAX_GAP_BYTES = 1 << 20
"""Between two tensors that are read as one: to read that much more takes about as long as another request."""
MAX_READ_BYTES = 32 << 20
"""Of one read, unless a single tensor is larger. The reads of a worker that run at once fit in memory."""
NUM_PARALLEL_READS = 8


class Span(NamedTuple):
    """Bytes of a file, from `start` up to, but not including, `stop`."""

    start: int
    stop: int


def coalesced(spans: Iterable[Span]) -> dict[Span, list[Span]]:
    """What to read for all the spans, and which of them each read holds."""
    reads: list[tuple[Span, list[Span]]] = []
    for span in sorted(set(spans)):
        if reads:
            read, held = reads[-1]
            joined = Span(read.start, max(read.stop, span.stop))
            if span.start - read.stop <= MAX_GAP_BYTES and joined.stop - joined.start <= MAX_READ_BYTES:
                held.append(span)
                reads[-1] = joined, held
                continue
        reads.append((span, [span]))
    return dict(reads)


class CheckpointReader(StorageReader):
    """Reads a checkpoint folder of a storage for `torch.distributed.checkpoint.load`."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage, self._folder = storage, folder

    @cached_property
    def metadata(self) -> Metadata:
        """What the checkpoint holds and where each tensor lies in its files.

        Raises:
            OSError: it cannot be read, or is damaged.
        """
        path = f"{self._folder}/{METADATA}"
        stored = io.BytesIO(self._storage.read(path))
        try:
            metadata: Metadata = _MetadataUnpickler(stored).load()
        except (pickle.UnpicklingError, EOFError) as error:
            raise OSError(f"{path} is damaged: {error}") from error
        return metadata

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fill the tensors of a plan."""
        wanted: dict[str, dict[Span, list[ReadItem]]] = defaultdict(lambda: defaultdict(list))
        for item in plan.items:
            if item.type == LoadItemType.BYTE_IO:  # torch would unpickle it without care
                raise ValueError(f"checkpoint {self._folder}: {item.storage_index.fqn} is no tensor")
            place = self.metadata.storage_data[item.storage_index]
            wanted[place.relative_path][Span(place.offset, place.offset + place.length)].append(item)

        def fill(file: str, read: Span, held: dict[Span, list[ReadItem]]) -> None:
            content = self._read(file, read)
            for span, items in held.items():
                stored = io.BytesIO(content[span.start - read.start : span.stop - read.start])
                _fill(torch.load(stored, map_location="cpu", weights_only=True), items, planner)

        with ThreadPoolExecutor(NUM_PARALLEL_READS, "checkpoint reader") as threads:
            filled = [
                threads.submit(fill, file, read, {span: items[span] for span in held})
                for file, items in wanted.items()
                for read, held in coalesced(items).items()
            ]
        for done in filled:
            done.result()
        finished: Future[None] = Future()
        finished.set_result(None)
        return finished

    def _read(self, file: str, span: Span) -> memoryview:
        with self._storage.filesystem.open_input_file(self._storage.path(f"{self._folder}/{file}")) as stream:
            content = memoryview(stream.read_at(span.stop - span.start, span.start))
        if len(content) < span.stop - span.start:
            raise OSError(f"{self._folder}/{file} ends at byte {span.start + len(content)}, before {span.stop}")
        return content

    # What torch asks of a reader besides; its plans stay as they are.
    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing is kept between two loads but the metadata, which do not change."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """See `metadata`."""
        return self.metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """All is set up."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """The plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """The plans as they are."""
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Readers are made by hand, never found by a path."""
        return False


def _fill(stored: torch.Tensor, items: list[ReadItem], planner: LoadPlanner) -> None:
    with torch.no_grad():
        for item in items:
            part = stored[
                tuple(
                    slice(start, start + size) for start, size in zip(item.storage_offsets, item.lengths, strict=True)
                )
            ]
            target = planner.resolve_tensor(item).detach()
            target.copy_(part)
            planner.commit_tensor(item, target)


class _MetadataUnpickler(pickle.Unpickler):
    """Unpickles the metadata of a checkpoint and nothing that could run code: it may lie where others can write."""

    KNOWN = {
        "torch": {"Size"},
        "torch.serialization": {"_get_layout"},
        "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
        "torch.distributed.checkpoint.metadata": {
            *("Metadata", "MetadataIndex", "StorageMeta", "BytesStorageMetadata", "ChunkStorageMetadata"),
            *("TensorStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING"),
        },
    }

    def find_class(self, module: str, name: str) -> Any:
        if name in self.KNOWN.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        if module.partition(".")[0] == "pathlib" and name == "PosixPath":  # where it was written
            return PurePosixPath
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint holds")
