"""The revision of a stage's code: a digest of its module and of all of ours that it imports.

Taken from the files and not from git, so that it also holds where a job runs on an uploaded copy, and so that a
change elsewhere in the repository does not make a stage run again.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cluster", "jobs", "serving")


@cache
def code_revision(module: str) -> str:
    """The digest, 12 hex digits, of `module` (such as "jobs.train") and what it imports."""
    digest = hashlib.sha256()
    for path in sorted(_closure(module)):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _closure(module: str) -> set[Path]:
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if path is not None and path not in found:
            found.add(path)
            waiting.extend(imported_names(path.read_text(encoding="utf-8")))
            if "." in name:
                waiting.append(name.rpartition(".")[0])  # importing it runs the packages above it first
    return found


def imported_names(source: str) -> list[str]:
    """Every dotted name that a module's import statements could mean, ours only."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] in PACKAGES]


def _file(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)
