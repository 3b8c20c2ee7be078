from xml.etree import ElementTree

import pytest

from jobs.features.column_profile import Histogram
from jobs.report.plots import HEIGHT, WIDTH, categories, histogram, lines, meter, pairs, stacked


def rects(svg: str, kind: str) -> list[tuple[float, ...]]:
    """Position and size of each rectangle of a class."""
    tree = ElementTree.fromstring(svg)
    found = (each for each in tree.iter("rect") if each.get("class") == kind)
    return [tuple(float(each.get(key, "0")) for key in ("x", "y", "width", "height")) for each in found]


def test_bars_are_as_high_as_their_counts_and_stay_inside() -> None:
    svg = histogram(Histogram((0, 1, 2, 3, 4), (10, 20, 0, 5), below=4, above=20), "x")
    bars, tails = rects(svg, "bar"), rects(svg, "tail")
    heights = [bar[3] for bar in bars]
    assert [height / max(heights) for height in heights] == pytest.approx([0.5, 1, 0.25], abs=0.01)
    assert [tail[3] / max(heights) for tail in tails] == pytest.approx([0.2, 1], abs=0.01)
    for x, y, width, height in bars + tails:
        assert 0 <= x <= x + width <= WIDTH
        assert 0 <= y <= y + height <= HEIGHT
    assert tails[0][0] + tails[0][2] <= bars[0][0]
    assert bars[-1][0] + bars[-1][2] <= tails[1][0]


def test_a_value_that_is_rare_is_still_seen() -> None:
    assert rects(histogram(Histogram((0, 1, 2), (1_000_000, 1)), "x"), "bar")[1][3] >= 1


def test_categories_are_drawn_in_proportion_and_long_names_are_cut() -> None:
    svg = categories((("a" * 40, 0.5), ("<b>", 0.25)), "x & y")
    widths = [rect[2] for rect in rects(svg, "soft")]
    assert widths == pytest.approx([WIDTH, WIDTH / 2])
    texts = [each.text for each in ElementTree.fromstring(svg).iter("text")]
    assert texts == ["a" * 21 + "…", "50%", "<b>", "25%"]


def test_a_meter_is_filled_to_the_share_and_a_stack_to_its_end() -> None:
    assert rects(meter(0.25, "x"), "warn")[0][2] == 25
    assert rects(meter(0, "x"), "warn")[0][2] == 0
    assert rects(meter(1e-6, "x"), "warn")[0][2] > 0
    stack = stacked([("train", 3), ("test", 1)], "x")
    assert (rects(stack, "part0")[0][2], rects(stack, "part1")[0][0]) == (75, 75)


def test_two_distributions_share_a_scale() -> None:
    svg = pairs((0.5, 0.5), (1.0, 0.0), "x")
    assert rects(svg, "tail")[0][3] / rects(svg, "bar")[0][3] == pytest.approx(0.5, abs=0.01)


def test_every_picture_says_what_it_shows() -> None:
    for svg in (meter(0.5, "a <b>"), stacked([], "a <b>"), pairs((), (), "a <b>"), categories((), "a <b>")):
        tree = ElementTree.fromstring(svg)
        assert (tree.get("role"), tree.get("aria-label"), tree.findtext("title")) == ("img", "a <b>", "a <b>")


def test_curves_share_their_axes_and_stay_inside() -> None:
    svg = lines({"pale": [(0, 4.0), (10, 0.0), (20, float("nan"))], "dark": [(5, 2.0), (20, 1.0)]}, "loss")
    found = {each.get("class"): each.get("points") for each in ElementTree.fromstring(svg).iter("polyline")}
    pale, dark = (
        [tuple(map(float, point.split(","))) for point in str(found[name]).split()]
        for name in ("curve curve0", "curve curve1")
    )
    assert len(pale) == 2  # the value that is not finite is left out
    assert pale[0] == pytest.approx((1, 2))
    assert pale[1] == pytest.approx((WIDTH / 2, HEIGHT - 2))
    assert dark[0] == pytest.approx((1 + (WIDTH - 2) / 4, HEIGHT / 2))
    assert dark[1][0] == pytest.approx(WIDTH - 1)
    assert "from 0 to 4" in svg


def test_curves_of_one_value_or_of_none_are_drawn_all_the_same() -> None:
    ElementTree.fromstring(lines({"one": [(3, 2.0)]}, "loss"))
    assert "nothing to draw" in lines({"one": [], "other": [(1, float("inf"))]}, "loss")
