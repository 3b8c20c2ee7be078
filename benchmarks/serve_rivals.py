"""The model of serve_throughput, and FastAPI with uvicorn before it, alone or with our batcher.

    python -m benchmarks.serve_rivals uvicorn | uvicorn-batcher PORT

POST /model/predict and /echo/predict take {"row": [64 numbers]}.
"""

import sys
from collections.abc import Sequence

import torch
from torch import nn

WIDTH, HIDDEN, NUM_CLASSES = 64, 3072, 10
MAX_ROWS = 32


def model() -> nn.Module:
    """Three layers; about 3.5 ms for a row alone, 0.5 ms a row in a batch of 32, on one core."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    layers = [nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(HIDDEN, NUM_CLASSES)).eval()


def answered(network: nn.Module, rows: Sequence[Sequence[float]]) -> list[list[float]]:
    with torch.inference_mode():
        found: list[list[float]] = network(torch.tensor(rows)).tolist()
        return found


def uvicorn_server(port: int, with_batcher: bool) -> None:
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel, Field

    app, network = FastAPI(), model()

    class Asked(BaseModel):
        row: list[float] = Field(min_length=WIDTH, max_length=WIDTH)

    class Told(BaseModel):
        answer: list[float]

    if with_batcher:
        from serving.batcher import Batcher

        batcher: Batcher[list[float], list[float]] = Batcher(lambda rows: answered(network, rows), MAX_ROWS)

        @app.post("/model/predict")
        async def predict(asked: Asked) -> Told:
            return Told(answer=(await batcher.ask([asked.row]))[0])
    else:

        @app.post("/model/predict")
        def predict_alone(asked: Asked) -> Told:  # in FastAPI's threads, as its pages recommend
            return Told(answer=answered(network, [asked.row])[0])

    @app.post("/echo/predict")
    async def echo(asked: Asked) -> Told:
        return Told(answer=asked.row[:NUM_CLASSES])

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def main(arguments: Sequence[str]) -> None:
    match arguments:
        case ["uvicorn", port]:
            uvicorn_server(int(port), with_batcher=False)
        case ["uvicorn-batcher", port]:
            uvicorn_server(int(port), with_batcher=True)
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
