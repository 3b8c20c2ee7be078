import pickle
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from cluster.layout import Layout
from cluster.spec import with_values
from cluster.storage import Storage
from jobs import examples, layout_forecast, prepare
from jobs.features.transform import Transform
from jobs.layout_forecast import ByForecast, forecaster_of, model_of, optimizer_of
from jobs.lineage import prepared_folder
from jobs.search.forecast import Forecast
from jobs.spec import EarlyStoppingSpec, OptimizerSpec, RingSpec, TrainSpec, load_ring
from jobs.workloads import WORKLOADS
from tests.jobs.search.test_forecast import device
from tests.jobs.search.test_layouts import SPECS


def train(**given: Any) -> TrainSpec:
    return TrainSpec(early_stopping=EarlyStoppingSpec(metric="loss"), **given)


@pytest.mark.parametrize(
    ("given", "num_states"),
    [
        ({}, 2),
        ({"optimizer": OptimizerSpec(name="adam")}, 2),
        ({"optimizer": OptimizerSpec(name="sgd")}, 1),
        ({"optimizer": OptimizerSpec(name="rmsprop")}, 1),
        ({"ema_decay": 0.99}, 3),
    ],
    ids=str,
)
def test_an_optimizer_keeps_so_many_numbers_a_weight(given: dict[str, Any], num_states: int) -> None:
    held = optimizer_of(train(**given), is_cpu=True)([(64, 64), (64,)])
    assert held.state_bytes == pytest.approx(num_states * 4 * (64 * 64 + 64), abs=16)  # and counts of steps


def test_a_cpu_moves_one_weight_at_a_time_and_a_gpu_all() -> None:
    shapes = [(64, 64)] * 3
    assert optimizer_of(train(), is_cpu=True)(shapes).moving_bytes == 2 * 4 * 64 * 64
    assert optimizer_of(train(), is_cpu=False)(shapes).moving_bytes == 3 * 4 * 64 * 64


def test_a_language_model_of_bytes_needs_nothing_prepared(tmp_path: Path) -> None:
    spec = load_ring(SPECS / "language.yaml", [f"storage={tmp_path}"])
    found = forecaster_of(spec, Storage(spec.storage), device(4)).forecast(spec.layout)
    assert isinstance(found, Forecast)


def test_frozen_weights_have_neither_gradients_nor_optimizer(tmp_path: Path) -> None:
    spec = load_ring(SPECS / "language.yaml", [f"storage={tmp_path}", "train.freeze=[layer*]"])
    weights = [weight for link in model_of(spec, Storage(spec.storage)).weights(spec.layout) for weight in link]
    assert {weight.is_trained for weight in weights} == {True, False}


def test_a_search_ranks_by_forecast_and_leaves_out_what_is_too_large(tmp_path: Path) -> None:
    spec = load_ring(SPECS / "language.yaml", [f"storage={tmp_path}"])
    layouts = [Layout(), Layout(replicate=2), Layout(recompute=True)]
    found = pickle.loads(pickle.dumps(ByForecast(Storage(spec.storage), device(4))))(spec, layouts)
    assert [each.layout for each in found.fits] == [Layout(replicate=2), Layout(), Layout(recompute=True)]
    assert all(each.memory_bytes and each.step_s for each in found.fits)
    assert {each.rates for each in found.fits} == {device(4).rates_key}
    small = ByForecast(Storage(spec.storage), device(0.07))(spec, layouts)
    assert {each.layout for each in small.unfit} & set(layouts)
    assert all("GiB a device" in each.reason for each in small.unfit)


def test_the_model_is_built_once_for_specs_that_share_it_and_nothing_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spec_of(*overrides: str) -> RingSpec:
        return load_ring(SPECS / "tabular.yaml", [f"storage={tmp_path}", *overrides])

    storage = Storage(str(tmp_path))
    examples.main(["tabular", str(tmp_path)])
    prepare.run(spec_of(), storage)
    rank = ByForecast(storage, device(4), prepared_folder(spec_of(), storage))
    built: list[RingSpec] = []
    build = WORKLOADS["tabular"].build

    def counted(spec: Any, transform: Transform) -> nn.Module:
        built.append(spec)
        return build(spec, transform)

    monkeypatch.setattr(WORKLOADS["tabular"], "build", counted)
    monkeypatch.setattr(layout_forecast, "prepare_inputs", lambda *given: pytest.fail("the raw files were listed"))
    first, other, wider = (
        rank(spec_of(*overrides), [Layout()]).fits[0]
        for overrides in (
            ("train.optimizer.learning_rate=0.01",),
            ("train.optimizer.learning_rate=0.02", "train.batch_size=32", "seed=3", "tune.num_trials=7"),
            ("workload.hidden_dim=512",),
        )
    )
    assert len(built) == 2
    assert wider.memory_bytes > first.memory_bytes > other.memory_bytes  # type: ignore[operator]


def test_specs_that_train_other_weights_do_not_share_a_model(tmp_path: Path) -> None:
    spec = load_ring(SPECS / "language.yaml", [f"storage={tmp_path}"])
    rank = ByForecast(Storage(spec.storage), device(4))
    whole, frozen, again = (
        rank(with_values(spec, {"train.freeze": patterns}), [Layout()]).fits[0] for patterns in ([], ["layer*"], [])
    )
    assert frozen.memory_bytes < whole.memory_bytes == again.memory_bytes  # type: ignore[operator]
