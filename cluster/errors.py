"""Every error a user can cause.

    UserError                 exit code 2, message only, never a traceback
    ├── SpecError             the YAML or a key.path=value override
    ├── DataError             raw data: missing, empty, a column, too many bad rows
    ├── StorageError          a storage URI that cannot be read or written
    ├── RegistryError         an unknown version or alias, a version that fails its checksums
    ├── ReleaseError          traffic cannot be given to a version as asked
    ├── AccessError           keys cannot be read or changed as asked
    └── ClusterError          the Ray cluster cannot be started, reached or stopped

Each message names the value that was given, the rule it broke and the way out.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something the user can mend; `main()` prints it and exits with 2."""


class SpecError(UserError):
    """The spec file or an override is not valid."""


class DataError(UserError):
    """The raw data cannot be used as the spec describes it."""


class StorageError(UserError):
    """A storage URI cannot be read or written."""


class RegistryError(UserError):
    """A version or an alias cannot be used."""


class ReleaseError(UserError):
    """Traffic cannot be given to a version as asked; it stays as it was."""


class AccessError(UserError):
    """The keys of an application cannot be read or changed as asked."""


class ClusterError(UserError):
    """The Ray cluster cannot be started, reached or stopped."""


def nearest(given: str, valid: Iterable[str]) -> str:
    """The end of a message on an unknown name: the likeliest valid one, then all of them."""
    names = sorted(valid)
    close = get_close_matches(given, names, n=1, cutoff=0.5)
    guess = f"Did you mean '{close[0]}'? " if close else ""
    return f"{guess}Valid: {', '.join(names) or 'none'}."


def user_error_in(error: BaseException) -> UserError | None:
    """The UserError that a chain of wrapping errors (Ray tasks, Ray Data) was caused by, if any."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        current = waiting.pop()
        # Ray's own error of a task is of the cause's class too, but its text is the whole remote stack.
        if isinstance(current, UserError) and not isinstance(getattr(current, "cause", None), UserError):
            return current
        if id(current) in seen:
            continue
        seen.add(id(current))
        linked = (current.__cause__, current.__context__, getattr(current, "cause", None))
        waiting.extend(link for link in linked if isinstance(link, BaseException))
    return None
