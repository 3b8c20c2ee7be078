import copy
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
from ray.autoscaler._private.util import prepare_config, validate_config
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(ROOT / "cluster.yaml")
    return content


@pytest.fixture(scope="module")
def prepared(given: dict[str, Any]) -> dict[str, Any]:
    """The file as the launcher completes it, with its own defaults for the provider."""
    content: dict[str, Any] = prepare_config(copy.deepcopy(given))
    return content


def test_it_fits_rays_schema(given: dict[str, Any]) -> None:
    schema = Path(ray.autoscaler.__file__).parent / "ray-schema.json"
    jsonschema.validate(given, json.loads(schema.read_text()))


def test_the_launcher_accepts_it(prepared: dict[str, Any]) -> None:
    validate_config(prepared)


def test_the_launchers_check_would_find_a_fault(prepared: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate_config({**prepared, "max_worker": 3})


def test_the_head_has_no_gpu_and_the_workers_come_and_go(prepared: dict[str, Any]) -> None:
    types = prepared["available_node_types"]
    head = types.pop(prepared["head_node_type"])
    assert head["resources"]["CPU"] >= 4
    assert "GPU" not in head["resources"]
    assert head["max_workers"] == 0
    (worker,) = types.values()
    assert worker["resources"]["GPU"] >= 1
    assert worker["resources"]["CPU"] > worker["resources"]["GPU"]
    assert (worker["min_workers"], worker["max_workers"]) == (0, prepared["max_workers"])


def test_every_node_runs_the_ray_that_the_project_is_tested_with(given: dict[str, Any]) -> None:
    images = (given["docker"]["head_image"], given["docker"]["worker_image"])
    assert all(image.startswith(f"rayproject/ray:{version('ray')}-py311") for image in images)
    assert images[1].endswith("-gpu")


@pytest.mark.parametrize("role", ["head", "worker"])
def test_every_node_is_started_with_our_environment_and_its_ray_alone_is_open(given: dict[str, Any], role: str) -> None:
    start = given[f"{role}_start_ray_commands"][-1]
    assert start.index("python -m cluster.environment") < start.index("ray start")
    if role == "head":
        assert "--dashboard-host=127.0.0.1" in start


def test_the_token_is_on_every_node_and_closed_to_others(given: dict[str, Any]) -> None:
    assert given["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in given["setup_commands"]
