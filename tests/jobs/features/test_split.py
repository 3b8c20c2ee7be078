import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from jobs.features.row_hash import as_shares, row_hashes
from jobs.features.split import SplitSpec, TrainRows, split_by_group, split_by_hash, split_by_time

TIES = ("user", "item")


def events(seed: int, num_rows: int = 500, num_users: int = 12) -> pa.Table:
    """Random rows, many of the same moment; users of one row up to dozens."""
    draw = np.random.default_rng(seed)
    users = draw.zipf(1.5, num_rows) % num_users
    return pa.table(
        {
            "user": [f"u{user}" for user in users],
            "item": [f"i{item}" for item in range(num_rows)],
            "time": draw.integers(0, 60, num_rows),
        }
    )


def split(table: pa.Table, valid: float = 0.1, test: float = 0.1, within: str | None = "user") -> pa.Table:
    return split_by_time(table, SplitSpec(valid=valid, test=test, within=within), "time", TIES)


def by_user(table: pa.Table, within: str | None) -> dict[str, list[dict[str, object]]]:
    groups: dict[str, list[dict[str, object]]] = {}
    for row in table.to_pylist():
        groups.setdefault(str(row[within]) if within else "all", []).append(row)
    return groups


@pytest.mark.parametrize("within", ["user", None])
@pytest.mark.parametrize("seed", range(5))
def test_training_never_sees_a_later_row_than_validation_nor_that_than_the_test(seed: int, within: str | None) -> None:
    for rows in by_user(split(events(seed), within=within), within).values():
        times = {name: [row["time"] for row in rows if row["split"] == name] for name in ("train", "valid", "test")}
        assert max(times["train"]) <= min(times["valid"], default=10**9)
        assert max(times["valid"], default=-1) <= min(times["test"], default=10**9)
        assert max(times["train"]) <= min(times["test"], default=10**9)


@pytest.mark.parametrize("within", ["user", None])
@pytest.mark.parametrize("seed", range(5))
def test_no_row_is_lost_or_repeated(seed: int, within: str | None) -> None:
    table = events(seed)
    after = split(table, within=within).drop_columns(["split"])
    assert sorted(map(str, after.to_pylist())) == sorted(map(str, table.to_pylist()))


@pytest.mark.parametrize("within", ["user", None])
@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_input_does_not_matter(seed: int, within: str | None) -> None:
    table = events(seed)
    shuffled = table.take(np.random.default_rng(seed + 100).permutation(table.num_rows))
    assert split(shuffled, within=within) == split(table, within=within)


@pytest.mark.parametrize(("valid", "test"), [(0.1, 0.1), (0.2, 0.05), (0.3, 0.3)])
@pytest.mark.parametrize("within", ["user", None])
def test_each_part_gets_its_share_to_within_one_row(valid: float, test: float, within: str | None) -> None:
    for rows in by_user(split(events(3), valid, test, within), within).values():
        names = [row["split"] for row in rows]
        assert abs(names.count("test") - test * len(rows)) <= 1
        assert abs(names.count("valid") - valid * len(rows)) <= 1


@pytest.mark.parametrize(("valid", "test"), [(0.1, 0.1), (0.3, 0.3), (0.45, 0.45), (0.05, 0.94)])
def test_every_user_is_seen_in_training_however_few_rows_it_has(valid: float, test: float) -> None:
    for num_rows in range(1, 12):
        table = pa.table({"user": ["u"] * num_rows, "item": [*map(str, range(num_rows))], "time": [*range(num_rows)]})
        assert split(table, valid, test).column("split")[0].as_py() == "train"


def test_the_shares_of_ten_rows_are_eight_one_one() -> None:
    table = pa.table({"user": ["u"] * 10, "item": [*"abcdefghij"], "time": [*range(10, 0, -1)]})
    after = split(table)
    assert after.column("time").to_pylist() == [*range(1, 11)]
    assert after.column("split").to_pylist() == ["train"] * 8 + ["valid", "test"]


def test_without_a_key_one_moment_parts_the_rows_of_all_users() -> None:
    table = pa.table({"user": [*"ababababab"], "item": [*map(str, range(10))], "time": [*range(10)]})
    after = split(table, within=None)
    assert dict(zip(after.column("time").to_pylist(), after.column("split").to_pylist(), strict=True))[9] == "test"
    assert {row["user"] for row in after.to_pylist() if row["split"] != "train"} == {"a", "b"}


@pytest.mark.parametrize("within", ["user", None])
def test_a_table_without_rows_stays_one(within: str | None) -> None:
    after = split(events(0).slice(0, 0), within=within)
    assert after.num_rows == 0
    assert after.schema.field("split").type == pa.string()


def test_train_rows_refuse_rows_of_another_split() -> None:
    after = split(events(0))
    for name in ("valid", "test"):
        foreign = after.filter(pa.compute.equal(after.column("split"), name))
        with pytest.raises(ValueError, match=f"fit takes training rows only, these hold \\['{name}'\\]"):
            TrainRows(foreign)
    with pytest.raises(ValueError, match="training rows only"):
        TrainRows(after)


def test_train_rows_refuse_rows_of_no_known_split() -> None:
    with pytest.raises(ValueError, match="None"):
        TrainRows(pa.table({"split": pa.array(["train", None])}))


def test_train_rows_of_a_table_are_its_training_rows() -> None:
    after = split(events(0))
    expected = [row for row in after.to_pylist() if row["split"] == "train"]
    assert TrainRows.of(after).table.to_pylist() == expected


@pytest.mark.parametrize(("valid", "test"), [(0.5, 0.5), (0.9, 0.2)])
def test_shares_that_leave_no_training_rows_are_refused(valid: float, test: float) -> None:
    with pytest.raises(ValidationError, match="leaves nothing to train on; keep it below 1"):
        SplitSpec(valid=valid, test=test)


def hashed(table: pa.Table, valid: float = 0.1, test: float = 0.1, keys: tuple[str, ...] = ("item",)) -> pa.Table:
    return split_by_hash(table, SplitSpec(by="hash", valid=valid, test=test), keys)


def splits_of(table: pa.Table) -> dict[str, str]:
    return dict(zip(table.column("item").to_pylist(), table.column("split").to_pylist(), strict=True))


def test_by_hash_a_row_stays_in_its_split_when_rows_are_added_or_shuffled() -> None:
    few, many = events(0, num_rows=300), events(1, num_rows=900)
    shuffled = many.take(np.random.default_rng(2).permutation(many.num_rows))
    before, after = splits_of(hashed(few)), splits_of(hashed(shuffled))
    assert {item: after[item] for item in before} == before


def test_by_hash_a_test_row_stays_one_when_more_rows_test() -> None:
    before, after = (splits_of(hashed(events(0), test=test)) for test in (0.1, 0.3))
    assert {item for item, split in before.items() if split == "test"} < {
        item for item, split in after.items() if split == "test"
    }


@pytest.mark.parametrize(("valid", "test"), [(0.1, 0.1), (0.2, 0.05), (0.3, 0.3)])
def test_by_hash_each_part_gets_its_share_within_statistical_error(valid: float, test: float) -> None:
    num_rows = 20_000
    names = hashed(events(0, num_rows), valid, test).column("split").to_pylist()
    for name, share in (("valid", valid), ("test", test)):
        deviation = (num_rows * share * (1 - share)) ** 0.5
        assert abs(names.count(name) - share * num_rows) < 4 * deviation


def test_by_hash_rows_of_one_key_share_a_split() -> None:
    for rows in by_user(hashed(events(0), keys=("user",)), "user").values():
        assert len({row["split"] for row in rows}) == 1


def test_by_hash_is_by_the_row_hash_of_the_keys() -> None:
    table = pa.table({"user": [f"ü{n}" for n in range(50)], "item": range(50)})
    shares = as_shares(row_hashes([table.column("user"), table.column("item")]))
    expected = ["train" if share < 0.4 else "valid" if share < 0.7 else "test" for share in shares]
    assert hashed(table, valid=0.3, test=0.3, keys=("user", "item")).column("split").to_pylist() == expected


def test_by_hash_a_table_without_rows_stays_one() -> None:
    after = hashed(events(0).slice(0, 0))
    assert after.num_rows == 0
    assert after.schema.field("split").type == pa.string()


def test_a_split_by_hash_has_no_within() -> None:
    with pytest.raises(ValidationError, match="within='user' orders a column's rows by time; leave it out where by="):
        SplitSpec(by="hash", within="user")


def test_by_group_its_rows_share_a_split_and_none_moves_when_rows_are_added() -> None:
    spec = SplitSpec(by="group", column="user", valid=0.3, test=0.3)
    before, after = (split_by_group(events(0, num_rows, 200), spec) for num_rows in (300, 900))
    of_user = dict(zip(after.column("user").to_pylist(), after.column("split").to_pylist(), strict=True))
    assert all(of_user[row["user"]] == row["split"] for row in after.to_pylist())
    assert set(of_user.values()) == {"train", "valid", "test"}
    assert all(of_user.get(row["user"], row["split"]) == row["split"] for row in before.to_pylist())


@pytest.mark.parametrize("within", ["user", None])
def test_by_time_later_rows_move_rows_to_earlier_splits_only(within: str | None) -> None:
    first = events(0)
    later = pa.table({"user": first.column("user"), "item": [f"l{n}" for n in range(500)], "time": [60] * 500})
    places = {"train": 0, "valid": 1, "test": 2}
    before, after = (
        splits_of(split(first, within=within)),
        splits_of(split(pa.concat_tables([first, later]), within=within)),
    )
    assert all(places[after[item]] <= places[place] for item, place in before.items())
    assert any(after[item] != place for item, place in before.items())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"by": "group"}, "by=group needs the column whose equal values share a split; give column"),
        ({"by": "stratified"}, "by=stratified needs the column of classes; give column"),
        ({"by": "group", "column": "a", "within": "b"}, "within='b' orders .* leave it out where by=group"),
        ({"by": "hash", "column": "a"}, "column='a' orders rows by time; leave it out where by=hash"),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SplitSpec.model_validate(given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "time over all rows"),
        ({"within": "user"}, "time within each user"),
        ({"by": "hash"}, "a hash of user, item"),
        ({"by": "group", "column": "user"}, "a hash of user"),
        ({"by": "stratified", "column": "label"}, "a hash of user, item within each label"),
    ],
)
def test_a_split_says_by_what_it_is_made(given: dict[str, str], told: str) -> None:
    assert SplitSpec.model_validate(given).told(TIES) == told
