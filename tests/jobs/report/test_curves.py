import re
from dataclasses import replace
from xml.etree import ElementTree

from jobs.report.curves import curves, is_best, lineage_table
from jobs.search.plan import Ancestor, Plan
from jobs.search.space import Values
from jobs.search.trial import Point, Stint, Trial

FIRST: Values = {"train.optimizer.learning_rate": 0.1}
THEN: Values = {"train.optimizer.learning_rate": 0.08}


def curve(*values: float, first: int = 1) -> tuple[Point, ...]:
    return tuple({"num_epochs": epoch, "score": value} for epoch, value in enumerate(values, first))


STRONG = Trial(
    0, FIRST, {}, curve=curve(0.2, 0.6, 0.7), best=0.7, stints=(Stint(0, 0, 0, FIRST), Stint(2, 20, 0, FIRST))
)
WEAK = Trial(
    1,
    THEN,
    {},
    curve=(*curve(0.1), *curve(0.8, first=3)),
    best=0.8,
    stints=(Stint(0, 0, 1, THEN), Stint(2, 20, 0, THEN)),
)
PLAN = Plan(THEN, "score", 0.8, (STRONG, WEAK), lineage=(Ancestor(0, 0, FIRST), Ancestor(2, 1, THEN)), num_epochs=3)


def lines_of(picture: str) -> list[int]:
    """How many points each line has."""
    return [len(points.split()) for points in re.findall(r'points="([^"]*)"', picture)]


def test_a_member_that_takes_over_goes_on_from_the_line_of_the_other_after_a_dot() -> None:
    picture = curves(PLAN)
    assert lines_of(picture) == [3, 1, 2]
    _, before, after = re.findall(r'points="([^"]*)"', picture)
    strong = re.findall(r'points="([^"]*)"', picture)[0].split()
    assert after.split()[0] == strong[1] != before.split()[0]
    assert picture.count("<circle") == 1
    assert "after epoch 2 member 1 took over from member 0" in picture
    assert ElementTree.fromstring(f"<p>{picture}</p>") is not None


def test_the_chosen_member_is_coloured_and_on_top() -> None:
    assert [is_best(PLAN, trial) for trial in PLAN.trials] == [False, True]
    picture = curves(PLAN)
    assert (picture.count("curve curve0"), picture.count("curve curve1")) == (1, 2)
    assert picture.rindex("curve curve1") > picture.rindex("curve curve0")
    alone = replace(PLAN, lineage=(), best=0.7)
    assert [is_best(alone, trial) for trial in alone.trials] == [True, False]


def test_trials_without_an_epoch_and_values_that_are_no_numbers_have_no_line() -> None:
    diverged = replace(STRONG, number=2, curve=curve(0.5, float("nan")), stints=())
    assert lines_of(curves(replace(PLAN, trials=(STRONG, WEAK, diverged, Trial(3, {}, {}))))) == [3, 1, 1, 2]
    assert curves(replace(PLAN, trials=(Trial(3, {}, {}),))) == ""


def test_the_table_tells_with_what_the_weights_were_trained() -> None:
    table = lineage_table(PLAN)
    rows = [[cell.text for cell in row] for row in ElementTree.fromstring(table).iter("tr")]
    assert rows == [
        ["epochs", "member", "values"],
        ["1 to 2", "0", "train.optimizer.learning_rate=0.1"],
        ["3 to 3", "1", "train.optimizer.learning_rate=0.08"],
    ]
    assert lineage_table(replace(PLAN, lineage=())) == ""
