import pytest

from cluster.errors import SpecError
from cluster.layout import Layout
from jobs.search.choice import best_member, best_trial, fastest, plan_of
from jobs.search.layouts import Refused
from jobs.search.plan import Ancestor, Foreseen, LeftOut
from jobs.search.ranking import Outlook, Ranking, Unfit
from jobs.search.trial import LayoutTrial, Outcome, Stint, Trial

MIB = 2**20


def trial(number: int, best: float | None, outcome: Outcome = "finished", said: str = "") -> Trial:
    return Trial(number, {"rate": number}, {}, best=best, outcome=outcome, said=said, device_s=1.0)


LAYOUTS = [
    LayoutTrial({"replicate": 2}, MIB, 0.25, (0.5, 0.3, 0.4), (MIB, 2 * MIB), "finished", "", 1, 2.0),
    LayoutTrial({"shard": 2}, MIB, 0.5, (0.2, 0.2, 0.9), (3 * MIB, MIB), "finished", "", 1, 2.0),
    LayoutTrial({}, 9 * MIB, 0.75, (), (), "out of memory", "all gone", 1, 1.0),
]
RANKING = Ranking(
    (
        Outlook(Layout(replicate=2), MIB, 0.25),
        Outlook(Layout(replicate=2, accumulation=2), MIB, 0.4),  # was not measured
        Outlook(Layout(shard=2), MIB, 0.5),
        Outlook(Layout(), 9 * MIB, 0.75),
    ),
    (Unfit(Layout(pipeline=2), "too large"),),
)


def test_the_fastest_has_the_shortest_median_step() -> None:
    assert fastest(LAYOUTS) == LAYOUTS[1]


def test_where_none_was_measured_the_ends_are_told() -> None:
    with pytest.raises(SpecError, match=r"no layout could be measured: 1 out of memory \(all gone\)"):
        fastest(LAYOUTS[2:])


def test_the_best_trial_goes_by_the_direction_of_the_metric() -> None:
    trials = [trial(0, 0.5), trial(1, 0.7, "stopped"), trial(2, None, "failed")]
    assert best_trial(trials, "max").number == 1
    assert best_trial(trials, "min").number == 0


@pytest.mark.parametrize(
    ("trials", "error", "message"),
    [
        ([trial(0, None, "diverged")] * 2, SpecError, "training diverged in all 2 trials: .* Search lower values of"),
        (
            [trial(0, None, "out of memory", "gone"), trial(1, None, "not tried", "as much")],
            SpecError,
            r"too little memory for all 2 trials: 1 out of memory \(gone\); 1 not tried \(as much\)",
        ),
        ([trial(0, None, "failed", "KeyError")], RuntimeError, r"all 1 trials failed: 1 failed \(KeyError\)"),
    ],
)
def test_where_no_trial_came_to_a_result_it_is_said_why(
    trials: list[Trial], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        best_trial(trials, "max")


def test_a_plan_has_what_was_found_why_and_all_that_was_tried() -> None:
    plan = plan_of("score", "max", [trial(0, 0.5), trial(1, 0.7)], LAYOUTS, RANKING, [Refused(Layout(tensor=2), "no")])
    assert (plan.values, plan.best, plan.layout, plan.device_s) == ({"rate": 1}, 0.7, {"shard": 2}, 7.0)
    assert plan.ranking[2] == Foreseen({"shard": 2}, MIB, 0.5)
    assert plan.left_out == (LeftOut({"tensor": 2}, "no"), LeftOut({"pipeline": 2}, "too large"))
    assert plan.why == (
        "Layout shard=2 took 200.0 ms a step (predicted 500.0 ms) and 3 MiB on its fullest worker (predicted 1 MiB), "
        "the fastest of 2 measured; it was in place 3 of the 4 that fit. "
        "Trial 1 came to score 0.7000, the best of 2: 2 finished."
    )


def test_a_plan_of_one_phase_has_no_more_than_that() -> None:
    of_values = plan_of("score", "max", [trial(0, 0.5)], [], Ranking(()), [])
    assert (of_values.layout, of_values.layouts, of_values.best) == (None, (), 0.5)
    of_layout = plan_of("score", "max", [], LAYOUTS, RANKING, [])
    assert (of_layout.values, of_layout.best, of_layout.layout) == ({}, None, {"shard": 2})


def member(number: int, values: list[float], outcome: Outcome = "finished", source: int | None = None) -> Trial:
    """After two generations of an epoch each."""
    curve = tuple({"num_epochs": epoch, "step": epoch, "score": value} for epoch, value in enumerate(values, 1))
    first = Stint(0, 0, number, {"rate": number})
    then = first.values if source is None else {"rate": 10 + number}
    stints = (first, Stint(1, 1, number if source is None else source, then))
    return Trial(number, then, {}, curve=curve, best=max(values), outcome=outcome, stints=stints)


def test_of_a_population_the_weights_at_the_end_count_and_their_lineage_is_told() -> None:
    members = [member(0, [0.9, 0.3]), member(1, [0.1, 0.5], source=0), member(2, [0.2, 0.8], "diverged")]
    assert best_member(members, "score", "max") == (members[1], 0.5)
    assert best_member(members, "score", "min") == (members[0], 0.3)
    plan = plan_of("score", "max", members, [], Ranking(()), [])
    assert (plan.values, plan.best, plan.num_epochs) == ({"rate": 11}, 0.5, 2)
    assert plan.lineage == (Ancestor(0, 0, {"rate": 0}), Ancestor(1, 1, {"rate": 11}))
    assert plan.why == "Member 1 came to score 0.5000, the best of 3: 2 finished; 1 diverged."


def test_a_population_of_which_none_came_to_its_end_is_told_like_trials() -> None:
    with pytest.raises(SpecError, match="training diverged in all 2 trials"):
        best_member([member(0, [0.9], "diverged"), member(1, [0.9], "diverged")], "score", "max")
