"""How every `python -m ...` of Rayline ends: 0, or a message without a traceback and 2 for a user's error."""

import sys
from collections.abc import Callable, Sequence

from cluster.errors import user_error_in

USER_ERROR_CODE = 2
INTERRUPTED_CODE = 130


def run(main: Callable[[Sequence[str]], int]) -> None:
    """Call `main` with the command line's arguments and exit with what it returns."""
    try:
        code = main(sys.argv[1:])
    except KeyboardInterrupt:
        code = INTERRUPTED_CODE
    except Exception as error:
        known = user_error_in(error)
        if known is None:
            raise
        print(f"rayline: {known}", file=sys.stderr)
        code = USER_ERROR_CODE
    sys.exit(code)
