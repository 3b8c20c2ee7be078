"""What is measured has the names and labels that the dashboard asks for."""

import re

from ray.util.metrics import Metric

from serving import measures
from serving.measures import Measures
from serving.watching import PANELS

MADE = (
    measures._requests,
    measures._request_ms,
    measures._batch_rows,
    measures._rows,
    measures._waiting_rows,
    measures._share,
    measures._drift_index,
    measures._shadow_same,
)


def keys_of(metric: Metric) -> set[str]:
    return set(metric.info["tag_keys"])


def test_every_measure_takes_its_labels_without_a_cluster() -> None:
    mine = Measures("loans", "r1")
    mine.request("v1", "/predict", 200, 3.5)
    mine.batch("v1", 8, 0)
    mine.drift("v1", {"age": 0.3})
    mine.shares({"v1": 0.9, "v2": 0.1})
    mine.shadow("v3", {"num_compared": 0, "num_same": 0})
    mine.shadow("v3", {"num_compared": 4, "num_same": 3})


def test_the_dashboard_asks_for_measures_and_labels_that_there_are() -> None:
    known = {f"ray_{metric().info['name']}": keys_of(metric()) for metric in MADE}
    asked = set()
    for panel in PANELS:
        for name, labels in re.findall(r"(ray_rayline_\w+)\{([^}]*)\}", panel.expression):
            stem = re.sub(r"_(bucket|sum|count|total)$", "", name)
            asked.add(stem)
            wanted = set(re.findall(r"(\w+)=", labels)) | set(re.findall(r"\{\{(\w+)\}\}", panel.legend))
            assert wanted <= known[stem], panel.title
    assert asked == set(known)
