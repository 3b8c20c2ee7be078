from cluster.layout import Layout
from jobs.search.plan_table import drawing, table
from tests.jobs.search.test_forecast import device, forecaster


def test_a_table_has_a_line_a_layout_and_says_what_is_left_out() -> None:
    forecasts = forecaster().rank(4)
    lines = table(forecasts, 3, 16, device(1)).splitlines()
    assert lines[0].split()[:4] == ["layout", "step", "s", "rows/s"]
    assert [line.startswith(each.layout.line()) for line, each in zip(lines[1:4], forecasts.fits, strict=False)] == [
        True
    ] * 3
    counts = f"{len(forecasts.fits)} layouts fit, 0 do not, {len(forecasts.refused)} shapes are refused"
    assert lines[4] == f"{counts}; {len(forecasts.fits) - 3} slower ones are not shown"
    assert lines[5].startswith("refused: layout.")
    assert lines[-1] == "rates: made up"


def test_where_nothing_fits_the_smallest_are_told_with_their_reasons() -> None:
    shown = table(forecaster(0.001).rank(2), 3, 16, device(0.001))
    assert shown.startswith("0 layouts fit")
    assert shown.count("too large: ") == 4
    assert "more, which take more" in shown


def test_a_drawing_has_a_line_a_node() -> None:
    assert drawing(Layout(shard=2, tensor=4), 4).splitlines() == [
        "node 0: shard 0, tensor 0-3",
        "node 1: shard 1, tensor 0-3",
    ]
    assert drawing(Layout(), 8) == "node 0: the whole model"


def test_of_many_nodes_the_first_and_the_last_are_drawn() -> None:
    assert drawing(Layout(replicate=64), 8).splitlines() == [
        "node 0: replicate 0-7",
        "node 1: replicate 8-15",
        "node 2: replicate 16-23",
        "... 4 nodes more",
        "node 7: replicate 56-63",
    ]
