"""The files for Prometheus and Grafana; `test_release` has them read by a real one."""

import pytest

from cluster.errors import ClusterError
from serving.watching import PANELS, dashboard, main


def test_the_dashboard_has_a_place_for_every_panel() -> None:
    panels = dashboard()["panels"]
    assert [panel["title"] for panel in panels] == [panel.title for panel in PANELS]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["targets"][0]["expr"].count("(") == panel["targets"][0]["expr"].count(")") for panel in panels)


def test_another_word_on_the_command_line_is_told_the_form() -> None:
    with pytest.raises(ClusterError, match=r"usage: python -m serving.watching FOLDER"):
        main([])
