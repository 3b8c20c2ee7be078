import re

from jobs.report.style import STYLE


def test_it_asks_for_nothing_outside_and_cannot_end_its_element() -> None:
    assert not re.search(r"url\(|@import|https?:|</|//", STYLE)


def test_every_colour_that_is_used_is_set_for_light_dark_and_paper() -> None:
    used = set(re.findall(r"var\((--[\w-]+)\)", STYLE))
    light, dark, paper = (set(re.findall(r"(--[\w-]+):", part)) for part in re.findall(r":root \{(.*?)\}", STYLE, re.S))
    assert used <= light
    assert light == dark == paper
