"""How much better than its baselines the recommender is on MovieLens, over seeds and both ways to split by time.

python benchmarks/recommender_quality.py [--seeds 5]       # about 30 s a seed and split; writes the .md beside it
"""

import argparse
import json
import platform
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cluster.lifecycle import connected
from cluster.registry import Registry
from cluster.storage import Storage
from jobs import movielens, prepare, train
from jobs.spec import load_ring

ROOT = Path(__file__).parents[1]
SPLITS = {"each user's latest ratings": "user_id", "all ratings after one moment": "null"}
BASELINE_OF = {"ndcg_at_10": "popularity", "hit_rate_at_10": "popularity", "rmse": "mean_rating"}
Scores = dict[str, dict[str, float]]


def measured(storage: Storage, within: str, seed: int) -> Scores:
    """Test metrics of a version and of its baselines."""
    spec = load_ring(
        ROOT / "jobs/specs/recommender.yaml",
        [f"storage={storage.uri}", f"prepare.split.within={within}", f"seed={seed}", "tune.num_trials=0"],
    )
    prepare.run(spec, storage)
    version = train.run(spec, storage).folder.rsplit("/", 1)[1]
    with Registry(storage, spec.name).open(version) as folder:
        content = json.loads((folder / "metrics.json").read_text())
    return {"model": content["test"], **content["baselines"]}


def lines_of(split: str, runs: list[Scores]) -> Iterator[str]:
    for metric, baseline in BASELINE_OF.items():
        model = [run["model"][metric] for run in runs]
        reference = runs[0][baseline][metric]
        spread = f"{statistics.mean(model):.4f} ({min(model):.4f} to {max(model):.4f})"
        yield f"| {split} | {metric} | {spread} | {reference:.4f} | {statistics.mean(model) / reference:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    lines = [
        "| split | metric | model: mean (lowest to highest) | baseline | ratio |",
        "|---|---|---:|---:|---:|",
    ]
    with tempfile.TemporaryDirectory() as folder, connected():
        storage = Storage(folder)
        movielens.main([folder])
        for split, within in SPLITS.items():
            lines += lines_of(split, [measured(storage, within, seed) for seed in range(seeds)])
    table = "\n".join(lines)
    print(table)
    (Path(__file__).with_suffix(".md")).write_text(
        f"""# The recommender against its baselines

MovieLens (100,004 ratings, 671 users, 9,066 films), `jobs/specs/recommender.yaml` without tune, {seeds} seeds,
{platform.machine()} with Python {platform.python_version()}. Held out: the latest 10 % by time.
Baselines: popularity for the rankings (higher is better), the training mean for RMSE (lower is better).
After one moment only the few users count that training knew, so those rankings vary much from seed to seed.
Made by `python benchmarks/recommender_quality.py --seeds {seeds}`.

{table}
"""
    )


if __name__ == "__main__":
    main()
