"""The command line that every stage shares: SPEC, overrides, --plan."""

import argparse
from collections.abc import Callable, Sequence

from cluster.storage import Storage
from jobs.lineage import Made
from jobs.spec import RingSpec, load_ring

Stage = Callable[[RingSpec, Storage], Made]
Plan = Callable[[RingSpec, Storage], str]


def main(description: str, run: Stage, plan: Plan, arguments: Sequence[str]) -> int:
    """Load the spec, then run the stage, or with --plan say what it would do."""
    parser = _parser(description)
    parser.add_argument("--plan", action="store_true", help="say what would be done, and do nothing")
    given = parser.parse_intermixed_args(arguments)
    spec = load_ring(given.spec, given.overrides)
    storage = Storage(spec.storage)
    if given.plan:
        print(plan(spec, storage))
        return 0
    storage.check_writable()
    print(describe(run(spec, storage)))
    return 0


def spec_of(description: str, arguments: Sequence[str]) -> RingSpec:
    """The spec that a command line names, with its overrides, where it takes nothing else."""
    given = _parser(description).parse_intermixed_args(arguments)
    return load_ring(given.spec, given.overrides)


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("spec", metavar="SPEC", help="the workload's YAML, for example jobs/specs/recommender.yaml")
    parser.add_argument("overrides", metavar="key.path=value", nargs="*", help="replaces one value of the spec")
    return parser


def describe(made: Made) -> str:
    """One stage's outcome as people read it."""
    verb = "ran" if made.ran else "skipped"
    head = f"{made.stage}: {verb} ({made.why}){' -> ' + made.folder if made.folder else ''}"
    return "\n".join([head, *(f"  {line}" for line in made.summary.splitlines())])
