import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import AccessError, SpecError
from cluster.storage import Storage
from serving.keys import AccessLog, Key, Limited, key_id_of, main, operator_headers
from serving.limits import TenantLimits

DAY = timedelta(days=1)


@pytest.fixture
def log(tmp_path: Path) -> AccessLog:
    return AccessLog(Storage(str(tmp_path)), "films")


def files(log: AccessLog) -> list[Path]:
    return sorted(Path(log.storage.path("access/films/log")).iterdir())


def test_a_key_is_kept_as_its_digest_alone(log: AccessLog) -> None:
    text = log.create("acme", ["predict"], DAY)
    (key,) = log.grants().keys.values()
    assert key.is_of(text)
    assert not key.is_of(text[:-1] + ("0" if text[-1] != "0" else "1"))
    assert (key.tenant, key.scopes, key.has_expired()) == ("acme", ("predict",), False)
    assert key_id_of(text) == key.key_id
    secret = text.rpartition("_")[2]
    assert len(secret) == 48
    assert all(secret not in path.read_text() for path in files(log))


def test_two_keys_are_never_the_same(log: AccessLog) -> None:
    assert len({log.create("acme", ["predict"], DAY) for _ in range(20)}) == 20


def test_a_revoked_key_is_gone_and_the_rest_holds(log: AccessLog) -> None:
    first, second = log.create("acme", ["predict"], DAY), log.create("acme", ["feedback"], DAY)
    known = log.grants()
    log.revoke(key_id_of(first))
    assert list(log.grants().keys) == [key_id_of(second)]
    assert log.grants(known) == log.grants()
    with pytest.raises(AccessError, match=rf"'{key_id_of(first)}' is no key of 'films'. .*{key_id_of(second)}"):
        log.revoke(key_id_of(first))


def test_the_last_limits_hold(log: AccessLog) -> None:
    for rate in (1.0, 2.0):
        log.add(Limited(tenant="acme", limits=TenantLimits(requests_per_s=rate)))
    assert log.grants().limits == {"acme": TenantLimits(requests_per_s=2.0)}


@pytest.mark.parametrize("harm", ["change", "remove"])
def test_an_entry_that_is_changed_or_taken_out_is_found(log: AccessLog, harm: str) -> None:
    for tenant in ("acme", "bolt", "cord"):
        log.create(tenant, ["predict"], DAY)
    second = files(log)[1]
    if harm == "remove":
        second.unlink()
    else:
        second.write_text(second.read_text().replace("predict", "operate"))
    with pytest.raises(AccessError, match=r"of the log of keys does not follow .* one was changed or taken out"):
        log.grants()


def test_what_is_no_entry_is_named(log: AccessLog) -> None:
    log.create("acme", ["predict"], DAY)
    files(log)[0].write_text("{}")
    with pytest.raises(AccessError, match=r"00000001\.json' is no entry of a log of keys"):
        log.grants()


def test_an_expired_key_says_so(log: AccessLog) -> None:
    log.create("acme", ["predict"], -DAY)
    (key,) = log.grants().keys.values()
    assert key.has_expired()


@pytest.mark.parametrize(
    ("tenant", "scopes", "message"),
    [
        ("acme corp", ["predict"], "tenant 'acme corp': String should match pattern"),
        ("acme", ["root"], "scopes 'root': Input should be 'predict', 'feedback' or 'operate'"),
        ("acme", [], r"scopes \(\): .*at least 1 item"),
    ],
)
def test_keys_that_say_nothing_are_refused(log: AccessLog, tenant: str, scopes: Any, message: str) -> None:
    with pytest.raises(AccessError, match=message):
        log.create(tenant, scopes, DAY)


def test_an_operators_pass_is_there_as_long_as_its_command(log: AccessLog) -> None:
    with log.operator_pass() as text:
        (key,) = log.passes().values()
        assert key.is_of(text)
        assert key.scopes == ("predict", "feedback", "operate")
    assert log.passes() == {}
    assert log.grants().keys == {}


def test_what_is_no_file_of_the_log_is_named(log: AccessLog) -> None:
    log.create("acme", ["predict"], DAY)
    (files(log)[0].parent / "notes.json").write_text("{}")
    with pytest.raises(AccessError, match=r"notes\.json' is no entry of a log of keys; take it away"):
        log.grants()


def test_passes_that_killed_commands_left_are_taken_away_once_expired(
    log: AccessLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.keys.PASS_S", -1)
    killed = log.operator_pass()
    killed.__enter__()
    assert len(log.passes()) == 1
    monkeypatch.undo()
    with log.operator_pass() as text:
        (key,) = log.passes().values()
        assert key.is_of(text)


def test_an_open_application_needs_no_pass(published: Any) -> None:
    with operator_headers(published.spec, published.storage) as headers:
        assert headers == {}


@pytest.mark.parametrize("text", ["", "rl_", "rl_0123456789ab", "rl_0123456789AB_x", "sk_0123456789ab_x", "rl_é_x"])
def test_what_has_no_id_is_no_key(text: str) -> None:
    assert key_id_of(text) in ("", "0123456789ab")
    assert isinstance(key_id_of(text * 1000), str)


def test_the_command_line_makes_limits_lists_revokes_and_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = (str(tmp_path), "films")

    def said(*arguments: str) -> str:
        assert main([*at, *arguments]) == 0
        return capsys.readouterr().out

    assert said("list") == "no keys; make one: create TENANT\n"
    text = said("create", "acme", "--scopes", "predict", "--days", "7").splitlines()[0]
    limited = said("limit", "acme", "--requests-per-s", "10", "--requests-per-day", "5000")
    assert limited == "acme: 10 requests a second, 10 at once; 5,000 requests a day\n"
    listed = said("list")
    assert re.search(rf"{key_id_of(text)}  acme +predict +until \d{{4}}-", listed)
    assert text not in listed
    said("revoke", key_id_of(text))
    told = said("audit").splitlines()
    assert [line.split()[3] for line in told] == ["made", "limited", "revoked"]
    assert "@" in told[0].split()[2]
    assert said("usage").startswith("tenant")
    with pytest.raises(SpecError, match="requests_per_s"):
        main([*at, "limit", "acme", "--requests-per-s", "-1"])


@pytest.mark.parametrize("others", [[], ["--requests-per-day", "5000"]])
def test_a_burst_without_a_rate_is_refused_and_the_limits_before_hold(log: AccessLog, others: list[str]) -> None:
    log.limit("acme", TenantLimits(requests_per_s=10))
    with pytest.raises(AccessError, match=r"limits of acme: burst=20 .* there is no rate; give --requests-per-s too"):
        main([log.storage.uri, "films", "limit", "acme", "--burst", "20", *others])
    assert log.grants().limits == {"acme": TenantLimits(requests_per_s=10)}


def test_a_log_with_a_burst_without_a_rate_of_before_stays_readable(log: AccessLog) -> None:
    log.add(Limited(tenant="acme", limits=TenantLimits(burst=20)))
    assert log.grants().limits == {"acme": TenantLimits(burst=20)}


@pytest.mark.parametrize("days", ["0", "-1", "1e10", "36501", "nan", "inf"])
def test_a_key_for_no_time_or_for_ever_is_refused(log: AccessLog, days: str) -> None:
    with pytest.raises(AccessError, match=r"--days \S+: a key holds for more than 0 and at most 36500 days; give"):
        main([log.storage.uri, "films", "create", "acme", "--days", days])
    assert log.grants().keys == {}


def test_the_digest_of_a_key_is_that_of_sha_256(log: AccessLog) -> None:
    # FIPS 180-4, of "abc"
    key = Key(
        key_id="0" * 12,
        tenant="acme",
        scopes=("predict",),
        sha256="ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        expires_at="2999-01-01T00:00:00+00:00",
    )
    assert key.is_of("abc")
    assert json.loads(key.model_dump_json())["tenant"] == "acme"
