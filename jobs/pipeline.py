"""pipeline: one turn of the ring, skipping what has not changed.

    python -m jobs.pipeline jobs/specs/recommender.yaml

collect -> prepare -> tune -> train -> serve: what users said since the last turn comes first, so that one command
closes the ring. It serves on a cluster that goes on without it; `python -m serving.app SPEC` serves anywhere.
"""

from collections.abc import Iterator, Sequence

from cluster.command import run as run_command
from cluster.lifecycle import Cluster, connected
from cluster.registry import Registry
from cluster.storage import Storage
from jobs import collect, prepare, train, tune
from jobs.lineage import Made
from jobs.spec import RingSpec
from jobs.stage import describe
from jobs.stage import main as stage_main
from serving import app


def run(spec: RingSpec, storage: Storage) -> Made:
    """Run every stage in the order of the ring and say of each why it ran or was skipped."""
    made = []
    storage.check_shared()
    with connected() as cluster:
        for one in _stages(spec, storage, cluster):
            print(describe(one), flush=True)
            made.append(one)
    ran = [one.stage for one in made if one.ran]
    return Made("pipeline", "", bool(ran), f"ran {', '.join(ran)}" if ran else "all unchanged")


def plan(spec: RingSpec, storage: Storage) -> str:
    """What `run` would do, as far as it can be said before the earlier stages have run."""
    return "\n".join(
        [
            collect.plan(spec, storage),
            prepare.plan(spec, storage),
            tune.plan(spec, storage),
            train.plan(spec, storage),
            _plan_to_serve(spec),
        ]
    )


def _plan_to_serve(spec: RingSpec) -> str:
    return f"serve: {spec.serving.version} at port {spec.serving.port}, on a cluster that goes on"


def _stages(spec: RingSpec, storage: Storage, cluster: Cluster) -> Iterator[Made]:
    yield collect.run(spec, storage)
    yield prepare.run(spec, storage)
    yield tune.run(spec, storage)
    yield train.run(spec, storage)
    yield _serve(spec, storage, cluster)


def _serve(spec: RingSpec, storage: Storage, cluster: Cluster) -> Made:
    if cluster.is_embedded:
        return Made("serve", "", False, "this cluster ends with the command; python -m serving.app SPEC serves")
    wanted, registry = spec.serving.version, Registry(storage, spec.name)
    if wanted not in (*registry.aliases(), *registry.versions()):
        return Made("serve", "", False, f"there is no '{wanted}' yet")
    served = app.run(spec, storage)
    why = f"{wanted} is {served.version}" if served.is_new else f"{served.version} answers already"
    return Made("serve", "", served.is_new, why, f"{served.address}/docs")


def main(arguments: Sequence[str]) -> int:
    """Run the ring from the command line."""
    return stage_main(__doc__ or "", run, plan, arguments)


if __name__ == "__main__":
    run_command(main)
