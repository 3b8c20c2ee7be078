from typing import Any

import pytest

from serving.differences import differences


@pytest.mark.parametrize(
    ("expected", "given", "found"),
    [
        ({"a": [1.0, {"b": "x"}]}, {"a": [1.00005, {"b": "x"}]}, []),
        ({"a": [1.0, {"b": "x"}]}, {"a": [1.01, {"b": "y"}]}, [("/a/0", 1.0, 1.01), ("/a/1/b", "x", "y")]),
        ({"a": 1.0}, {"a": float("nan")}, [("/a", 1.0, float("nan"))]),
        ({"a": [1]}, {"a": [1, 2]}, [("/a", [1], [1, 2])]),
        ({"id": "one", "a": True}, {"id": "other", "a": True, "c": 3}, [("/c", None, 3)]),
        ({"a": "x"}, "nothing", [("", {"a": "x"}, "nothing")]),
    ],
)
def test_differences_have_their_place_and_both_values(expected: Any, given: Any, found: list[Any]) -> None:
    assert repr(list(differences(expected, given))) == repr(found)


def test_fields_to_leave_out_are_left_out_wherever_they_are() -> None:
    here, there = {"a": [{"who": 1, "b": 2}], "who": 1}, {"a": [{"who": 2, "b": 2}], "who": 3}
    assert list(differences(here, there, leave_out=frozenset({"who"}))) == []
    assert len(list(differences(here, there))) == 2
