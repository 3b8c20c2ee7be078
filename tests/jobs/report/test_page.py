import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from jobs.report.page import MAX_REASONS, page
from jobs.report.quarantine import Reason
from tests.jobs.report.test_report import example

EVIL = "<script>alert('x')</script>\"&"
VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Checks that elements nest, and keeps what there is."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def test_values_reasons_and_names_are_shown_and_never_run() -> None:
    made = example(carrier=EVIL, reason=EVIL)
    made = replace(made, name=EVIL, folder=EVIL)
    text = page(made)
    reader = read(text)
    assert {"script", "iframe", "img", "link", "object"}.isdisjoint({tag for tag, _ in reader.tags})
    assert "<script" not in text
    assert EVIL in reader.texts
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    said = " ".join(attributes.get("aria-label") or "" for _, attributes in reader.tags)
    assert EVIL in said


def test_it_needs_nothing_from_outside() -> None:
    reader = read(page(example()))
    assert not re.search(r"https?:|//[a-z]", page(example()))
    links = [value for _, attributes in reader.tags for name, value in attributes.items() if name in ("href", "src")]
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert sorted({f"#{name}" for name in ids}) == sorted(f"#{name}" for name in ids)
    assert set(links) <= {f"#{name}" for name in ids}
    assert set(links) == {"#columns", "#steps", "#quarantine"}


def test_pictures_have_words_and_tables_captions() -> None:
    reader = read(page(example()))
    pictures = [attributes for tag, attributes in reader.tags if tag == "svg"]
    assert pictures
    assert all(each.get("aria-label") or each.get("aria-hidden") for each in pictures)
    tags = [tag for tag, _ in reader.tags]
    assert tags.count("table") == tags.count("caption") == 2
    assert tags.count("h1") == 1


@pytest.mark.parametrize(
    "said",
    [
        "2,003",
        "in quarantine (0.1%)",
        "training rows left out by steps",
        "train 1,000 (50%)",
        "raw/flights",
        "2 files",
        "prepared/flights/abc",
        "delay is missing",
        "'<b>'",
        "Changed by step 3 too; the picture shows all.",
        "test, index",
    ],
)
def test_it_tells_what_was_read_refused_changed_and_made(said: str) -> None:
    assert said in "".join(read(page(example())).texts)


def test_many_reasons_are_added_up() -> None:
    made = example()
    reasons = tuple(Reason(f"rule {number} is broken", 2, ()) for number in range(MAX_REASONS + 3))
    table = replace(made.tables[0], num_bad=2 * len(reasons), reasons=reasons)
    texts = read(page(replace(made, tables=(table,)))).texts
    assert "3 other reasons" in texts
    assert "6" in texts[texts.index("3 other reasons") :]


def test_nothing_refused_and_nothing_odd_is_said_so() -> None:
    made = example()
    table = replace(made.tables[0], num_bad=0, reasons=())
    text = page(replace(made, tables=(table,), findings=(), drifts=(), steps=()))
    assert "rows passed every check." in text
    assert "Nothing stands out." in text
    assert "What was changed</h2>" not in text


def test_the_sampling_error_is_said_where_there_is_one() -> None:
    assert "few enough for all of them" in page(example())
    assert "at most 0.50 percentage points" in page(replace(example(), num_sampled=10_000))
