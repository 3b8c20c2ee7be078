from typing import Any

import pytest
import torch

from cluster.errors import ClusterError
from cluster.placement import Node
from cluster.registry import Registry
from jobs.spec import ServingSpec
from serving import replica_device
from serving.classifier import Classifier
from serving.replica_device import check_gpus, device_of_replica

NODES = [Node("a", {"CPU": 8, "GPU": 1}, {}), Node("b", {"CPU": 8}, {})]


def test_only_a_replica_takes_a_gpu() -> None:
    assert device_of_replica(ServingSpec(num_gpus=0.5)) == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_a_replica_without_its_gpu_does_not_answer_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_device, "_is_in_replica", lambda: True)
    assert device_of_replica(ServingSpec()) == torch.device("cpu")
    with pytest.raises(ClusterError, match=r"serving\.num_gpus=0\.5 .* torch .* sees none .* serving\.num_gpus=0$"):
        device_of_replica(ServingSpec(num_gpus=0.5))


@pytest.mark.parametrize(
    ("serving", "fits"),
    [
        ({}, True),
        ({"num_gpus": 1}, True),
        ({"num_gpus": 1, "num_replicas": 2}, False),
        ({"num_gpus": 0.5, "num_replicas": 2}, True),
        ({"num_gpus": 0.4, "num_replicas": 3}, False),
        ({"num_gpus": 0.5, "autoscale": {"min_replicas": 2, "max_replicas": 9}}, True),
    ],
)
def test_replicas_have_room_on_the_gpus_before_any_starts(serving: dict[str, Any], fits: bool) -> None:
    spec = ServingSpec.model_validate(serving)
    if fits:
        check_gpus(spec, NODES)
        return
    with pytest.raises(ClusterError, match=r"the 2 nodes have 1 GPUs, room for [12]; add a node"):
        check_gpus(spec, NODES)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_version_answers_on_a_gpu_as_it_did_in_training(loans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_device, "_is_in_replica", lambda: True)
    storage, spec, version = loans
    Classifier.load(Registry(storage, spec.name), version, device_of_replica(ServingSpec(num_gpus=0.5)))
