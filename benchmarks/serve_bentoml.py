"""The model of serve_throughput and its echo behind BentoML, as its pages have it.

python -m bentoml serve benchmarks.serve_bentoml:Model --port PORT      or :Echo
"""

import bentoml

from benchmarks.serve_rivals import MAX_ROWS, NUM_CLASSES, answered, model

MAX_LATENCY_MS = 1_000


QUIET = {"access": {"enabled": False}}


@bentoml.service(workers=1, logging=QUIET)
class Model:
    def __init__(self) -> None:
        self.network = model()

    @bentoml.api(batchable=True, max_batch_size=MAX_ROWS, max_latency_ms=MAX_LATENCY_MS, route="/model/predict")
    def predict(self, row: list[list[float]]) -> list[list[float]]:
        return answered(self.network, row)


@bentoml.service(workers=1, logging=QUIET)
class Echo:
    @bentoml.api(route="/echo/predict")
    def predict(self, row: list[list[float]]) -> list[list[float]]:
        return [each[:NUM_CLASSES] for each in row]
