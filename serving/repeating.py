"""What a replica does again and again beside its answers."""

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


def repeat(do: Callable[[], object], every_s: float, what: str) -> None:
    """Do something after every pause from now on, in a thread that lives as long as the process.

    A failure is logged and the next turn comes nonetheless: storage may be away for a while.

    Args:
        what: names the thread, and in the log what failed.
    """

    def turns() -> None:
        while True:
            time.sleep(every_s)
            try:
                do()
            except Exception:
                log.exception("%s: failed, and is tried again in %g s", what, every_s)

    threading.Thread(target=turns, name=what, daemon=True).start()
