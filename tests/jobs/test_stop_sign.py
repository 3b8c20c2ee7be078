from pathlib import Path

from jobs.parallel.collectives import rank
from jobs.stop_sign import StopSign
from tests.jobs.parallel.workers import run_together


class Clock:
    """Moved by hand."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def looks_of(step_s: float, num_steps: int) -> list[int]:
    """The steps after which the sign was looked at, where each takes so long."""
    clock, looks = Clock(), []
    step = 0

    def is_up() -> bool:
        looks.append(step)
        return False

    sign = StopSign(is_up, clock)
    for step in range(1, num_steps + 1):  # noqa: B007  # read by `is_up`
        clock.now_s += step_s
        assert not sign.seen()
    return looks


def test_long_steps_are_each_followed_by_a_look() -> None:
    assert looks_of(2.0, 5) == [1, 2, 3, 4, 5]


def test_of_short_steps_about_one_a_second_is_followed_by_a_look() -> None:
    looks = looks_of(0.01, 1000)
    assert looks[:4] == [1, 3, 7, 15]
    assert [later - looks[place] for place, later in enumerate(looks[1:])][-3:] == [100, 100, 100]


def test_steps_that_take_no_time_at_all_are_looked_after_ever_more_rarely_but_for_ever() -> None:
    assert looks_of(0.0, 100) == [1, 3, 7, 15, 31, 63]


def stop_together(folder: Path) -> None:
    """The first worker alone sees the sign, after the third step; the other one's is always up."""
    step = 0
    sign = StopSign(lambda: bool(rank()) or step >= 3)
    while True:
        step += 1
        if sign.seen():
            break
    (folder / str(rank())).write_text(str(step))


def test_all_workers_stop_after_the_same_step_by_what_the_first_one_sees(tmp_path: Path) -> None:
    run_together(2, stop_together, tmp_path)
    stopped = {int((tmp_path / str(each)).read_text()) for each in range(2)}
    assert len(stopped) == 1
    assert stopped.pop() >= 3
