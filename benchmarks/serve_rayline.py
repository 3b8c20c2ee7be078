"""The model of serve_throughput and its echo behind Rayline, with all that a release has.

python -m benchmarks.serve_rayline FOLDER PORT      until SIGTERM
"""

import signal
import sys
import threading
from pathlib import Path

from fastapi import FastAPI
from pydantic import Field
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig

from benchmarks.serve_rivals import MAX_ROWS, NUM_CLASSES, WIDTH, answered, model
from cluster.lifecycle import connected
from cluster.registry import Registry
from cluster.storage import Storage
from jobs.spec import RingSpec, load_ring
from serving.batcher import Batcher
from serving.endpoint import Body, Health, endpoint, serving_version

SPEC = Path(__file__).parents[1] / "jobs/specs/tabular.yaml"


class Asked(Body):
    row: list[float] = Field(min_length=WIDTH, max_length=WIDTH)


class Told(Body):
    answer: list[float]


def load(spec: RingSpec, storage: Storage, version: str, release: str) -> FastAPI:
    health = Health(version=version, release=release, created_at="", metrics={})
    application = endpoint(spec.name, "", health, spec.serving.max_body_bytes)
    if spec.name == "echo":

        @application.post("/predict")
        async def echo(asked: Asked) -> Told:
            return Told(answer=asked.row[:NUM_CLASSES])

        return application
    network = model()
    batcher: Batcher[list[float], list[float]] = Batcher(lambda rows: answered(network, rows), MAX_ROWS)

    @application.post("/predict")
    async def predict(asked: Asked) -> Told:
        return Told(answer=(await batcher.ask([asked.row]))[0])

    return application


def main(folder: Path, port: int) -> None:
    (folder / "version").mkdir(parents=True)
    (folder / "version/empty").touch()
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    with connected():
        serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port), logging_config=quiet)
        for name in ("model", "echo"):
            spec = load_ring(SPEC, [f"name={name}", f"storage={folder}"])
            registry = Registry(Storage(spec.storage), name)
            registry.promote(registry.publish(folder / "version", {}))
            serve.run(
                serving_version(spec, registry.storage, load),
                name=name,
                route_prefix=f"/{name}",
                logging_config=quiet,
            )
        over.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]))
