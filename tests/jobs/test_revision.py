import shutil
from pathlib import Path

import pytest

from jobs import revision
from jobs.revision import code_revision, imported_names

TREE = {
    "cluster/__init__.py": "",
    "cluster/storage.py": "import os\n",
    "cluster/unread.py": "",
    "jobs/__init__.py": '"""Jobs."""\n',
    "jobs/train.py": "from jobs.fit import fit\nimport torch\n",
    "jobs/fit.py": "def fit():\n    from cluster import storage\n",
    "jobs/prepare.py": "import jobs.features.columns\n",
    "jobs/features/__init__.py": "",
    "jobs/features/columns.py": "from jobs import prepare\n",
    "serving/app.py": "from jobs.train import fit\n",
}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small source tree that revisions are taken of."""
    for name, source in TREE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    monkeypatch.setattr(revision, "ROOT", tmp_path)
    return tmp_path


def fresh(module: str) -> str:
    """The revision of the files as they are now."""
    code_revision.cache_clear()
    digest = code_revision(module)
    code_revision.cache_clear()  # later tests take theirs of the real tree
    return digest


def changed_by(tree: Path, module: str, *paths: str) -> bool:
    """Whether one more byte in each of some files changes a module's revision."""
    before = fresh(module)
    for path in paths:
        with (tree / path).open("a") as stream:
            stream.write("\n")
    return fresh(module) != before


@pytest.mark.parametrize(
    "path", ["jobs/train.py", "jobs/fit.py", "cluster/storage.py", "jobs/__init__.py", "cluster/__init__.py"]
)
def test_a_byte_in_anything_imported_directly_or_not_changes_the_revision(tree: Path, path: str) -> None:
    assert changed_by(tree, "jobs.train", path)


@pytest.mark.parametrize(
    "path", ["jobs/prepare.py", "cluster/unread.py", "serving/app.py", "jobs/features/__init__.py"]
)
def test_a_byte_in_what_is_not_imported_leaves_the_revision(tree: Path, path: str) -> None:
    assert not changed_by(tree, "jobs.train", path)


@pytest.mark.parametrize("path", ["jobs/prepare.py", "jobs/features/columns.py", "jobs/features/__init__.py"])
def test_imports_that_go_round_in_a_circle_are_followed_once(tree: Path, path: str) -> None:
    assert changed_by(tree, "jobs.prepare", path)


def test_a_copied_tree_has_the_same_revision_from_any_folder(
    tree: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fresh("jobs.train")
    copy = tmp_path_factory.mktemp("uploaded") / "tree"
    shutil.copytree(tree, copy)
    monkeypatch.setattr(revision, "ROOT", copy)
    monkeypatch.chdir("/")
    assert fresh("jobs.train") == before


def test_only_our_own_absolute_imports_are_named() -> None:
    source = "import torch, jobs.fit as f\nfrom cluster import storage\nfrom pyarrow import fs\nfrom . import near\n"
    assert imported_names(source) == ["jobs.fit", "cluster", "cluster.storage"]


@pytest.mark.parametrize(
    ("module", "within", "without"),
    [
        ("jobs.train", ["cluster/storage.py", "jobs/fit.py", "jobs/workloads/recommender.py"], ["jobs/prepare.py"]),
        ("jobs.prepare", ["cluster/storage.py", "jobs/raw.py"], ["jobs/train.py", "jobs/fit.py"]),
    ],
)
def test_a_stage_depends_on_what_it_imports_and_on_nothing_of_serving(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, within: list[str], without: list[str]
) -> None:
    for package in revision.PACKAGES:
        shutil.copytree(revision.ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(revision, "ROOT", tmp_path)
    assert all(changed_by(tmp_path, module, path) for path in within)
    serving = [path.relative_to(tmp_path).as_posix() for path in (tmp_path / "serving").rglob("*.py")]
    assert serving
    assert not changed_by(tmp_path, module, *without, *serving)
