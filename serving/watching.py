"""Write what Prometheus and Grafana need to watch the applications of a cluster.

    python -m serving.watching FOLDER

    FOLDER/prometheus.yml     prometheus --config.file=FOLDER/prometheus.yml
    FOLDER/rayline.json       a dashboard: in Grafana, Dashboards > New > Import

Prometheus finds the nodes of the cluster, and those that come, in a file that Ray keeps on the head node; run it there.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray._private.worker as ray_worker

from cluster.command import run as run_command
from cluster.errors import ClusterError
from cluster.lifecycle import connected

DISCOVERY = "prom_metrics_service_discovery.json"
EVERY = "[1m]"
MINE = 'application=~"$application"'
WIDTH, HEIGHT, COLUMNS = 12, 8, 2


@dataclass(frozen=True)
class Panel:
    """One plot."""

    title: str
    expression: str
    """In PromQL."""
    legend: str
    unit: str = "short"
    """Of Grafana's."""


def _quantile(share: float) -> str:
    buckets = f"sum by (le, version) (rate(ray_rayline_request_ms_bucket{{{MINE}}}{EVERY}))"
    return f"histogram_quantile({share}, {buckets})"


PANELS = (
    Panel("Requests", f"sum by (version) (rate(ray_rayline_requests_total{{{MINE}}}{EVERY}))", "{{version}}", "reqps"),
    Panel(
        "Share that fails (status 500 and above)",
        f'sum by (version) (rate(ray_rayline_requests_total{{{MINE},status=~"5.."}}{EVERY})) '
        f"/ sum by (version) (rate(ray_rayline_requests_total{{{MINE}}}{EVERY}))",
        "{{version}}",
        "percentunit",
    ),
    Panel("Latency, median", _quantile(0.5), "{{version}}", "ms"),
    Panel("Latency, 99th percentile", _quantile(0.99), "{{version}}", "ms"),
    Panel(
        "Answers by status",
        f"sum by (status, path) (rate(ray_rayline_requests_total{{{MINE}}}{EVERY}))",
        "{{status}} {{path}}",
        "reqps",
    ),
    Panel("Share of the traffic", f"max by (version) (ray_rayline_share{{{MINE}}})", "{{version}}", "percentunit"),
    Panel(
        "Rows a batch",
        f"sum by (version) (rate(ray_rayline_rows_total{{{MINE}}}{EVERY})) "
        f"/ sum by (version) (rate(ray_rayline_batch_rows_count{{{MINE}}}{EVERY}))",
        "{{version}}",
    ),
    Panel("Rows that wait", f"sum by (version) (ray_rayline_waiting_rows{{{MINE}}})", "{{version}}"),
    Panel(
        "Drift: stability index (0.25 is clear)",
        f"max by (version, column) (ray_rayline_drift_index{{{MINE}}})",
        "{{column}} of {{version}}",
    ),
    Panel(
        "Shadows: share of the same answers",
        f"avg by (version) (ray_rayline_shadow_same_share{{{MINE}}})",
        "{{version}}",
        "percentunit",
    ),
)


def dashboard() -> dict[str, Any]:
    """Grafana's model of the dashboard, for its import; it asks which Prometheus."""
    source = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
    panels = [
        {
            "id": number + 1,
            "type": "timeseries",
            "title": panel.title,
            "datasource": source,
            "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
            "gridPos": {"x": number % COLUMNS * WIDTH, "y": number // COLUMNS * HEIGHT, "w": WIDTH, "h": HEIGHT},
            "targets": [{"refId": "A", "expr": panel.expression, "legendFormat": panel.legend, "datasource": source}],
        }
        for number, panel in enumerate(PANELS)
    ]
    application = {
        "name": "application",
        "type": "query",
        "datasource": source,
        "query": "label_values(ray_rayline_requests_total, application)",
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }
    return {
        "__inputs": [{"name": "DS_PROMETHEUS", "label": "Prometheus", "type": "datasource", "pluginId": "prometheus"}],
        "title": "Rayline: applications",
        "uid": "rayline-applications",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [application]},
        "panels": panels,
    }


def prometheus(discovery: Path) -> dict[str, Any]:
    """Prometheus' configuration, as JSON, which is YAML.

    Args:
        discovery: the file in which Ray names what is to be read.
    """
    jobs = [{"job_name": "ray", "file_sd_configs": [{"files": [str(discovery)], "refresh_interval": "10s"}]}]
    return {"global": {"scrape_interval": "5s", "evaluation_interval": "5s"}, "scrape_configs": jobs}


def discovery_file() -> Path:
    """The file in which Ray names the metrics ports of the nodes of the connected cluster.

    Raises:
        ClusterError: this machine is not the head node, which has it.
    """
    node: Any = ray_worker._global_node
    path = Path(node.get_temp_dir_path()) / DISCOVERY
    if not path.is_file():
        raise ClusterError(f"there is no '{path}'; run this on the head node of the cluster")
    return path


def write(folder: Path, discovery: Path) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(json.dumps(prometheus(discovery), indent=1) + "\n")
    (folder / "rayline.json").write_text(json.dumps(dashboard(), indent=1) + "\n")


def main(arguments: Sequence[str]) -> int:
    """Write the files for the running cluster."""
    match arguments:
        case [folder]:
            with connected():
                write(Path(folder), discovery_file())
            print(f"prometheus --config.file={folder}/prometheus.yml\nGrafana: import {folder}/rayline.json")
        case _:
            raise ClusterError("usage: python -m serving.watching FOLDER")
    return 0


if __name__ == "__main__":
    run_command(main)
