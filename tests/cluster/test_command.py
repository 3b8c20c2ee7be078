import subprocess
import sys

import pytest

CALL = "from cluster.command import run; from cluster.errors import DataError\n"


def run_code(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", CALL + code, *arguments], capture_output=True, text=True, check=False)


def test_the_exit_code_is_what_main_returns_for_its_arguments() -> None:
    assert run_code("run(lambda arguments: len(arguments))", "a", "b", "c").returncode == 3


def test_a_users_error_is_one_line_and_exit_code_2() -> None:
    ended = run_code("def main(_):\n raise DataError('no rows in raw/')\nrun(main)")
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", "rayline: no rows in raw/\n")


def test_a_users_error_is_found_below_a_wrapping_one() -> None:
    ended = run_code(
        "def main(_):\n"
        " try:\n  raise DataError('no rows')\n"
        " except DataError as error:\n  raise RuntimeError('task failed') from error\n"
        "run(main)"
    )
    assert (ended.returncode, ended.stderr) == (2, "rayline: no rows\n")


def test_a_bug_keeps_its_traceback() -> None:
    ended = run_code("def main(_):\n raise ZeroDivisionError\nrun(main)")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr


@pytest.mark.parametrize("code", ["def main(_):\n raise KeyboardInterrupt\nrun(main)"])
def test_ctrl_c_ends_with_130_and_no_traceback(code: str) -> None:
    ended = run_code(code)
    assert (ended.returncode, ended.stderr) == (130, "")
