"""The shape of the code: who imports whom, where tests lie, what names say, and that importing is free."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "jobs", "serving")
STAGES = ("prepare", "tune", "train", "compress", "export", "collect", "pipeline")
BANNED = {
    *("util", "helper", "common", "misc", "base", "core"),
    *("manager", "handler", "processor", "wrapper", "engine"),
}

# A module belongs to one group; it may import what stands beside its group: groups, or single modules.
BELOW_STAGES = {"cluster", "jobs.features", "jobs.workloads", "jobs.parallel", "jobs.search", "library"}
MAY_IMPORT = {
    "cluster": {"cluster"},
    "jobs.features": {"cluster.spec", "cluster.errors", "jobs.features"},
    "jobs.workloads": {"cluster.spec", "cluster.errors", "jobs.features", "jobs.workloads"},
    "jobs.parallel": {"cluster", "jobs.parallel", "jobs.workloads.chain", "jobs.workloads.partition"},
    "jobs.search": {"cluster", "jobs.parallel", "jobs.workloads", "jobs.spec", "jobs.search"},
    "library": BELOW_STAGES,
    "stage": BELOW_STAGES,
    "serving": {"cluster", "jobs.features", "jobs.workloads", "jobs.revision", "jobs.spec", "jobs.version", "serving"},
}
MAY_IMPORT_BESIDES = {
    "jobs.search.__main__": {
        *("jobs.calibration", "jobs.error_record", "jobs.fit", "jobs.known_devices", "jobs.layout_forecast"),
        *("jobs.lineage", "jobs.report.plan_page"),
    },
    "jobs.tune": {"jobs.train"},
    "jobs.pipeline": {*(f"jobs.{stage}" for stage in STAGES), "serving.app"},
}
WITHOUT_RAY = ("cluster", "jobs.features", "jobs.workloads")
WITH_RAY_NONETHELESS = ("cluster.lifecycle", "cluster.reservation", "cluster.scaling")

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def group(module: str) -> str:
    package, _, rest = module.partition(".")
    part = rest.partition(".")[0]
    if package != "jobs":
        return package
    if part in STAGES:
        return "stage"
    return f"jobs.{part}" if f"jobs.{part}" in MAY_IMPORT else "library"


def imported(source: str, module: str, known: set[str]) -> set[str]:
    """Every module that the source names in an import, wherever in it; `from a import b` is a.b where that is one."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = (
                module if known & {f"{module}.{alias.name}" for alias in node.names} else module.rpartition(".")[0]
            )
            origin = resolve_name("." * node.level + (node.module or ""), package)
            inner = {alias.name: f"{origin}.{alias.name}" for alias in node.names}
            names |= {full if full in known else origin for full in inner.values()}
    return names


def forbidden_imports(source: str, module: str, known: set[str]) -> list[str]:
    allowed = MAY_IMPORT[group(module)] | MAY_IMPORT_BESIDES.get(module, set()) | {module}
    found = []
    for name in sorted(imported(source, module, known)):
        top = name.partition(".")[0]
        if top in PACKAGES and name not in allowed and group(name) not in allowed:
            found.append(f"{module} imports {name}")
        if top == "ray" and group(module) in WITHOUT_RAY and module not in WITH_RAY_NONETHELESS:
            found.append(f"{module} imports {name}")
    return found


def unexplained_imports(source: str) -> list[int]:
    """The lines of imports in functions that no comment there, or on the line above, explains."""
    lines = source.splitlines()
    functions = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    inner = {
        node.lineno: node.end_lineno or node.lineno
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    return sorted(
        start
        for start, end in inner.items()
        if not lines[start - 2].lstrip().startswith("#") and not any("#" in line for line in lines[start - 1 : end])
    )


def badly_named(source: str, path: Path) -> list[str]:
    """The file's name, and its functions and classes, where a word of them says nothing."""
    named = [path.stem] + [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    return [name for name in named if any(word in BANNED or word.removesuffix("s") in BANNED for word in words(name))]


def words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def holds_logic(source: str) -> bool:
    """Whether a function in it does something, rather than declare what others do."""
    return any(
        not isinstance(statement, ast.Pass)
        and not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for statement in node.body
    )


def mirrored_test(path: Path) -> Path:
    """Where the tests of a module lie, both relative to the root."""
    return Path("tests") / path.parent / f"test_{path.stem.strip('_')}.py"


# Runs in a process of its own: imports the modules it is given and prints what that did besides.
EFFECTS = """
import importlib, json, multiprocessing, os, sys, threading
seen = []
events = {"socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen", "os.fork", "os.posix_spawn"}
def note(event, arguments):
    is_probe = event == "socket.bind" and arguments[1] == ("::1", 0)  # how urllib3 finds out about IPv6
    if event in events and not is_probe:
        seen.append(f"{event} {arguments[:2]}")
sys.addaudithook(note)
for name in sys.argv[1:]:
    importlib.import_module(name)
seen += [f"thread {thread.name}" for thread in threading.enumerate() if thread is not threading.main_thread()]
seen += [f"process {child.name}" for child in multiprocessing.active_children()]
if "ray" in sys.modules and sys.modules["ray"].is_initialized():
    seen.append("ray is initialised")
print(json.dumps(seen))
"""


def effects_of_importing(modules: list[str], folder: Path, *path: str) -> list[str]:
    """What importing these does besides: files written below `folder`, threads, processes, connections."""
    places = {name: folder / name for name in ("home", "cwd", "tmp")}
    for place in places.values():
        place.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(places["home"]), "TMPDIR": str(places["tmp"]), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), *path))
    command = [sys.executable, "-c", EFFECTS, *modules]
    done = subprocess.run(command, cwd=places["cwd"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    effects: list[str] = json.loads(done.stdout.splitlines()[-1])
    return effects + [f"wrote {file.relative_to(folder)}" for place in places.values() for file in place.rglob("*")]


def packaged(*suffixes: str) -> Iterator[Path]:
    for folder in (*PACKAGES, "tests", "benchmarks"):
        yield from (path for path in sorted((ROOT / folder).rglob("*")) if path.suffix in suffixes)


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_table_of_the_design(module: str) -> None:
    assert forbidden_imports(MODULES[module].read_text(), module, set(MODULES)) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("cluster.storage", "from jobs.spec import RingSpec"),
        ("cluster.storage", "import ray"),
        ("cluster.storage", "def f():\n    from ray.data import Dataset"),
        ("jobs.features.split", "import ray.data"),
        ("jobs.features.split", "from cluster.storage import Storage"),
        ("jobs.features.split", "from cluster import storage"),
        ("jobs.features.split", "from jobs import workloads"),
        ("jobs.workloads.recommender", "from cluster.registry import Registry"),
        ("jobs.workloads", "import jobs.spec"),
        ("jobs.parallel.replicate", "from jobs.spec import RingSpec"),
        ("jobs.search.space", "from jobs import tune"),
        ("jobs.version", "from jobs.train import run"),
        ("jobs.train", "from jobs import tune"),
        ("jobs.train", "from . import tune"),
        ("jobs.train", "from serving.app import build"),
        ("jobs.prepare", "import jobs.pipeline"),
        ("serving.app", "from jobs import train"),
        ("serving.app", "from jobs.raw import read_blocks"),
    ],
)
def test_an_import_against_the_table_is_found(module: str, line: str) -> None:
    assert forbidden_imports(line, module, {*MODULES, "jobs.tune", "jobs.train", "jobs.pipeline"})


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("cluster.lifecycle", "import ray"),
        ("jobs.tune", "from jobs.train import run"),
        ("jobs.pipeline", "from jobs import prepare, train"),
        ("jobs.pipeline", "from serving.app import build"),
        ("serving.app", "from jobs import version"),
        ("jobs.features.split", "from rayon import ray"),
    ],
)
def test_an_import_by_the_table_is_let_through(module: str, line: str) -> None:
    assert forbidden_imports(line, module, {*MODULES, "jobs.prepare", "jobs.train"}) == []


@pytest.mark.parametrize("module", MODULES)
def test_an_import_in_a_function_says_why(module: str) -> None:
    assert unexplained_imports(MODULES[module].read_text()) == []


def test_an_unexplained_import_in_a_function_is_found() -> None:
    source = (
        "import a\ndef f():\n    import b\n    # slow\n    import c\n    from d import (  # slow\n        e,\n    )\n"
    )
    assert unexplained_imports(source) == [3]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_test_file_of_its_own(module: str) -> None:
    path = MODULES[module].relative_to(ROOT)
    if path.stem != "__init__" or holds_logic(MODULES[module].read_text()):
        assert (ROOT / mirrored_test(path)).is_file(), f"{mirrored_test(path)} is missing"


def test_the_test_file_of_a_module_has_its_path_and_name() -> None:
    assert mirrored_test(Path("jobs/features/split.py")) == Path("tests/jobs/features/test_split.py")
    assert mirrored_test(Path("cluster/__main__.py")) == Path("tests/cluster/test_main.py")
    assert mirrored_test(Path("jobs/workloads/__init__.py")) == Path("tests/jobs/workloads/test_init.py")


def test_only_a_package_file_that_declares_needs_no_test() -> None:
    declares = (
        'from a import b\nclass C:\n    x: int\n    def f(self) -> None:\n        """What it promises."""\nD = {1: b}\n'
    )
    assert not holds_logic(declares)
    assert holds_logic(declares + "def g():\n    return 1\n")


@pytest.mark.parametrize("path", list(packaged(".py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_names_say_something(path: Path) -> None:
    assert badly_named(path.read_text(), path) == []


def test_an_empty_name_is_found() -> None:
    bad = ["class DataManager", "class IOEngine", "def get_utils()", "async def base_url()"]
    source = "".join(f"{head}: ...\n" for head in [*bad, "def databases()", "class Scored"])
    found = badly_named(source, Path("jobs/common.py"))
    assert found == ["common", "DataManager", "IOEngine", "get_utils", "base_url"]


def test_importing_everything_starts_nothing_and_writes_nothing(tmp_path: Path) -> None:
    assert effects_of_importing(list(MODULES), tmp_path) == []


@pytest.mark.parametrize(
    ("line", "effect"),
    [
        ("open('left.txt', 'w').close()", "wrote cwd/left.txt"),
        ("import pathlib; (pathlib.Path.home() / '.left').mkdir()", "wrote home/.left"),
        ("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()", "thread Thread-1"),
        ("import subprocess; subprocess.run(['true'])", "subprocess.Popen"),
        ("import socket; socket.socket().connect_ex(('127.0.0.1', 9))", "socket.connect"),
    ],
)
def test_an_effect_of_importing_is_found(tmp_path: Path, line: str, effect: str) -> None:
    (tmp_path / "planted.py").write_text(line)
    assert any(found.startswith(effect) for found in effects_of_importing(["planted"], tmp_path, str(tmp_path)))
