from pathlib import Path

import pytest

from jobs.spec import RingSpec
from serving.release_id import release_ids
from tests.serving.conftest import make_spec


@pytest.fixture
def spec(tmp_path: Path) -> RingSpec:
    return make_spec(tmp_path)


def test_the_same_release_has_the_same_id(spec: RingSpec, tmp_path: Path) -> None:
    assert release_ids(spec)("v1") == release_ids(make_spec(tmp_path))("v1")


def test_another_version_storage_or_setting_is_another_release(spec: RingSpec, tmp_path: Path) -> None:
    ids = {
        release_ids(spec)("v1"),
        release_ids(spec)("v2"),
        release_ids(make_spec(tmp_path / "other"))("v1"),
        release_ids(make_spec(tmp_path, num_replicas=2))("v1"),
    }
    assert len(ids) == 4


def test_by_which_alias_a_version_was_named_makes_no_difference(spec: RingSpec, tmp_path: Path) -> None:
    assert release_ids(make_spec(tmp_path, version="v1", promote="never"))("v1") == release_ids(spec)("v1")
