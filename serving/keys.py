"""Keys: who may ask an application what, how often, and until when.

    python -m serving.keys STORAGE NAME create TENANT [--scopes predict,feedback] [--days 90]
    python -m serving.keys STORAGE NAME revoke KEY_ID
    python -m serving.keys STORAGE NAME limit TENANT [--requests-per-s 10] [--burst 20] [--requests-per-day 5000]
    python -m serving.keys STORAGE NAME list | audit | usage [DAY]

    access/<name>/log/<number>.json     what was done, by whom and when: never changed, each with the digest of the one
                                        before, so that none but the newest is altered or taken out unseen
    access/<name>/passes/<key>.json     of an operator's command, as long as it runs

A key is shown once, when it is made; storage has its SHA-256 alone. It has 192 random bits, so a slow hash would add
nothing. Replicas learn of a change within a second.
"""

import hashlib
import hmac
import secrets
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from getpass import getuser
from socket import gethostname
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError

from cluster.command import run
from cluster.errors import AccessError, nearest
from cluster.spec import Spec, check
from cluster.storage import Storage
from jobs.spec import RingSpec
from serving.limits import TenantLimits
from serving.usage import told as told_usage

Scope = Literal["predict", "feedback", "operate"]
SCOPES: tuple[Scope, ...] = ("predict", "feedback", "operate")
DAYS, MAX_DAYS = 90, 36500
PASS_S = 3600
READ_AGAIN_S = 0.1
"""A replica that is shown a key it does not know looks for new ones, unless it has done so within this time."""
OPERATOR = "operator"
"""The tenant of an operator's command."""
Tenant = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
NOBODY = bytes(32)
"""Compared with where there is no such key, so that the answer takes as long."""


class Key(Spec):
    """What is kept of a key."""

    key_id: str = Field(pattern=r"^[0-9a-f]{12}$")
    tenant: Tenant
    scopes: tuple[Scope, ...] = Field(min_length=1)
    sha256: str
    expires_at: str
    """ISO 8601."""

    def is_of(self, text: str) -> bool:
        """Whether this is the key, in a time that does not tell how far it fits."""
        return hmac.compare_digest(bytes.fromhex(self.sha256), _digest(text))

    def has_expired(self) -> bool:
        """Whether its time is over."""
        return datetime.fromisoformat(self.expires_at) <= datetime.now(UTC)


class Created(Spec):
    """A key was made."""

    action: Literal["create"] = "create"
    key: Key


class Revoked(Spec):
    """A key holds no longer."""

    action: Literal["revoke"] = "revoke"
    key_id: str


class Limited(Spec):
    """A tenant has other limits."""

    action: Literal["limit"] = "limit"
    tenant: Tenant
    limits: TenantLimits


class Entry(Spec):
    """One line of the log."""

    number: int
    made_at: str
    by: str
    """User and machine of whoever ran the command."""
    before: str
    """SHA-256 of the entry before, empty for the first."""
    what: Created | Revoked | Limited = Field(discriminator="action")


@dataclass(frozen=True)
class Grants:
    """What the log comes to."""

    number: int = 0
    sha256: str = ""
    keys: Mapping[str, Key] = field(default_factory=dict)
    """Of those that are not revoked, by id."""
    limits: Mapping[str, TenantLimits] = field(default_factory=dict)
    """By tenant."""

    def after(self, entry: Entry, content: bytes) -> "Grants":
        """What they are once an entry is added.

        Raises:
            AccessError: it does not follow on what was there.
        """
        if entry.number != self.number + 1 or entry.before != self.sha256:
            raise AccessError(
                f"entry {entry.number} of the log of keys does not follow entry {self.number}: one was changed or "
                "taken out. Find out by whom; the log of a backup brings the keys back"
            )
        done = replace(self, number=entry.number, sha256=hashlib.sha256(content).hexdigest())
        match entry.what:
            case Created(key=key):
                return replace(done, keys={**self.keys, key.key_id: key})
            case Revoked(key_id=key_id):
                return replace(done, keys={name: key for name, key in self.keys.items() if name != key_id})
            case Limited(tenant=tenant, limits=limits):
                return replace(done, limits={**self.limits, tenant: limits})


@dataclass(frozen=True)
class AccessLog:
    """What was done to the keys of one application in one storage."""

    storage: Storage
    name: str

    @property
    def _folder(self) -> str:
        return f"access/{self.name}/log"

    def entries(self, after: int = 0) -> Iterator[tuple[Entry, bytes]]:
        """Each entry with its bytes, oldest first.

        Raises:
            AccessError: a file of the log is no entry.
        """
        if not self.storage.exists(self._folder):
            return
        for info in self.storage.files(self._folder):
            number = info.base_name.partition(".")[0]
            if not number.isdecimal():
                raise AccessError(f"'{info.path}' is no entry of a log of keys; take it away")
            if int(number) <= after:
                continue
            with self.storage.open(str(info.path)) as file:
                content = bytes(file.read())
            try:
                yield Entry.model_validate_json(content), content
            except ValidationError as error:
                raise AccessError(f"'{info.path}' is no entry of a log of keys: {error}") from None

    def grants(self, known: Grants | None = None) -> Grants:
        """What holds now; entries that `known` has are not read again."""
        found = known or Grants()
        for entry, content in self.entries(found.number):
            found = found.after(entry, content)
        return found

    def add(self, what: Created | Revoked | Limited) -> None:
        """Add an entry.

        Raises:
            AccessError: somebody else added one meanwhile.
        """
        grants = self.grants()
        by, made_at = f"{getuser()}@{gethostname()}", datetime.now(UTC).isoformat(timespec="seconds")
        entry = Entry(number=grants.number + 1, made_at=made_at, by=by, before=grants.sha256, what=what)
        try:
            self.storage.create(f"{self._folder}/{entry.number:08d}.json", entry.model_dump_json(indent=1).encode())
        except FileExistsError:
            raise AccessError(f"somebody else changed the keys of '{self.name}' meanwhile; try again") from None

    def create(self, tenant: str, scopes: Sequence[Scope], lifetime: timedelta) -> str:
        """Make a key, and return it: it is not to be had again."""
        key, text = _new(tenant, scopes, lifetime)
        self.add(Created(key=key))
        return text

    def limit(self, tenant: str, limits: TenantLimits) -> None:
        """Give a tenant other limits.

        Raises:
            AccessError: they have a burst without a rate, which would limit nothing.
        """
        # Not a rule of TenantLimits itself: an entry that broke it before there was one must stay readable.
        if limits.burst is not None and limits.requests_per_s is None:
            raise AccessError(
                f"limits of {tenant}: burst={limits.burst} is how many requests of a rate may come at once, and there "
                "is no rate; give --requests-per-s too, or leave out --burst"
            )
        self.add(Limited(tenant=tenant, limits=limits))

    def revoke(self, key_id: str) -> None:
        """Let a key hold no longer.

        Raises:
            AccessError: there is no such key.
        """
        keys = self.grants().keys
        if key_id not in keys:
            raise AccessError(f"'{key_id}' is no key of '{self.name}'. {nearest(key_id, keys)}")
        self.add(Revoked(key_id=key_id))

    @contextmanager
    def operator_pass(self) -> Iterator[str]:
        """A key with all scopes, for as long as this goes on: whoever can write the storage operates what is in it."""
        key, text = _new(OPERATOR, SCOPES, timedelta(seconds=PASS_S))
        path = f"access/{self.name}/passes/{key.key_id}.json"
        for left in self.passes().values():  # by commands that were killed
            if left.has_expired():
                self.storage.remove(f"access/{self.name}/passes/{left.key_id}.json")
        self.storage.write(path, key.model_dump_json().encode())
        try:
            yield text
        finally:
            self.storage.remove(path)

    def passes(self) -> dict[str, Key]:
        """The operators' passes that there are, by id."""
        folder = f"access/{self.name}/passes"
        if not self.storage.exists(folder):
            return {}
        found = dict[str, Key]()
        for info in self.storage.files(folder):
            with suppress(FileNotFoundError):  # its command ended meanwhile
                key = Key.model_validate_json(self.storage.read(f"{folder}/{info.base_name}"))
                found[key.key_id] = key
        return found


@contextmanager
def operator_headers(spec: RingSpec, storage: Storage) -> Iterator[Mapping[str, str]]:
    """Headers that let an operator's requests to an application pass meanwhile; none where it is open."""
    if spec.serving.access == "open":
        yield {}
        return
    with AccessLog(storage, spec.name).operator_pass() as text:
        time.sleep(READ_AGAIN_S)  # from then on every replica that does not know it looks for it
        yield {"Authorization": f"Bearer {text}"}


def key_id_of(text: str) -> str:
    """The id in a key, empty where it has none."""
    start, _, rest = text.partition("_")
    key_id = rest.partition("_")[0]
    return key_id if start == "rl" and len(key_id) == 12 and set(key_id) <= set("0123456789abcdef") else ""


def compare_with_nothing(text: str) -> None:
    """As long as `Key.is_of` takes."""
    hmac.compare_digest(NOBODY, _digest(text))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _new(tenant: str, scopes: Sequence[Scope], lifetime: timedelta) -> tuple[Key, str]:
    key_id = secrets.token_hex(6)
    text = f"rl_{key_id}_{secrets.token_hex(24)}"
    expires_at = (datetime.now(UTC) + lifetime).isoformat(timespec="seconds")
    try:
        key = Key(key_id=key_id, tenant=tenant, scopes=tuple(scopes), sha256=_digest(text).hex(), expires_at=expires_at)
    except ValidationError as error:
        fault = error.errors()[0]
        raise AccessError(f"{fault['loc'][0]} {fault['input']!r}: {fault['msg']}") from None
    return key, text


def lifetime_of(days: float) -> timedelta:
    """How long a key holds that is made for so many days.

    Raises:
        AccessError: it would hold for no time, or longer than a hundred years.
    """
    if not 0 < days <= MAX_DAYS:  # nor is nan
        raise AccessError(f"--days {days:g}: a key holds for more than 0 and at most {MAX_DAYS} days; give 90, say")
    return timedelta(days=days)


def main(arguments: Sequence[str]) -> int:
    """Make, revoke and list keys, set limits, and show what was done and used."""
    given = _parse(arguments)
    log = AccessLog(Storage(given.storage), given.name)
    match given.command:
        case "create":
            text = log.create(given.tenant, given.scopes.split(","), lifetime_of(given.days))
            print(
                f"{text}\nis shown this once; give it to {given.tenant}: Authorization: Bearer KEY, or X-API-Key: KEY"
            )
        case "revoke":
            log.revoke(given.key_id)
            print(f"{given.key_id} holds no longer; replicas know within a second or two")
        case "limit":
            values = {key: value for key, value in vars(given).items() if key in TenantLimits.model_fields}
            limits = check(TenantLimits, values, f"limits of {given.tenant}")
            log.limit(given.tenant, limits)
            print(f"{given.tenant}: {_told_limits(limits)}")
        case "list":
            print("\n".join(_listed(log.grants())))
        case "audit":
            print("\n".join(_told_entry(entry) for entry, _ in log.entries()))
        case "usage":
            print("\n".join(told_usage(log.storage, log.name, given.day)))
    return 0


def _parse(arguments: Sequence[str]) -> Namespace:
    parser = ArgumentParser("python -m serving.keys", description="Who may ask an application what.")
    parser.add_argument("storage", metavar="STORAGE", help="of the ring, for example ~/rayline")
    parser.add_argument("name", metavar="NAME", help="of the application, for example recommender")
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="make a key")
    create.add_argument("tenant", metavar="TENANT")
    create.add_argument("--scopes", default="predict,feedback", help=f"of {','.join(SCOPES)}")
    create.add_argument("--days", type=float, default=DAYS, help=f"at most {MAX_DAYS}; {DAYS} unless given")
    commands.add_parser("revoke", help="let a key hold no longer").add_argument("key_id", metavar="KEY_ID")
    limit = commands.add_parser("limit", help="set a tenant's limits; what is not given is free")
    limit.add_argument("tenant", metavar="TENANT")
    limit.add_argument("--requests-per-s", type=float)
    limit.add_argument("--burst", type=int)
    limit.add_argument("--requests-per-day", type=int)
    commands.add_parser("list", help="the keys and limits that hold")
    commands.add_parser("audit", help="who did what, and when")
    usage = commands.add_parser("usage", help="what each key was used for")
    usage.add_argument("day", metavar="DAY", nargs="?", default=f"{datetime.now(UTC):%Y-%m-%d}", help="2026-01-31, UTC")
    return parser.parse_args(arguments)


def _listed(grants: Grants) -> list[str]:
    keys = sorted(grants.keys.values(), key=lambda key: (key.tenant, key.expires_at))
    lines = [
        f"{key.key_id}  {key.tenant:<20} {','.join(key.scopes):<26} "
        f"{'expired' if key.has_expired() else 'until'} {key.expires_at}"
        for key in keys
    ]
    lines += [f"{tenant}: {_told_limits(limits)}" for tenant, limits in sorted(grants.limits.items())]
    return lines or ["no keys; make one: create TENANT"]


def _told_limits(limits: TenantLimits) -> str:
    rules = [f"{limits.requests_per_s:g} requests a second, {limits.at_once} at once"] if limits.requests_per_s else []
    rules += [f"{limits.requests_per_day:,} requests a day"] if limits.requests_per_day else []
    return "; ".join(rules) or "no limits"


def _told_entry(entry: Entry) -> str:
    match entry.what:
        case Created(key=key):
            what = f"made {key.key_id} for {key.tenant}, {','.join(key.scopes)}, until {key.expires_at}"
        case Revoked(key_id=key_id):
            what = f"revoked {key_id}"
        case Limited(tenant=tenant, limits=limits):
            what = f"limited {tenant}: {_told_limits(limits)}"
    return f"{entry.number:>6}  {entry.made_at}  {entry.by}  {what}"


if __name__ == "__main__":
    run(main)
