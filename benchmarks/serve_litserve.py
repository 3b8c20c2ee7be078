"""The model of serve_throughput, or its echo, behind LitServe, as its pages have it.

python -m benchmarks.serve_litserve model | echo PORT
"""

import sys

import litserve

from benchmarks.serve_rivals import MAX_ROWS, NUM_CLASSES, answered, model

WAIT_S = 0.002
"""For a batch to fill."""


class Api(litserve.LitAPI):
    def __init__(self, kind: str) -> None:
        super().__init__(max_batch_size=MAX_ROWS, batch_timeout=WAIT_S, api_path=f"/{kind}/predict")
        self.kind = kind

    def setup(self, device: str) -> None:
        self.network = model()

    def decode_request(self, request: dict[str, list[float]]) -> list[float]:
        return request["row"]

    def batch(self, inputs: list[list[float]]) -> list[list[float]]:
        return inputs

    def predict(self, rows: list[list[float]]) -> list[list[float]]:
        return answered(self.network, rows) if self.kind == "model" else [row[:NUM_CLASSES] for row in rows]

    def unbatch(self, output: list[list[float]]) -> list[list[float]]:
        return output

    def encode_response(self, output: list[float]) -> dict[str, list[float]]:
        return {"answer": output}


if __name__ == "__main__":
    server = litserve.LitServer(Api(sys.argv[1]), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning", access_log=False
    )
