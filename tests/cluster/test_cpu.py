import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.cpu import SLOW_SORT, numpy_environment, prepare_numpy

ROOT = Path(__file__).parents[2]


def cpu_info(vendor: str, family: int, flags: str) -> str:
    """Of two CPUs, shortened."""
    one = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 17\nflags\t\t: {flags}\n\n"
    return one * 2


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (cpu_info("AuthenticAMD", 25, "fpu avx2 avx512f"), SLOW_SORT),  # Zen 4
        (cpu_info("AuthenticAMD", 25, "fpu avx2"), {}),  # Zen 3
        (cpu_info("AuthenticAMD", 26, "fpu avx2 avx512f"), {}),  # Zen 5
        (cpu_info("GenuineIntel", 6, "fpu avx2 avx512f"), {}),
        ("processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd\n", {}),  # ARM
        ("", {}),
    ],
)
def test_zen_4_alone_sorts_by_avx2(given: str, wanted: dict[str, str]) -> None:
    assert numpy_environment(given) == wanted


def test_what_the_user_has_set_wins() -> None:
    environment = dict.fromkeys(SLOW_SORT, "")
    prepare_numpy(environment)
    assert set(environment.values()) == {""}


@pytest.mark.parametrize("module", ["cluster.storage", "jobs.prepare", "serving.app"])
def test_numpy_is_told_before_any_module_of_ours_imports_it(module: str) -> None:
    code = (
        f"import {module}, os, numpy._core._multiarray_umath as core\n"
        "print(os.environ.get('NPY_DISABLE_CPU_FEATURES', ''), core.__cpu_features__.get('X86_V4'), sep='|')"
    )
    environment = {name: value for name, value in os.environ.items() if name not in SLOW_SORT}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    wanted = numpy_environment().get("NPY_DISABLE_CPU_FEATURES", "")
    told, uses_it = done.stdout.strip().split("|")
    assert told == wanted, done.stderr
    assert not (wanted and uses_it == "True")
