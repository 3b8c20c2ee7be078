"""The rival of train_overhead: a training loop as one writes it by hand, started by torchrun.

    torchrun --nproc-per-node 2 benchmarks/ddp_loop.py MODEL_JSON NUM_STEPS FILE

The model and the batch are those of train_overhead; rows lie in memory as tensors. Writes each step's seconds.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[1]))
from jobs.workloads.transformer import TransformerSpec, transformer

BATCH_SIZE, LENGTH, NUM_ROWS = 16, 64, 512


def main() -> None:
    """Train and write the times."""
    spec, num_steps, file = TransformerSpec(**json.loads(sys.argv[1])), int(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = DistributedDataParallel(transformer(spec))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    tokens = torch.randint(0, 256, (NUM_ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    position = torch.arange(LENGTH).expand(BATCH_SIZE // 2, LENGTH)
    order = torch.randperm(NUM_ROWS, generator=torch.Generator().manual_seed(1))
    times = []
    for step in range(num_steps):
        started = time.perf_counter()
        first = step * BATCH_SIZE % NUM_ROWS
        rows = tokens[order[first : first + BATCH_SIZE][dist.get_rank() :: 2]]
        optimizer.zero_grad()
        logits = model({"token": rows[:, :-1], "position": position})
        F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).backward()
        optimizer.step()
        times.append(time.perf_counter() - started)
    if int(os.environ["RANK"]) == 0:
        file.write_text(json.dumps(times))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
