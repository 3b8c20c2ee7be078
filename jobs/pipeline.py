"""pipeline: one turn of the ring, skipping what has not changed.

    python -m jobs.pipeline jobs/specs/recommender.yaml

collect -> prepare -> tune -> train: what users said since the last turn comes first, so that one command closes the
ring; `python -m serving.app SPEC` serves what it made.
"""

from collections.abc import Sequence
from types import ModuleType

from cluster.command import run as run_command
from cluster.lifecycle import connected
from cluster.storage import Storage
from jobs import collect, prepare, train, tune
from jobs.lineage import Made
from jobs.spec import RingSpec
from jobs.stage import describe
from jobs.stage import main as stage_main

STAGES = (collect, prepare, tune, train)


def run(spec: RingSpec, storage: Storage) -> Made:
    """Run every stage in the order of the ring and say of each why it ran or was skipped."""
    with connected():
        made = [_run_one(stage, spec, storage) for stage in STAGES]
    ran = [one.stage for one in made if one.ran]
    return Made("pipeline", made[-1].folder, bool(ran), f"ran {', '.join(ran)}" if ran else "all unchanged")


def plan(spec: RingSpec, storage: Storage) -> str:
    """What `run` would do; a stage that needs what an earlier one has yet to make says just that."""
    return "\n".join(_plan_one(stage, spec, storage) for stage in STAGES)


def _run_one(stage: ModuleType, spec: RingSpec, storage: Storage) -> Made:
    made: Made = stage.run(spec, storage)
    print(describe(made), flush=True)
    return made


def _plan_one(stage: ModuleType, spec: RingSpec, storage: Storage) -> str:
    planned: str = stage.plan(spec, storage)
    return planned


def main(arguments: Sequence[str]) -> int:
    """Run the ring from the command line."""
    return stage_main(__doc__ or "", run, plan, arguments)


if __name__ == "__main__":
    run_command(main)
