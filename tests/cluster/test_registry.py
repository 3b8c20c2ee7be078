import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.errors import RegistryError
from cluster.registry import Registry, main
from cluster.storage import Storage

FILES = ("spec.yaml", "weights.safetensors", "features/transform.json")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(Storage(str(tmp_path / "ring")), "recommender")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in FILES:
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"the content of {name}".encode())
    return tmp_path / "source"


def folder_of(registry: Registry, version: str) -> Path:
    return Path(registry.storage.path(f"models/recommender/{version}"))


def refused_on_load(registry: Registry, version: str) -> str:
    with pytest.raises(RegistryError) as caught, registry.open(version):
        pass
    return str(caught.value)


def test_a_version_is_listed_described_and_opened(registry: Registry, source: Path) -> None:
    version = registry.publish(source, {"metrics": {"rmse": 0.9}})
    assert registry.versions() == [version]
    manifest = registry.manifest(version)
    assert manifest["metrics"] == {"rmse": 0.9}
    assert manifest["workload"] == "recommender"
    assert set(manifest["files"]) == set(FILES)
    with registry.open(version) as folder:
        assert (folder / FILES[2]).read_bytes() == f"the content of {FILES[2]}".encode()


def test_versions_are_listed_oldest_first(registry: Registry, source: Path) -> None:
    first = registry.publish(source, {})
    time.sleep(1.1)  # the name holds the second
    second = registry.publish(source, {})
    assert registry.versions() == [first, second]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("position", [0, -1])
def test_one_flipped_bit_in_any_file_refuses_the_version(
    registry: Registry, source: Path, name: str, position: int
) -> None:
    version = registry.publish(source, {})
    path = folder_of(registry, version) / name
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    assert f"version {version} is not what was published: {name} differs from its checksum" in refused_on_load(
        registry, version
    )


def test_a_missing_and_an_additional_file_refuse_the_version(registry: Registry, source: Path) -> None:
    version = registry.publish(source, {})
    (folder_of(registry, version) / "spec.yaml").unlink()
    (folder_of(registry, version) / "features/extra.bin").write_bytes(b"x")
    message = refused_on_load(registry, version)
    assert "spec.yaml is missing; features/extra.bin is not in the manifest" in message
    assert "python -m cluster.registry" in message


def test_a_version_of_a_newer_format_is_refused(registry: Registry, source: Path) -> None:
    version = registry.publish(source, {"format": 99})
    assert f"version {version} has format 99, this code reads 1: update Rayline" in refused_on_load(registry, version)


def test_a_version_without_its_manifest_does_not_exist(registry: Registry, source: Path) -> None:
    version = registry.publish(source, {})
    (folder_of(registry, version) / "manifest.json").unlink()
    assert registry.versions() == []
    assert f"'{version}' is no version or alias of 'recommender'" in refused_on_load(registry, version)


def test_promote_and_roll_back_move_the_champion(registry: Registry, source: Path) -> None:
    first, second, third = (registry.publish(source, {}) for _ in range(3))
    for version in (first, second, second, third):
        registry.promote(version)
    assert registry.resolve("champion") == third
    assert registry.rollback() == second
    assert registry.rollback() == first
    assert registry.resolve("champion") == first
    with pytest.raises(RegistryError, match="alias 'champion' of 'recommender' has no earlier version to roll back to"):
        registry.rollback()


def test_aliases_do_not_touch_one_another(registry: Registry, source: Path) -> None:
    first, second = (registry.publish(source, {}) for _ in range(2))
    registry.promote(first)
    registry.promote(second, "challenger")
    assert (registry.resolve("champion"), registry.resolve("challenger")) == (first, second)


def test_a_version_stands_for_itself(registry: Registry, source: Path) -> None:
    version = registry.publish(source, {})
    assert registry.resolve(version) == version


@pytest.mark.parametrize("name", ["champoin", "../recommender", ".", "", "a/b"])
def test_an_unknown_alias_is_refused_with_the_known_names(registry: Registry, source: Path, name: str) -> None:
    version = registry.publish(source, {})
    registry.promote(version)
    with pytest.raises(RegistryError) as caught:
        registry.resolve(name)
    assert f"'{name}' is no version or alias of 'recommender'" in str(caught.value)
    assert f"Valid: {version}, champion." in str(caught.value)


def test_the_nearest_alias_is_guessed(registry: Registry, source: Path) -> None:
    registry.promote(registry.publish(source, {}))
    with pytest.raises(RegistryError, match="Did you mean 'champion'"):
        registry.resolve("champoin")


def test_a_version_that_does_not_exist_is_not_promoted(registry: Registry, source: Path) -> None:
    registry.promote(registry.publish(source, {}))
    with pytest.raises(RegistryError, match="'none' is no version or alias"):
        registry.promote("none")


def test_rolling_back_to_a_version_that_was_removed_is_refused(registry: Registry, source: Path) -> None:
    first, second = (registry.publish(source, {}) for _ in range(2))
    registry.promote(first)
    registry.promote(second)
    registry.storage.remove(f"models/recommender/{first}")
    with pytest.raises(RegistryError, match=f"'{first}' is no version"):
        registry.rollback()
    assert registry.resolve("champion") == second


def test_readers_see_one_champion_or_the_other_while_it_moves_and_after_kill_9(
    registry: Registry, source: Path
) -> None:
    first, second = (registry.publish(source, {}) for _ in range(2))
    registry.promote(first)
    mover = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from cluster.registry import Registry; from cluster.storage import Storage\n"
            "registry = Registry(Storage(sys.argv[1]), 'recommender')\n"
            "while True: registry.promote(sys.argv[2]); registry.rollback()",
            registry.storage.uri,
            second,
        ]
    )
    try:
        seen = set()
        deadline = time.monotonic() + 120
        while len(seen) < 2 and time.monotonic() < deadline:
            seen.add(registry.resolve("champion"))
        until = time.monotonic() + 1
        while time.monotonic() < until:
            seen.add(registry.resolve("champion"))
    finally:
        mover.kill()
        mover.wait()
    assert seen == {first, second}
    assert registry.resolve("champion") in seen
    assert json.loads(registry.storage.read("models/recommender/aliases.json"))["champion"][-1] == first


def test_the_command_line_lists_promotes_and_rolls_back(
    registry: Registry, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (registry.publish(source, {}) for _ in range(2))
    for arguments in (["promote", first], ["promote", second], ["rollback"], ["list"]):
        assert main([registry.storage.uri, "recommender", *arguments]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[:3] == [f"recommender: champion is {version}" for version in (first, second, first)]
    assert f"{first} champion" in shown[3:]
    with pytest.raises(RegistryError, match="usage: python -m cluster"):
        main(["only-a-storage"])
