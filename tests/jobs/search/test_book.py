from pathlib import Path

from cluster.storage import Storage
from jobs.search.book import Book
from jobs.search.trial import LayoutTrial, Trial


def test_a_trial_is_noted_in_place_of_what_was_noted_of_it(tmp_path: Path) -> None:
    book = Book(Storage(str(tmp_path)), "plans/films/key.search/trials", Trial)
    assert book.read() == {}
    last = Trial(12, {"rate": 0.1 + 0.2, "on": True}, {"shard": 2}, curve=({"num_epochs": 1, "score": 0.5},), best=0.5)
    book.note("000012", Trial(12, {}, {}))
    book.note("000002", Trial(2, {}, {}, outcome="died", said="gone"))
    book.note("000012", last)
    assert [*book.read().items()] == [("000002", Trial(2, {}, {}, outcome="died", said="gone")), ("000012", last)]


def test_what_is_removed_is_not_read(tmp_path: Path) -> None:
    book = Book(Storage(str(tmp_path)), "trials", Trial)
    for number in range(2):
        book.note(f"{number}", Trial(number, {}, {}))
    book.remove("0")
    assert book.read() == {"1": Trial(1, {}, {})}


def test_a_book_of_layouts_is_read_by_another_process_with_the_same_storage(tmp_path: Path) -> None:
    trial = LayoutTrial({"tensor": 2}, 2**30, 0.1, (0.1, 0.2), (5, 6), "finished", "", 1, 2.5)
    Book(Storage(str(tmp_path)), "layouts", LayoutTrial).note("0000", trial)
    assert Book(Storage(str(tmp_path)), "layouts", LayoutTrial).read() == {"0000": trial}
