from pathlib import Path
from typing import Any

import pytest

from cluster.errors import RegistryError
from cluster.registry import Registry
from serving.published import Published


class Answering(Published):
    """Counts how often its golden rows were asked for, and refuses where it is told to."""

    refuses = False
    num_checks = 0

    def check_golden(self) -> None:
        type(self).num_checks += 1
        if self.refuses:
            raise RegistryError("other answers")


def test_a_version_is_loaded_with_what_it_says_of_itself_once_its_golden_rows_were_asked(loans: Any) -> None:
    storage, spec, version = loans
    registry = Registry(storage, spec.name)
    loaded = Answering.load(registry, version)
    assert Answering.num_checks == 1
    assert (loaded.version, loaded.created_at) == (version, registry.manifest(version)["created_at"])
    assert loaded.spec.workload == spec.workload
    assert set(loaded.metrics) == {"accuracy", "log_loss"}


def test_one_that_answers_otherwise_is_not_loaded(loans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, spec, version = loans
    monkeypatch.setattr(Answering, "refuses", True)
    with pytest.raises(RegistryError, match="other answers"):
        Answering.load(Registry(storage, spec.name), version)


def test_a_file_that_was_changed_since_is_refused_before_anything_is_asked(loans: Any) -> None:
    storage, spec, version = loans
    path = Path(storage.path(f"models/{spec.name}/{version}/metrics.json"))
    content, before = path.read_bytes(), Answering.num_checks
    path.write_bytes(content + b" ")
    try:
        with pytest.raises(RegistryError):
            Answering.load(Registry(storage, spec.name), version)
    finally:
        path.write_bytes(content)
    assert Answering.num_checks == before
