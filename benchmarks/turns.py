"""Two groups of processes on one machine that work in turn, so that a comparison meets the same noise on both sides."""

import time
from collections.abc import Iterator
from pathlib import Path

POLL_S = 0.01
END = "end"


def my_turns(folder: Path, names: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """The number and name of every turn that one of these names is given, until `end_turns`."""
    seen = -1
    while True:
        number, _, name = _read(folder).partition(" ")
        if name == END:
            return
        if name in names and int(number) > seen:
            seen = int(number)
            yield seen, name
        else:
            time.sleep(POLL_S)


def tell(folder: Path, number: int, seconds: float) -> None:
    """Say what a turn took."""
    _write(folder / f"{number}.turn", repr(seconds))


def give_turn(folder: Path, number: int, name: str, timeout_s: float) -> float:
    """What a turn took that this name is given.

    Raises:
        TimeoutError: nobody took it.
    """
    _write(folder / "turn", f"{number} {name}")
    ends = time.monotonic() + timeout_s
    while not (told := folder / f"{number}.turn").exists():
        if time.monotonic() > ends:
            raise TimeoutError(f"{name} took no turn within {timeout_s:g} s")
        time.sleep(POLL_S)
    return float(told.read_text())


def end_turns(folder: Path) -> None:
    """Let everybody leave."""
    _write(folder / "turn", f"0 {END}")


def _read(folder: Path) -> str:
    try:
        return (folder / "turn").read_text()
    except FileNotFoundError:
        return ""


def _write(path: Path, text: str) -> None:
    """All at once, for others read it at any moment."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.rename(path)
