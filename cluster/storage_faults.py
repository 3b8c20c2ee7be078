"""What a person can mend when a storage refuses: a full disk, wrong keys, a bucket that is not there."""

import errno
import re
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from cluster.errors import StorageError
from cluster.s3 import KEYS_FROM

WRONG_KEYS = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|INVALID_SIGNATURE|SignatureDoesNotMatch|InvalidAccessKeyId|HTTP status 403"
)
NO_BUCKET = re.compile(r"AWS Error NO_SUCH_BUCKET|NoSuchBucket|[Bb]ucket '?[^' ]*'? (not found|does not exist)")
UNKEPT = re.compile(r"^a DataNode kept .* bytes$")
QUOTA = re.compile(r"(?:NS|DS|)QuotaExceeded|quota .* is exceeded")
FULL = {
    errno.ENOSPC: "there is no space left on its disk",
    errno.EDQUOT: "its disk quota is used up",
    errno.EFBIG: "the file would be larger than the limit on files here",
}


class _HasUri(Protocol):
    @property
    def uri(self) -> str:
        """Of the storage."""


Given = ParamSpec("Given")
Result = TypeVar("Result")
Of = TypeVar("Of", bound=_HasUri)


def explained(method: Callable[Concatenate[Of, Given], Result]) -> Callable[Concatenate[Of, Given], Result]:
    """A method of a storage that raises StorageError where a person has to mend the storage."""

    @wraps(method)
    def explaining(self: Of, /, *args: Given.args, **kwargs: Given.kwargs) -> Result:
        try:
            return method(self, *args, **kwargs)
        except OSError as error:
            told = fault(error)
            if told is None:
                raise
            raise StorageError(f"storage '{self.uri}' {told}") from None

    return explaining


def fault(error: OSError) -> str | None:
    """What is wrong and the way out, if it is for a person to mend."""
    text = str(error)
    if error.errno in FULL:
        return (
            f"cannot be written: {FULL[error.errno]}. Free some, raise the limit, or give another: storage=PATH_OR_URI"
        )
    if QUOTA.search(text):
        return f"cannot be written: its quota is used up ({text}). Raise the quota, or remove what is not needed"
    if UNKEPT.search(text):
        return f"cannot be written: its quota is used up or its disks are full ({text}). Raise the quota, or free some"
    if NO_BUCKET.search(text):
        return "cannot be used: there is no such bucket. Make it, or name one that is there: storage=s3://BUCKET/PREFIX"
    if "AWS Error" in text and WRONG_KEYS.search(text):
        return f"cannot be used: the server refuses the keys (ACCESS_DENIED) or what they may do. {KEYS_FROM}"
    return None
