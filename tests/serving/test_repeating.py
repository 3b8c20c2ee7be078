import threading
import time

from serving.repeating import repeat


def test_a_turn_that_fails_is_followed_by_the_next() -> None:
    turns, third = list[float](), threading.Event()

    def do() -> None:
        turns.append(time.monotonic())
        if len(turns) >= 3:
            third.set()
            return
        raise OSError("storage is away")

    began = time.monotonic()
    repeat(do, 0.05, "the turns of a test")
    assert third.wait(60)
    assert turns[0] - began >= 0.05
    assert [thread.daemon for thread in threading.enumerate() if thread.name == "the turns of a test"] == [True]
