import pytest

from cluster.errors import ClusterError, DataError, UserError, nearest, user_error_in


class WrappingError(Exception):
    """Like ray.exceptions.RayTaskError: keeps what it wraps in `cause`."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__("wrapped")
        self.cause = cause


def chained(inner: Exception) -> Exception:
    try:
        try:
            raise inner
        except Exception as error:
            raise RuntimeError("outer") from error
    except RuntimeError as outer:
        return outer


def test_the_nearest_valid_name_is_guessed_and_all_are_listed() -> None:
    assert nearest("learning_rat", ["seed", "learning_rate"]) == (
        "Did you mean 'learning_rate'? Valid: learning_rate, seed."
    )


def test_nothing_is_guessed_when_nothing_is_near() -> None:
    assert nearest("zzz", ["seed"]) == "Valid: seed."
    assert nearest("zzz", []) == "Valid: none."


@pytest.mark.parametrize(
    "wrap", [lambda error: error, WrappingError, chained, lambda error: WrappingError(chained(error))]
)
def test_a_user_error_is_found_in_whatever_wraps_it(wrap: type[WrappingError]) -> None:
    error = DataError("3 bad rows")
    assert user_error_in(wrap(error)) is error


def test_an_error_that_no_user_caused_stays_unknown() -> None:
    assert user_error_in(chained(ValueError("a bug"))) is None


def test_a_chain_that_bites_its_tail_comes_to_an_end() -> None:
    first, second = ValueError("1"), ValueError("2")
    first.__cause__, second.__cause__ = second, first
    assert user_error_in(first) is None


def test_every_error_of_ours_is_a_user_error() -> None:
    assert issubclass(ClusterError, UserError)
