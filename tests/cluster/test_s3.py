"""Storage on a real S3 server, and what its URI may say."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.errors import StorageError
from cluster.s3 import without_keys
from cluster.storage import Storage
from tests.cluster.test_storage import visible
from tests.s3 import CREDENTIALS, S3Server

SECRET = "s3cret-of-a-user"
NAMES = ("with space", "ünïcode", "per%20cent", "q?m=1#x;y")


@pytest.mark.parametrize("uri", [f"s3://AK:{SECRET}@b/p", f"s3://AK:{SECRET}/x@b/p?region=x", f"s3://AK:{SECRET}@/p"])
def test_keys_in_the_uri_are_refused_and_not_shown(uri: str) -> None:
    with pytest.raises(
        StorageError, match=r"holds access keys.*take them out\. Keys come from .*\?profile=NAME"
    ) as told:
        Storage(uri).check_writable()
    assert SECRET not in str(told.value)
    assert "AK" not in str(told.value).replace("TAKE", "")


def test_an_unknown_option_is_refused_and_its_value_is_not_shown() -> None:
    uri = f"s3://b/p?secret_key={SECRET}&region=here"
    with pytest.raises(StorageError, match=r"option 'secret_key' is unknown\. Valid: allow_bucket_creation") as told:
        Storage(uri).check_writable()
    assert SECRET not in str(told.value)
    assert without_keys(uri) == "s3://b/p?secret_key=...&region=here"


def test_a_profile_that_is_not_there_names_those_that_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    with pytest.raises(StorageError, match=f"profile 'team' has no .* in '{credentials}', it has: none"):
        Storage("s3://b/p?profile=team").check_writable()
    credentials.write_text(f"[other]\naws_secret_access_key = {SECRET}\n")
    with pytest.raises(StorageError, match="it has: other") as told:
        Storage("s3://b/p?profile=other2").check_writable()
    assert SECRET not in str(told.value)
    credentials.write_text(f"{SECRET}\n")
    with pytest.raises(StorageError, match=r"is no file of \[profile\] sections; mend it") as told:
        Storage("s3://b/p?profile=other").check_writable()
    assert SECRET not in str(told.value)


@pytest.mark.services
def test_a_profile_opens_what_the_environment_cannot_and_its_secret_stays_in_its_file(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, secret = CREDENTIALS.values()
    credentials = tmp_path / "credentials"
    credentials.write_text(f"[team]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    storage = Storage(f"{s3.storage('profile').uri}&profile=team")
    storage.check_writable()
    storage.publish(tmp_path, "prepared/empty", {"storage": storage.uri})
    assert secret.encode() not in pickle.dumps(storage)
    assert secret.encode() not in storage.read("prepared/empty/manifest.json")
    with pytest.raises(StorageError):
        s3.storage("profile").check_writable()


@pytest.mark.services
@pytest.mark.parametrize("name", [*CREDENTIALS])
def test_wrong_keys_are_told_in_one_line_without_them(s3: S3Server, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, SECRET)
    storage = s3.storage("denied")
    for use in (storage.check_writable, lambda: storage.write("raw/a", b"x"), lambda: storage.files("raw")):
        with pytest.raises(
            StorageError, match=r"the server refuses the keys.*Keys come from AWS_ACCESS_KEY_ID"
        ) as told:
            use()
        assert "\n" not in str(told.value)
        assert SECRET not in str(told.value)


@pytest.mark.services
def test_a_missing_bucket_is_told(s3: S3Server) -> None:
    storage = Storage(s3.storage("x").uri.replace("//ring/", "//no-such-bucket/"))
    with pytest.raises(StorageError, match=r"there is no such bucket\. Make it, or name one that is there") as told:
        storage.check_writable()
    assert "\n" not in str(told.value)


@pytest.mark.services
@pytest.mark.parametrize("name", NAMES)
def test_any_name_can_be_written_listed_and_read_in_ranges(s3: S3Server, name: str) -> None:
    storage = s3.storage("names")
    storage.write(f"raw/{name}/file {name}", b"0123456789")
    assert visible(storage, f"raw/{name}") == [f"/file {name}"]
    with storage.open(storage.files(f"raw/{name}")[0].path) as file:
        assert (file.read_at(3, 4), file.size()) == (b"456", 10)
    storage.remove(f"raw/{name}")
    assert storage.files(f"raw/{name}") == []


@pytest.mark.services
def test_more_than_a_thousand_objects_are_listed(s3: S3Server) -> None:
    storage = s3.storage("many")
    storage.write("raw/0000", b"")

    def touch(number: int) -> None:
        storage.filesystem.open_output_stream(storage.path(f"raw/{number:04}")).close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(touch, range(1100)))
    assert visible(storage, "raw") == [f"/{number:04}" for number in range(1100)]
