"""The page of a run, read as a tree and, where there is one, by a real browser."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from cluster.layout import Layout
from cluster.storage import Storage
from jobs.anomalies import Anomaly
from jobs.report.run_page import MAX_POINTS, run_page, write_run_page
from jobs.run_log import LoggedEpoch, RunLog, Start
from jobs.spec import RingSpec, load_ring
from jobs.usage import Usage
from tests.jobs.test_anomalies import ONE

SPECS = Path(__file__).parents[3] / "jobs/specs"
ODD = Anomaly("spike", 1007, "the loss is <9>", "Look for odd rows & others")
EIGHT = Layout(replicate=2, pipeline=2, tensor=2, micro_batches=2)
PLACES = ("node-b", "node-b", "node-a", "node-a", "node-b", "node-b", "node-a", "node-a")
STARTS = [Start(0, EIGHT, PLACES)]
CHROMIUM = shutil.which("chromium")


@pytest.fixture
def spec() -> RingSpec:
    given = load_ring(SPECS / "vision.yaml", ["train.early_stopping.metric=accuracy"])
    return given.model_copy(update={"layout": EIGHT})


@pytest.fixture
def epochs() -> list[LoggedEpoch]:
    reports = [
        replace(
            ONE,
            epoch=number,
            step=1000 * number,
            loss=3 / number,
            metrics={"accuracy": 0.5 + number / 20, "log_loss": 1 / number},
            step_losses=tuple(3 / number + 0.2 * (step % 7) / 7 for step in range(1000)),
            is_best=number == 4,
        )
        for number in range(1, 6)
    ]
    return [LoggedEpoch(report, (ODD,) if report.epoch == 2 else ()) for report in reports]


def tree_of(page: str) -> ElementTree.Element:
    return ElementTree.fromstring(page.removeprefix("<!doctype html>\n").replace('<meta charset="utf-8"/>', ""))


def words(element: ElementTree.Element) -> str:
    return " ".join(text.strip() for text in element.itertext() if text.strip())


def test_what_stands_out_comes_first_and_is_escaped(spec: RingSpec, epochs: list[LoggedEpoch]) -> None:
    tree = tree_of(run_page(spec, epochs, []))
    [found] = [each for each in tree.iter("section") if each.get("id") == "findings"]
    assert words(found) == "Worth a look spike at step 1,007: the loss is <9>. Look for odd rows & others"
    told = [words(each) for each in tree.iter("div") if each.get("class") == "number"]
    assert told == [
        "0.7000 best accuracy, after epoch 4",
        f"5 of {spec.train.num_epochs} epochs",
        "1 things worth a look",
        "100 rows/s in the last epoch",
    ]


def test_a_failure_stands_before_everything_else(spec: RingSpec, epochs: list[LoggedEpoch]) -> None:
    tree = tree_of(run_page(spec, epochs, [], "training failed, data on worker 1: <x>"))
    [found] = [each for each in tree.iter("section") if each.get("id") == "findings"]
    assert words(found).startswith("Worth a look failed : training failed, data on worker 1: <x> spike at step")


def test_there_is_a_curve_of_everything_that_was_measured(spec: RingSpec, epochs: list[LoggedEpoch]) -> None:
    tree = tree_of(run_page(spec, epochs, []))
    cards = [each for each in tree.iter("article") if each.get("class") == "card"]
    assert [words(next(card.iter("h3"))) for card in cards] == [
        "training loss",
        "validation accuracy",
        "validation log_loss",
        "gradient norm",
        "learning rate",
        "rows/s",
        "share of time without rows",
    ]
    steps, by_epoch = ([*each.get("points", "").split()] for each in cards[0].iter("polyline"))
    assert 100 < len(steps) <= MAX_POINTS
    assert len(by_epoch) == 5
    rows = [[words(cell) for cell in row] for row in tree.iter("tr")]
    assert rows[4][:5] == ["4 *", "4,000", "0.7500", "0.7000", "0.2500"]


def test_what_a_run_took_is_drawn_where_it_is_known(spec: RingSpec, epochs: list[LoggedEpoch]) -> None:
    usage = Usage(None, 3e12, 0.41, None, (2**30, 3 * 2**29, *[2**30] * 6))
    measured = [replace(epoch, report=replace(epoch.report, usage=usage)) for epoch in epochs]
    tree = tree_of(run_page(spec, measured, STARTS))
    names = {words(next(card.iter("h3"))) for card in tree.iter("article") if card.get("class") == "card"}
    assert {"TFLOP/s", "MFU", "peak memory of a worker, GiB"} < names
    assert not names & {"tokens/s", "share of time with messages"}
    [drawing] = [each for each in tree.iter("svg") if each.get("class") == "nodes"]
    assert [words(text) for text in drawing.iter("text")][1:5] == ["0", "1.0", "R0 P0", "T0"]
    assert "1.5" in [words(text) for text in drawing.iter("text")]


def test_each_worker_stands_in_the_box_of_its_node(spec: RingSpec, epochs: list[LoggedEpoch]) -> None:
    tree = tree_of(run_page(spec, epochs, STARTS))
    [drawing] = [each for each in tree.iter("svg") if each.get("class") == "nodes"]
    assert drawing.get("aria-label") == "8 workers on 2 nodes"
    boxes = [box for box in drawing.iter("rect") if box.get("class") == "node"]
    ranks = [box for box in drawing.iter("rect") if box.get("class") == "rank"]
    assert (len(boxes), len(ranks)) == (2, 8)
    tops = [float(box.get("y", "")) for box in boxes]
    inside = [sum(float(rank.get("y", "")) > top for top in tops) for rank in ranks]
    assert inside == [1, 1, 1, 1, 2, 2, 2, 2]  # node by node
    texts = [words(text) for text in drawing.iter("text")]
    assert texts[0] == "node 1, node-b"
    first = texts[1:4]
    assert first == ["0", "R0 P0", "T0"]
    assert "R1 P1" in texts


def test_workers_that_came_and_went_are_told_and_those_of_now_are_drawn(
    spec: RingSpec, epochs: list[LoggedEpoch]
) -> None:
    four = Start(
        1200, EIGHT.model_copy(update={"replicate": 1, "accumulation": 2}), PLACES[:4], "<4> devices are there"
    )
    tree = tree_of(run_page(spec, epochs, [*STARTS, replace(STARTS[0], step=800), four]))
    [came] = [each for each in tree.iter("section") if each.get("id") == "starts"]
    assert [words(item) for item in came.iter("li")] == [
        "from step 0 on 8 workers, replicate=2 tensor=2 pipeline=2 micro_batches=2",
        "from step 1,200 on 4 workers, tensor=2 pipeline=2 micro_batches=2 accumulation=2 (<4> devices are there)",
    ]
    [drawing] = [each for each in tree.iter("svg") if each.get("class") == "nodes"]
    assert drawing.get("aria-label") == "4 workers on 2 nodes"
    assert "R0" not in words(drawing)
    assert 'id="starts"' not in run_page(spec, epochs, STARTS)


def test_a_run_without_an_epoch_says_so(spec: RingSpec) -> None:
    page = run_page(spec, [], [])
    assert "No epoch came to its end." in page
    assert "Nothing stands out." in page
    tree_of(page)


def test_it_is_written_beside_the_checkpoints(spec: RingSpec, epochs: list[LoggedEpoch], tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    log = RunLog(storage, "checkpoints/vision/key")
    for epoch in epochs:
        log.add(epoch.report, epoch.anomalies)
    log.add_start(STARTS[0])
    path = write_run_page(spec, storage, "checkpoints/vision/key")
    assert path == str(tmp_path / "checkpoints/vision/key/report.html")
    assert Path(path).read_text() == run_page(spec, epochs, STARTS)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, a Debian package")
def test_a_browser_draws_it(spec: RingSpec, epochs: list[LoggedEpoch], tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(run_page(spec, epochs, STARTS))
    picture = tmp_path / "report.png"
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1200,1600", f"--screenshot={picture}", (tmp_path / "report.html").as_uri()]
    subprocess.run(command, timeout=120, capture_output=True, check=True)
    with Image.open(picture) as drawn:
        colours = {colour for _, colour in drawn.convert("RGB").getcolors(1 << 24) or []}
    assert {(0x2F, 0x6F, 0xB3), (0xCF, 0xE0, 0xF2), (0xC2, 0x59, 0x1D)} <= colours  # curves, ranks, a finding
