"""S3 as a pyarrow filesystem; its keys come from the usual chain or from a named profile, never from the URI."""

import os
from configparser import ConfigParser
from configparser import Error as ConfigError
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from pyarrow import fs

OPTIONS = ("allow_bucket_creation", "allow_bucket_deletion", "endpoint_override", "profile", "region", "scheme")
KEYS_FROM = (
    "Keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, from ~/.aws/credentials, from the machine's role, "
    "or from a profile that the URI names: ?profile=NAME"
)


def without_keys(uri: str) -> str:
    """The URI as it may be shown: what stands before an @ in its host, and any option that is unknown, are left out."""
    place, slash, rest = uri.partition("://")[2].partition("/")
    if "@" in uri.partition("?")[0]:
        place, slash, rest = "...@" + uri.rpartition("@")[2].partition("?")[0], "", ""
    path, mark, query = f"{place}{slash}{rest}".partition("?")
    shown = [(name, value if name in OPTIONS else "...") for name, value in parse_qsl(query)]
    return f"s3://{path}{mark}{urlencode(shown)}"


def open_s3(uri: str) -> tuple[fs.S3FileSystem, str]:
    """The filesystem and the path on it of `s3://bucket/prefix`, with options such as `?endpoint_override=host:port`.

    Raises:
        ValueError: the URI is not of that form, holds keys, or names a profile that is not there.
    """
    parts = urlsplit(uri)
    if "@" in uri.partition("?")[0]:
        raise ValueError(f"it holds access keys, and is printed and stored as it is; take them out. {KEYS_FROM}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise ValueError(f"option '{unknown[0]}' is unknown. Valid: {', '.join(OPTIONS)}. {KEYS_FROM}")
    if parts.fragment:
        raise ValueError("'#' in it begins what is no part of a path; write it as %23")
    profile = options.pop("profile", None)
    if profile is None:
        filesystem, path = fs.FileSystem.from_uri(uri)
        return filesystem, str(path)
    return _with_profile(_keys(profile), options, parts.netloc), unquote(parts.netloc + parts.path)


def _with_profile(keys: dict[str, str], options: dict[str, str], bucket: str) -> fs.S3FileSystem:
    may = {name: options.pop(name, "false") == "true" for name in ("allow_bucket_creation", "allow_bucket_deletion")}
    if not options.keys() & {"region", "endpoint_override"}:
        options["region"] = fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(
        access_key=keys["aws_access_key_id"],
        secret_key=keys["aws_secret_access_key"],
        session_token=keys.get("aws_session_token"),
        **options,
        **may,
    )


def _keys(profile: str) -> dict[str, str]:
    path = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    parser = ConfigParser(interpolation=None)
    try:
        parser.read(path)
    except (ConfigError, ValueError):  # whose message shows lines of the file
        raise ValueError(f"'{path}', where its profile should be, is no file of [profile] sections; mend it") from None
    if profile not in parser or not {"aws_access_key_id", "aws_secret_access_key"} <= set(parser[profile]):
        known = ", ".join(parser.sections()) or "none"
        raise ValueError(
            f"profile '{profile}' has no aws_access_key_id and aws_secret_access_key in '{path}', it has: {known}"
        )
    return dict(parser[profile])
