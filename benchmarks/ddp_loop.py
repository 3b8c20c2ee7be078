"""The rival of train_overhead: a training loop as one writes it by hand, started by torchrun.

    torchrun --nproc-per-node 2 benchmarks/ddp_loop.py MODEL_JSON STEPS_A_TURN FOLDER

The model and the batch are those of train_overhead; rows lie in memory as tensors. It trains when it has its turn.
"""

import json
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.turns import my_turns, tell
from jobs.workloads.transformer import TransformerSpec, transformer

BATCH_SIZE, LENGTH, NUM_ROWS = 16, 64, 512
BY_HAND = "by hand"


def main() -> None:
    """Train a few steps a turn."""
    spec, num_steps, folder = TransformerSpec(**json.loads(sys.argv[1])), int(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = DistributedDataParallel(transformer(spec))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    tokens = torch.randint(0, 256, (NUM_ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    position = torch.arange(LENGTH).expand(BATCH_SIZE // 2, LENGTH)
    order = torch.randperm(NUM_ROWS, generator=torch.Generator().manual_seed(1))
    first = 0
    for number, _ in my_turns(folder, (BY_HAND,)):
        started = time.perf_counter()
        for _ in range(num_steps):
            rows = tokens[order[first : first + BATCH_SIZE][dist.get_rank() :: 2]]
            first = (first + BATCH_SIZE) % NUM_ROWS
            optimizer.zero_grad()
            logits = model({"token": rows[:, :-1], "position": position})
            F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).backward()
            optimizer.step()
        if dist.get_rank() == 0:
            tell(folder, number, time.perf_counter() - started)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
