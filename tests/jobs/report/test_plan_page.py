from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cluster.storage import Storage
from jobs.report.plan_page import importance, plan_page, write_plan_page
from jobs.search.plan import Foreseen, LeftOut, Plan, write_plan
from jobs.search.trial import LayoutTrial, Trial

GIB = 2**30


def trial(number: int, rate: float, best: float | None, optimizer: str = "adamw") -> Trial:
    curve = tuple({"num_epochs": float(epoch), "accuracy": (best or 0) * epoch / 2} for epoch in (1, 2)) if best else ()
    values = {"train.optimizer.learning_rate": rate, "train.optimizer.name": optimizer}
    outcome = "finished" if best else "diverged"
    return Trial(number, values, {}, curve=curve, best=best, outcome=outcome, device_s=30.0)


TRIALS = tuple(
    trial(number, 0.001 * (number + 1), 0.1 * number + 0.1, ["sgd", "adamw"][number % 2]) for number in range(8)
)
PLAN = Plan(
    values=TRIALS[-1].values,
    metric="accuracy",
    best=TRIALS[-1].best,
    trials=(*TRIALS, trial(8, 0.5, None)),
    layout={"shard": 2},
    why="Layout shard=2 was <fastest>.",
    layouts=(
        LayoutTrial({"shard": 2}, GIB, 0.1, (0.11, 0.12), (GIB, GIB // 2), "finished", device_s=2.0),
        LayoutTrial({"replicate": 2}, 2 * GIB, 0.2, (), (), "out of memory", "all of it", device_s=2.0),
    ),
    ranking=(Foreseen({"shard": 2}, GIB, 0.1), Foreseen({"replicate": 2}, 2 * GIB, 0.2)),
    left_out=(
        LeftOut({"tensor": 8}, "8 does not divide 4 & more"),
        LeftOut({"tensor": 16}, "8 does not divide 4 & more"),
    ),
    forecast_error="1 layout of 1 search",
)


def test_the_page_is_whole_and_escaped() -> None:
    page = plan_page("<films>", PLAN)
    assert ElementTree.fromstring(page.removeprefix("<!doctype html>\n")).tag == "html"
    assert "<films>" not in page
    assert "&lt;fastest&gt;" in page
    assert "src=" not in page
    assert "http" not in page


def test_every_layout_and_trial_has_its_row_and_its_dot() -> None:
    page = plan_page("films", PLAN)
    assert page.count("<tr>") == 1 + 2 + 1 + 9
    assert page.count("<circle") == 2 + 1 + 1 + 1  # two foreseen, one measured; a step and memory of that one
    assert "<td>out of memory: all of it</td>" in page
    assert "tensor=8 and 1 other: 8 does not divide 4 &amp; more" in page


def test_how_good_the_forecasts_were_is_told_where_it_is_known() -> None:
    assert "The forecast so far: 1 layout of 1 search</p>" in plan_page("films", PLAN)
    assert "forecast" not in plan_page("films", replace(PLAN, forecast_error=""))


def test_curves_and_coordinates_have_a_line_a_trial_and_the_best_on_top() -> None:
    page = plan_page("films", PLAN)
    assert page.count('class="curve curve0"') == 2 * 7
    assert page.count('class="curve curve1"') == 2
    assert page.rindex('class="curve curve1"') > page.rindex('class="curve curve0"')


def test_what_matters_is_what_the_metric_follows() -> None:
    found = importance(TRIALS, "max")
    assert found[0][0] == "train.optimizer.learning_rate"
    assert sum(part for _, part in found) == pytest.approx(1)
    assert importance(TRIALS[:3], "max") == []
    assert importance([trial(number, 0.1, 0.5) for number in range(8)], "max") == []


def test_a_search_of_layouts_alone_has_no_trials() -> None:
    page = plan_page("films", Plan({}, "accuracy", None, (), layout={"shard": 2}, layouts=PLAN.layouts))
    assert 'id="trials"' not in page
    assert 'id="layouts"' in page


def test_the_page_lies_beside_the_plan(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write_plan(storage, "plans/films/abc", PLAN, {})
    path = write_plan_page(storage, "films", "abc")
    assert Path(path).read_text() == plan_page("films", PLAN)
    with pytest.raises(FileNotFoundError, match="plans/films/other"):
        write_plan_page(storage, "films", "other")
