"""The second phase of a search as population-based training: `jobs.search.population` decides, and this acts.

All members train one generation after the other, by Ray Tune; in between the weak ones take over checkpoints of the
strong ones. What is known of each is in the search's book, so a search whose driver was killed goes on. Ray's own
PopulationBasedTraining compares whoever comes by, so that what it finds depends on timing, and it knows nothing more of
a search whose driver was killed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from cluster.storage import Storage
from jobs.parallel.checkpoint import Checkpoints
from jobs.search.plan import Plan, show_values
from jobs.search.population import Rule, ends_of, first_values, is_through, next_stints, with_stint
from jobs.search.study import NUMBER
from jobs.search.trial import Stint, Trial, values_of
from jobs.space_trials import make_trials
from jobs.trial_run import NOT_TRIED, Search, checkpoints_of, config_of, foreseen
from jobs.trial_watch import TrialWatch

Members = dict[int, Trial]


class Given(Searcher):
    """Trials whose configs are known beforehand, one after the other."""

    def __init__(self, configs: Iterable[dict[str, Any]]) -> None:
        super().__init__()
        self._left = [*configs]

    def suggest(self, trial_id: str) -> Any:
        """Called by Ray Tune, as the next one."""
        return self._left.pop(0) if self._left else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing is learned from it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what is known lies in the book."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing is restored."""


def population_trials(search: Search) -> list[Trial]:
    """Train the population to its last generation, going on with what is known.

    It ends before where all members failed in one generation.

    Raises:
        KeyboardInterrupt: the search was interrupted; called again, it goes on.
    """
    rule, tune = Rule.of(search.spec), search.spec.tune
    _begin(search, rule)
    for generation, end in enumerate(ends_of(tune.num_epochs, tune.perturb_every)):
        _train(search, generation, end)
        if end < tune.num_epochs and not next_generation(search, rule, generation, end):
            break
    return search.trials()


def next_generation(search: Search, rule: Rule, generation: int, end: int) -> bool:
    """Let every member begin the next generation, with another's checkpoint where it is a weak one; False where all
    failed.

    Killed in its middle and called again, it comes to the same: a source stays as it is, a copy counts once the book
    has it, and what a member had before is removed after that.
    """
    members = _members(search)
    stints = next_stints(rule, members, generation, end)
    for number, stint in stints.items():
        before = replace(members[number], stints=members[number].stints[: generation + 1])
        if members[number] == before:
            _begin_next(search, before, stint, members[stint.source])
        if stint.source != number:
            search.storage.remove(search.checkpoints(before).folder)
    return bool(stints)


def _begin_next(search: Search, member: Trial, stint: Stint, source: Trial) -> None:
    after = with_stint(member, stint)
    if source.number != member.number:
        search.checkpoints(source).hand_over(stint.step, search.checkpoints(after))
        print(f"after epoch {stint.epoch} {_takes_over(member, stint)}", flush=True)
    search.book.note(f"{member.number:06d}", after)


def keep_checkpoint(storage: Storage, search_folder: str, plan: Plan, folder: str) -> Plan:
    """The plan of a population with a copy, in `folder`, of the checkpoint that training goes on from."""
    member = next(trial for trial in plan.trials if trial.number == plan.lineage[-1].member)
    checkpoints_of(storage, search_folder, member).hand_over(member.step, Checkpoints(storage, folder))
    return replace(plan, checkpoint=folder)


def _takes_over(member: Trial, stint: Stint) -> str:
    changed = {key: value for key, value in stint.values.items() if member.values.get(key) != value}
    return f"member {member.number} takes over from member {stint.source}: {show_values(changed)}"


def _members(search: Search) -> Members:
    return {trial.number: trial for trial in search.trials()}


def _begin(search: Search, rule: Rule) -> None:
    """Write down all members that are not yet known."""
    known = _members(search)
    for number in range(search.spec.tune.num_trials):
        if number not in known:
            values = first_values(rule, number)
            layout = values_of(search.workers_of(number).layout)
            search.book.note(f"{number:06d}", Trial(number, values, layout, stints=(Stint(0, 0, number, values),)))


def _train(search: Search, generation: int, end: int) -> None:
    """Let Ray Tune train all members to the end of a generation, but for those that fail in it.

    Raises:
        KeyboardInterrupt: it came back before that.
    """
    while True:
        members = _members(search)
        left = _left(search, members, generation, end)
        if not left:
            return
        print(f"generation {generation + 1}: {len(left)} of {len(members)} members train to epoch {end}", flush=True)
        _make(search, members, left, end)
        now = _members(search)
        still = _left(search, now, generation, end)
        if still == left or any(member.outcome != "died" for member in still):
            raise KeyboardInterrupt


def _left(search: Search, members: Mapping[int, Trial], generation: int, end: int) -> list[Trial]:
    most = search.spec.train.max_failures
    return [member for member in members.values() if not is_through(member, generation, end, most)]


def _make(search: Search, members: Mapping[int, Trial], left: list[Trial], end: int) -> None:
    rule = search.spec.train.early_stopping

    def begun(config: dict[str, Any]) -> Trial:
        member = members[config[NUMBER]]
        return replace(
            member,
            **foreseen(config),
            outcome="under way",
            said=config.get(NOT_TRIED, ""),
            layout=values_of(search.workers_of(member.number).layout),
            num_deaths=0 if member.outcome == "finished" else member.num_deaths,
        )

    watch = TrialWatch(
        search.book, begun, rule.metric, rule.mode, end, len(members), len(members) - len(left), "diverged"
    )
    configs = [config_of(search, member.number, member.values) for member in left]
    make_trials(search, left, Given(configs), FIFOScheduler(), len(left), watch, end)
