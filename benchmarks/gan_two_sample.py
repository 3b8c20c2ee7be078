"""How well images of the shipped GAN can be told from real ones, by two-sample tests on held-out images.

nice python benchmarks/gan_two_sample.py [--seeds 3] [--picture PATH]     # about 5 minutes; writes the .md beside it

`--picture` also writes a PNG file: two lines of real images above two of made ones.
"""

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cluster.lifecycle import connected
from cluster.registry import Registry
from cluster.storage import Storage
from jobs import examples, prepare, train, version
from jobs.prepared import read_split, read_train
from jobs.spec import RingSpec, load_ring
from jobs.version import Version
from jobs.workloads import gan

SPEC = Path(__file__).parents[1] / "jobs/specs/gan.yaml"
NUM_SHOWN = 16
"""Images a line of the picture."""
TIMES = 5
"""How much larger they are shown."""

Scores = dict[str, float]


def trained(spec: RingSpec, storage: Storage) -> tuple[Version, float]:
    """What was published, and the seconds that train took."""
    began = time.monotonic()
    name = train.run(spec, storage).folder.rsplit("/", 1)[1]
    took = time.monotonic() - began
    with Registry(storage, spec.name).open(name) as folder:
        content = version.read(folder)
    print(f"seed {spec.seed}: {content.metrics} in {took:.0f} s", flush=True)
    return content, took


def of_training_images(known: Tensor, real: Tensor, seed: int) -> Scores:
    """What as many training images as there are test images come to: the best that can be hoped for."""
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
    return gan.scores(known[order[: len(real)]], real)


def line(name: str, runs: list[Scores]) -> str:
    return f"| {name} | {' | '.join(told([run[metric] for run in runs]) for metric in gan.metrics)} |"


def told(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.4f}"
    return mean if len(set(values)) == 1 else f"{mean} ({min(values):.4f} to {max(values):.4f})"


def picture(real: Tensor, made: Tensor, shape: tuple[int, int, int]) -> Image.Image:
    """Lines of grey images on a ground of middle grey."""
    cells = torch.cat([real, made]).view(4, NUM_SHOWN, *shape[1:])
    padded = torch.nn.functional.pad(cells, (1, 1, 1, 1), value=0.5)
    levels = (padded.transpose(1, 2).flatten(2).flatten(0, 1) * 255).round().numpy().astype(np.uint8)
    return Image.fromarray(levels.repeat(TIMES, 0).repeat(TIMES, 1))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, connected():
        storage = Storage(folder)
        examples.main(["gan", folder])
        overrides = [f"storage={folder}", "layout={replicate: 1}"]
        specs = [load_ring(SPEC, [*overrides, f"seed={seed}"]) for seed in range(options.seeds)]
        prepared = prepare.run(specs[0], storage).folder
        known = gan.tensors(read_train(storage, prepared, gan.ties).table)["pixels"]
        real = gan.tensors(read_split(storage, prepared, "test", gan.ties))["pixels"]
        runs = [trained(spec, storage) for spec in specs]
    versions = [content for content, _ in runs]
    lines = [
        "| images | 1-NN accuracy | squared MMD |",
        "|---|---:|---:|",
        *(line(name, [scores]) for name, scores in versions[0].baselines.items()),
        line("GAN", [content.metrics for content in versions]),
        line("training images", [of_training_images(known, real, seed) for seed in range(options.seeds)]),
    ]
    if options.picture:
        made = gan.made_of(specs[0].workload, versions[0].model, 1, 2 * NUM_SHOWN)  # type: ignore[arg-type]
        picture(real[: 2 * NUM_SHOWN], made, (1, 8, 8)).save(options.picture)
    Path(__file__).with_suffix(".md").write_text(
        f"""# Images of the GAN beside real ones

The digits of scikit-learn ({len(known):,} training images of 8 x 8 pixels), through `jobs/specs/gan.yaml` with one
worker instead of two; published is the moving average of the epoch whose 1-NN accuracy on the validation images is
the lowest. The {len(real)} test images are compared with as many made ones. The 1-NN accuracy is that of telling
the two apart by the nearest other image (Lopez-Paz and Oquab, 2017): 0.5 if they are alike. The squared MMD is
unbiased, with a Gaussian kernel (Gretton et al., 2012): 0 if they are alike, and by chance a little less.
`pixel_normals` draws each pixel by itself from a normal distribution, `gaussian` all together from one with the
covariance of the training images. `training images` are real ones chosen at random, as many as there are test
images: the best that can be hoped for.
Mean of {options.seeds} seeds (lowest to highest); to train took {statistics.mean(took for _, took in runs):.0f} s each.
{platform.machine()} with Python {platform.python_version()}.
Made by `python benchmarks/gan_two_sample.py --seeds {options.seeds}`.

{chr(10).join(lines)}
"""
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
