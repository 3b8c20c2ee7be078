"""Every mistake in a layout is told before a worker starts, with the value, the rule and a way out that is one."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, schedules
from torch.testing._internal.distributed.fake_pg import FakeStore

from cluster.errors import SpecError
from cluster.layout import Layout
from jobs.parallel import STRATEGIES, check
from jobs.parallel.pipeline import ONE_STAGE_A_WORKER, SCHEDULES, num_stages, stages_of
from jobs.workloads import gan, language, recommender, tabular, vision
from jobs.workloads.gan import GanSpec
from jobs.workloads.language import LanguageSpec
from jobs.workloads.partition import Partition
from jobs.workloads.recommender import RecommenderSpec
from jobs.workloads.tabular import TabularSpec
from jobs.workloads.vision import VisionSpec

SMALL = {"num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "feed_forward_dim": 96, "context_length": 16}
"""A language model of six links: embedding, four layers, head."""
REFUSING = {
    "language": language.partition(LanguageSpec(tie_embeddings=True)),
    "tabular": tabular.partition(TabularSpec(label="label", numeric=("a",))),
    "vision": vision.partition(VisionSpec(height=8, width=8)),
    "recommender": recommender.partition(RecommenderSpec()),
    "gan": gan.partition(GanSpec(height=8, width=8)),
}
OTHER_VALUE: dict[str, Any] = {"tensor": 2, "pipeline": 2, "context": 2, "sequence_parallel": True, "recompute": True}


@dataclass(frozen=True)
class Mistake:
    """A layout that does not fit, what is said of it, and the ways out that this names."""

    layout: dict[str, Any]
    said: str
    ways_out: tuple[str, ...]
    """Each with keys as an override takes them, all of which are to be given."""
    workload: dict[str, Any] = field(default_factory=dict)


MISTAKES = {
    "heads": Mistake(
        {"tensor": 3},
        "layout.tensor=3 does not divide workload.num_heads=4; give one of 1, 2, or another workload.num_heads",
        ("layout.tensor=1", "layout.tensor=2"),
    ),
    "key-heads": Mistake(
        {"tensor": 4},
        "layout.tensor=4 does not divide workload.num_kv_heads=2; give one of 1, 2, or another workload.num_kv_heads",
        ("layout.tensor=2", "workload.num_kv_heads=4"),
    ),
    "feed-forward": Mistake(
        {"tensor": 2},
        "layout.tensor=2 does not divide workload.feed_forward_dim=95; "
        "give one of 1, or another workload.feed_forward_dim",
        ("layout.tensor=1", "workload.feed_forward_dim=96"),
        {"feed_forward_dim": 95},
    ),
    "vocabulary": Mistake(
        {"tensor": 2},
        "layout.tensor=2 does not divide workload.vocabulary_size=289; "
        "give one of 1, or another workload.vocabulary_size",
        ("layout.tensor=1", "workload.vocabulary_size=290"),
        {"vocabulary_size": 289},
    ),
    "sequence-parallel-alone": Mistake(
        {"sequence_parallel": True},
        "layout.sequence_parallel=true splits sequences between tensor peers, but layout.tensor=1 has none; "
        "give layout.tensor=2 or more, or leave it out",
        ("layout.tensor=2", "layout.sequence_parallel=false"),
    ),
    "sequence-parallel-length": Mistake(
        {"sequence_parallel": True, "tensor": 2, "context": 3},
        "layout.sequence_parallel=true splits workload.context_length=15 over tensor=2 x context=3 = 6 workers, "
        "which does not divide; give workload.context_length=18",
        ("workload.context_length=18",),
        {"context_length": 15},
    ),
    "context": Mistake(
        {"context": 3},
        "layout.context=3 does not divide workload.context_length=16; "
        "give one of 1, 2, 4, 8, 16, or another workload.context_length",
        ("layout.context=2", "layout.context=16", "workload.context_length=18"),
    ),
    "micro-batches-fewer-than-stages": Mistake(
        {"pipeline": 4, "micro_batches": 3},
        "layout.micro_batches=3 are fewer than layout.pipeline=4 stages, so schedule=1f1b cannot fill them; "
        "give layout.micro_batches=4 or more",
        ("layout.micro_batches=4", "layout.micro_batches=5"),
    ),
    "micro-batches-fewer-than-workers": Mistake(
        {"pipeline": 3, "schedule": "zbv"},
        "layout.micro_batches=1 are fewer than layout.pipeline=3 stages, so schedule=zbv cannot fill them; "
        "give layout.micro_batches=3 or a multiple of it",
        ("layout.micro_batches=3", "layout.micro_batches=6"),
    ),
    **{
        f"micro-batches-no-multiple-{schedule}": Mistake(
            {"pipeline": 2, "micro_batches": 5, "schedule": schedule},
            f"layout.micro_batches=5 is no multiple of layout.pipeline=2, which schedule={schedule} goes round in; "
            "give layout.micro_batches=4 or 6",
            ("layout.micro_batches=4", "layout.micro_batches=6"),
        )
        for schedule in ("interleaved_1f1b", "interleaved_zero_bubble", "zbv")
    },
    "micro-batches-without-a-pipeline": Mistake(
        {"micro_batches": 4},
        "layout.micro_batches=4 keep a pipeline busy, but layout.pipeline=1; "
        "to add up the gradients of several passes give layout.accumulation=4 instead",
        ("layout.accumulation=4 layout.micro_batches=1",),
    ),
    "more-stages-than-links": Mistake(
        {"pipeline": 8, "micro_batches": 8},
        "layout.pipeline=8 with schedule=1f1b makes 8 stages, 1 a worker, but the model has 6 layers to cut between; "
        "give layout.pipeline=6, or a deeper model",
        ("layout.pipeline=6", "workload.num_layers=6"),
    ),
    "more-stages-than-links-two-a-worker": Mistake(
        {"pipeline": 4, "micro_batches": 8, "schedule": "interleaved_1f1b"},
        "layout.pipeline=4 with schedule=interleaved_1f1b makes 8 stages, 2 a worker, but the model has 6 layers to "
        "cut between; give layout.pipeline=2, or a deeper model",
        ("layout.pipeline=2", "workload.num_layers=6"),
    ),
    "too-few-links-for-two-stages-a-worker": Mistake(
        {"pipeline": 2, "micro_batches": 4, "schedule": "zbv"},
        "layout.pipeline=2 with schedule=zbv makes 4 stages, 2 a worker, but the model has 3 layers to cut between; "
        "give layout.schedule=1f1b with layout.pipeline=2, or a deeper model",
        ("layout.schedule=1f1b layout.pipeline=2", "workload.num_layers=2"),
        {"num_layers": 1},
    ),
    **{
        f"{key}-{schedule}": Mistake(
            {"pipeline": 2, "micro_batches": 4, "schedule": schedule, key: True},
            f"layout.{key}=true {why}, which layout.schedule={schedule} runs in two halves; "
            "give layout.schedule=1f1b or interleaved_1f1b",
            ("layout.schedule=1f1b", "layout.schedule=interleaved_1f1b", f"layout.{key}=false"),
        )
        for key, why in {
            "recompute": "computes a unit's activations again in its backward pass",
            "compile": "makes one piece of a unit's backward pass",
        }.items()
        for schedule in ("interleaved_zero_bubble", "zbv")
    },
}


def message(layout: Layout, partition: Partition, kind: str = "language") -> str:
    with pytest.raises(SpecError) as caught:
        check(layout, partition, kind)
    return str(caught.value)


def changed(mistake: Mistake, way_out: str) -> tuple[Layout, LanguageSpec]:
    """Layout and model once a way out has been taken."""
    sections = {"layout": dict(mistake.layout), "workload": SMALL | mistake.workload}
    for override in way_out.split():
        key, _, value = override.partition("=")
        section, _, name = key.partition(".")
        sections[section][name] = value if name == "schedule" else json.loads(value)
    return Layout(**sections["layout"]), LanguageSpec(**sections["workload"])


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_its_value_its_rule_and_a_way_out(mistake: Mistake) -> None:
    layout, spec = changed(mistake, "")
    assert message(layout, language.partition(spec)) == mistake.said


@pytest.mark.parametrize(
    ("mistake", "way_out"), [(mistake, way) for mistake in MISTAKES.values() for way in mistake.ways_out]
)
def test_the_way_out_is_one(mistake: Mistake, way_out: str) -> None:
    layout, spec = changed(mistake, way_out)
    check(layout, language.partition(spec), "language")


@pytest.mark.parametrize(
    ("kind", "key"), [(kind, key) for kind, partition in REFUSING.items() for key in partition.refused]
)
def test_what_a_workload_cannot_take_is_refused_with_its_reason(kind: str, key: str) -> None:
    partition = REFUSING[kind]
    layout = Layout(**{key: OTHER_VALUE[key]})
    given, default = (str(getattr(each, key)).lower() for each in (layout, Layout()))
    assert message(layout, partition, kind) == (
        f"layout.{key}={given} makes no sense for the {kind} workload: {partition.refused[key]}. "
        f"Give layout.{key}={default}"
    )
    check(layout.model_copy(update={key: getattr(Layout(), key)}), partition, kind)


def test_untying_the_embeddings_lifts_what_tying_them_refuses() -> None:
    for layout in (Layout(pipeline=2, micro_batches=2), Layout(tensor=2, sequence_parallel=True)):
        assert "workload.tie_embeddings=false lifts this" in message(layout, REFUSING["language"])
        check(layout, language.partition(LanguageSpec(tie_embeddings=False)), "language")


def test_a_model_that_is_no_chain_has_one_link_and_so_no_pipeline() -> None:
    assert message(Layout(pipeline=2, micro_batches=2), Partition()).endswith(
        "makes 2 stages, 1 a worker, but the model has 1 layers to cut between; "
        "give layout.schedule=1f1b with layout.pipeline=1, or a deeper model"
    )


def test_the_longest_pipeline_that_goes_into_the_micro_batches_is_named() -> None:
    layout = Layout(pipeline=6, micro_batches=12, schedule="zbv")
    assert "give layout.pipeline=4, or" in message(layout, Partition(num_links=11))
    check(layout.model_copy(update={"pipeline": 4}), Partition(num_links=11), "language")


def test_every_size_that_a_tensor_group_divides_is_checked() -> None:
    sizes = {"workload.width": 12, "workload.depth": 8}
    assert message(Layout(tensor=8), Partition(tensor_divides=sizes)).startswith("layout.tensor=8 does not divide")
    assert "workload.depth=8; give one of 1, 2, 4," in message(Layout(tensor=3), Partition(tensor_divides=sizes))
    check(Layout(tensor=4), Partition(tensor_divides=sizes), "language")


@pytest.mark.parametrize(
    "layout",
    [
        Layout(),
        Layout(replicate=64, shard=8, accumulation=5, recompute=True, compile=True, precision="fp16"),
        Layout(tensor=2, pipeline=3, context=8, sequence_parallel=True, micro_batches=6, schedule="zbv"),
        Layout(pipeline=6, schedule="gpipe"),
    ],
    ids=Layout.line,
)
def test_a_layout_that_fits_passes(layout: Layout) -> None:
    check(layout, language.partition(LanguageSpec(**SMALL)), "language")


def test_a_strategy_is_checked_and_applied_under_its_key_in_the_layout() -> None:
    assert set(STRATEGIES) | {"pipeline"} <= set(Layout.model_fields)


@pytest.fixture(params=[2, 3, 4])
def place_in_a_pipeline(request: pytest.FixtureRequest) -> Iterator[int]:
    """A process group of that many workers, of which there is only the first: enough to build a schedule."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=request.param)
    yield request.param
    dist.destroy_process_group()


def torch_takes(layout: Layout) -> bool:
    stages = [PipelineStage(nn.Linear(1, 1), n, num_stages(layout), torch.device("cpu")) for n in stages_of(layout, 0)]
    given = stages[0] if layout.schedule in ONE_STAGE_A_WORKER else stages
    schedule = getattr(schedules, SCHEDULES[layout.schedule])
    try:
        schedule(given, n_microbatches=layout.micro_batches, loss_fn=lambda loss, _: loss)
    except ValueError:
        return False
    return True


def test_every_schedule_that_is_accepted_is_one_for_torch(place_in_a_pipeline: int) -> None:
    refused = 0
    for schedule in SCHEDULES:
        for micro_batches in range(1, 9):
            layout = Layout(pipeline=place_in_a_pipeline, schedule=schedule, micro_batches=micro_batches)
            try:
                check(layout, Partition(num_links=8), "language")
            except SpecError:
                refused += 1
            else:
                assert torch_takes(layout), layout.line()
    assert refused


@pytest.mark.parametrize("place_in_a_pipeline", [3], indirect=True)
def test_torch_itself_refuses_some_that_it_is_never_given(place_in_a_pipeline: int) -> None:
    assert not torch_takes(Layout(pipeline=3, micro_batches=2))
    assert not torch_takes(Layout(pipeline=3, micro_batches=7, schedule="interleaved_1f1b"))
