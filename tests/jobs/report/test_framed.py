from xml.etree import ElementTree

from jobs.report.framed import EDGE, HIGH, WIDE, framed, scale, svg, text


def test_a_scale_leads_from_one_end_to_the_other() -> None:
    place = scale([2.0, 6.0, 4.0], 10, 30)
    assert [place(value) for value in (2.0, 4.0, 6.0)] == [10, 20, 30]
    assert scale([3.0, 3.0], 10, 30)(3.0) == 10


def test_words_and_titles_are_escaped() -> None:
    assert "<b>" not in svg("<b>", [text(1, 2, "<b>")])
    assert "&lt;b&gt;" in text(1, 2, "<b>", "end")


def test_the_axes_tell_their_names_and_ends() -> None:
    picture = ElementTree.fromstring(
        f"<p>{framed('a picture', 'epochs', 'score', [(1, 0.25), (8, 0.5)], ['<g/>'])}</p>"
    )
    told = [each.text for each in picture.iter("text")]
    assert told == ["1", "8", "epochs", "0.25", "0.5", "score"]
    places = [(float(each.get("x", 0)), float(each.get("y", 0))) for each in picture.iter("text")]
    assert all(0 <= x <= WIDE and 0 <= y <= HIGH for x, y in places)
    assert places[0] == (EDGE, HIGH - EDGE + 12)
    assert len([*picture.iter("g")]) == 1
