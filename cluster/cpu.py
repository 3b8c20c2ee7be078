"""What NumPy is told about this machine's CPU before it is imported, when it reads that once.

Its AVX-512 sort stores what each step has sorted by an instruction that AMD's Zen 4 takes 140 cycles for, so there its
AVX2 sort is six times as fast (github.com/numpy/x86-simd-sort, issue 6).
"""

import os
import re
from collections.abc import MutableMapping
from pathlib import Path

SLOW_SORT = {"NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR"}
"""Names of NumPy 2.4 and later; earlier versions go on as they did."""
CPU_INFO = Path("/proc/cpuinfo")


def numpy_environment(cpu_info: str | None = None) -> dict[str, str]:
    """The variables to set on this machine, or on one with this `/proc/cpuinfo`."""
    if cpu_info is None:
        cpu_info = CPU_INFO.read_text() if CPU_INFO.exists() else ""
    told = dict(re.findall(r"^(vendor_id|cpu family|flags)\s*: (.*)$", cpu_info.partition("\n\n")[0], re.MULTILINE))
    is_zen_3_or_4 = (told.get("vendor_id"), told.get("cpu family")) == ("AuthenticAMD", "25")
    return SLOW_SORT if is_zen_3_or_4 and "avx512f" in told.get("flags", "").split() else {}


def prepare_numpy(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set them; a variable that the user has set himself wins."""
    for name, value in numpy_environment().items():
        environment.setdefault(name, value)
