"""What a search comes to: the plan, chosen from its trials."""

import math
from collections import Counter
from collections.abc import Sequence

from cluster.errors import SpecError
from jobs.search.layouts import Refused
from jobs.search.plan import Foreseen, LeftOut, Plan
from jobs.search.population import lineage
from jobs.search.ranking import Ranking
from jobs.search.trial import LayoutTrial, Trial, layout_of, values_of


def fastest(layouts: Sequence[LayoutTrial]) -> LayoutTrial:
    """The layout with the shortest step.

    Raises:
        SpecError: none was measured.
    """
    measured = [trial for trial in layouts if trial.step_s]
    if not measured:
        raise SpecError(f"no layout could be measured: {_ends(layouts)}. Give other tune.layouts, or a smaller model")
    return min(measured, key=lambda trial: trial.median_s)


def best_trial(trials: Sequence[Trial], mode: str) -> Trial:
    """The trial with the best epoch.

    Raises:
        SpecError: every trial diverged, or ran out of memory.
        RuntimeError: none came to a result.
    """
    scored = [(trial.best, trial) for trial in trials if trial.best is not None]
    if not scored:
        raise _why_none(trials)
    return (max if mode == "max" else min)(scored, key=lambda pair: pair[0])[1]


def best_member(trials: Sequence[Trial], metric: str, mode: str) -> tuple[Trial, float]:
    """The member of a population that is the best after the last epoch, and its metric: training goes on from there.

    Raises:
        SpecError, RuntimeError: see `best_trial`.
    """
    last = [(trial.curve[-1][metric], trial) for trial in trials if trial.outcome == "finished"]
    scored = [(value, trial) for value, trial in last if math.isfinite(value)]
    if not scored:
        raise _why_none(trials)
    value, found = (max if mode == "max" else min)(scored, key=lambda pair: pair[0])
    return found, value


def _why_none(trials: Sequence[Trial]) -> SpecError | RuntimeError:
    """What to raise where no trial came to a result."""
    outcomes = {trial.outcome for trial in trials}
    if outcomes == {"diverged"}:
        return SpecError(
            f"training diverged in all {len(trials)} trials: the loss is not finite. "
            "Search lower values of train.optimizer.learning_rate in tune.space"
        )
    if outcomes <= {"out of memory", "not tried"}:
        return SpecError(
            f"there was too little memory for all {len(trials)} trials: {_ends(trials)}. "
            "Search smaller values of train.batch_size or of the model, or a layout with more of shard"
        )
    return RuntimeError(f"all {len(trials)} trials failed: {_ends(trials)}")


def plan_of(
    metric: str,
    mode: str,
    trials: Sequence[Trial],
    layouts: Sequence[LayoutTrial],
    ranking: Ranking,
    refused: Sequence[Refused],
) -> Plan:
    """The fastest layout and the best values, each where it was searched.

    Raises:
        SpecError, RuntimeError: see `fastest` and `best_trial`.
    """
    found, best = _best(trials, metric, mode) if trials else (None, None)
    quickest = fastest(layouts) if layouts else None
    why = [_why_layout(quickest, layouts, ranking)] if quickest else []
    why += [_why_values(found, best, trials, metric)] if found else []
    return Plan(
        values=found.values if found else {},
        metric=metric,
        best=best,
        trials=tuple(trials),
        mode=mode,
        layout=quickest.layout if quickest else None,
        why=" ".join(why),
        layouts=tuple(layouts),
        ranking=tuple(Foreseen(values_of(each.layout), each.memory_bytes, each.step_s) for each in ranking.fits),
        left_out=(
            *(LeftOut(values_of(each.layout), each.reason) for each in refused),
            *(LeftOut(values_of(each.layout), each.reason) for each in ranking.unfit),
        ),
        lineage=lineage({trial.number: trial for trial in trials}, found.number) if found else (),
        num_epochs=found.num_epochs if found and found.stints else 0,
    )


def _best(trials: Sequence[Trial], metric: str, mode: str) -> tuple[Trial, float | None]:
    if trials[0].stints:
        return best_member(trials, metric, mode)
    found = best_trial(trials, mode)
    return found, found.best


def _why_layout(quickest: LayoutTrial, layouts: Sequence[LayoutTrial], ranking: Ranking) -> str:
    place = [values_of(each.layout) for each in ranking.fits].index(quickest.layout) + 1
    return (
        f"Layout {layout_of(quickest.layout).line()} took {quickest.median_s * 1e3:.1f} ms a step"
        f"{_predicted(quickest.predicted_step_s, 1e3, '.1f', 'ms')} and {max(quickest.peak_bytes) / 2**20:.0f} MiB on "
        f"its fullest worker{_predicted(quickest.predicted_bytes, 2**-20, '.0f', 'MiB')}, the fastest of "
        f"{sum(bool(trial.step_s) for trial in layouts)} measured; it was in place {place} of the {len(ranking.fits)} "
        "that fit."
    )


def _predicted(value: float | None, factor: float, digits: str, unit: str) -> str:
    return "" if value is None else f" (predicted {value * factor:{digits}} {unit})"


def _why_values(found: Trial, best: float | None, trials: Sequence[Trial], metric: str) -> str:
    who = "Member" if found.stints else "Trial"
    return f"{who} {found.number} came to {metric} {best:.4f}, the best of {len(trials)}: {_ends(trials)}."


def _ends(trials: Sequence[Trial | LayoutTrial]) -> str:
    """How many ended how, with the first reason of each kind."""
    counts = Counter(trial.outcome for trial in trials)
    reasons = {trial.outcome: trial.said for trial in reversed(trials) if trial.said}
    return "; ".join(
        f"{count} {outcome}{f' ({reasons[outcome]})' if outcome in reasons else ''}"
        for outcome, count in counts.most_common()
    )
