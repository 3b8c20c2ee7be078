import math
from pathlib import Path

import pytest

from cluster.errors import SpecError
from cluster.spec import dump, parse, with_values
from jobs.spec import RangeSpec, RingSpec, event_columns, load_ring, sections

SHIPPED = Path(__file__).parents[2] / "jobs/specs/recommender.yaml"
SMALLEST = """
name: films
raw: {events: {path: raw/ratings}, items: {path: raw/movies}}
workload: {kind: recommender}
train: {early_stopping: {metric: ndcg_at_10}}
"""


def written(folder: Path, text: str = SMALLEST) -> Path:
    path = folder / "films.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(SHIPPED.parent.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_spec_is_valid_and_survives_being_written_and_read(path: Path) -> None:
    spec = load_ring(path)
    assert parse(RingSpec, dump(spec), "again") == spec


def test_every_key_of_the_shipped_search_space_can_take_each_of_its_values() -> None:
    spec = load_ring(SHIPPED)
    assert spec.tune.space
    for key, values in spec.tune.space.items():
        for value in [values.low, values.high] if isinstance(values, RangeSpec) else values:
            changed = with_values(spec, {key: value}).model_dump()
            for part in key.split("."):
                changed = changed[part]
            assert changed == value


def test_a_few_lines_are_a_whole_spec(tmp_path: Path) -> None:
    spec = load_ring(written(tmp_path))
    assert spec.name == "films"
    assert spec.prepare.split.within is None
    assert spec.tune.num_trials == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batchsize=512", r"unknown key 'train\.batchsize'\. Did you mean 'batch_size'\?"),
        ("trian.batch_size=512", r"unknown key 'trian'\. Did you mean 'train'\?"),
        ("workload.embeding_dim=8", r"unknown key 'workload\.embeding_dim'\. Did you mean 'embedding_dim'\?"),
        ("raw.events.column={}", r"unknown key 'raw\.events\.column'\. Did you mean 'columns'\?"),
        ("train.batch_size=many", r"train\.batch_size: .*got \"many\""),
        ("train.batch_size='512'", r"train\.batch_size: .*got \"512\""),
        ("train.batch_size=0", r"train\.batch_size: .*greater than or equal to 1, got 0"),
        ("train.batch_size=1.5", r"train\.batch_size: .*got 1\.5"),
        ("train.optimizer.learning_rate=0", r"train\.optimizer\.learning_rate: .*greater than 0, got 0"),
        (
            "train.optimizer.name=adagrad",
            r"train\.optimizer\.name: .*'adam', 'rmsprop' or 'sgd', got \"adagrad\"",
        ),
        ("prepare.max_bad_fraction=1.1", r"prepare\.max_bad_fraction: .*got 1\.1"),
        ("prepare.split.test=0.95", r"prepare\.split: valid \+ test = 1\.05 leaves nothing to train on"),
        ("workload.relevant_from=9", r"workload: min_rating=0\.5 must be below max_rating=5, and relevant_from=9"),
        (
            "workload.kind=recomender",
            r"workload\.kind: there is no 'recomender'\. Did you mean 'recommender'\? Valid: ",
        ),
        (
            "workload.kind=chess",
            r"there is no 'chess'\. Valid: gan, language, recommender, tabular, tagging, text, vision\.",
        ),
        ("workload={}", r"key 'workload\.kind' is missing; it has no default\. Valid: gan, language, recommender, "),
        ("workload={kind: vision, hight: 8}", r"unknown key 'workload\.hight'\. Did you mean 'height'\?"),
        ("workload={kind: vision, height: 8}", r"key 'workload\.width' is missing; it has no default"),
        ("prepare.split.by=date", r"prepare\.split\.by: .*'time', 'hash', 'group' or 'stratified', got \"date\""),
        ("prepare.split={by: hash, within: user_id}", r"prepare\.split: within='user_id' orders .* where by=hash"),
        ("prepare.split.within=user", r"prepare\.split\.within: 'user' .*Did you mean 'user_id'\?"),
        ("layout.replicate=0", r"layout\.replicate: .*got 0"),
        ("name=Films", r"name: .*got \"Films\""),
        ("name=films/../x", r"name: "),
        ("serving.port=65536", r"serving\.port: .*got 65536"),
        ("seed=-1", r"seed: .*got -1"),
        ("train.early_stopping={}", r"key 'train\.early_stopping\.metric' is missing; it has no default"),
    ],
)
def test_a_wrong_value_or_key_is_refused_with_its_place_and_the_rule(
    tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        load_ring(written(tmp_path), [override])


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as error:
        load_ring(written(tmp_path), ["seed=-1", "train.batch_size=0", "nam=x"])
    assert all(part in str(error.value) for part in ("seed:", "train.batch_size:", "unknown key 'nam'"))


@pytest.mark.parametrize(
    "key", ["name", "raw", "raw.events.path", "workload", "train.early_stopping.metric", "train.early_stopping"]
)
def test_what_has_no_default_must_be_given(tmp_path: Path, key: str) -> None:
    lines = {"name": "name: films", "raw": "raw: {events: {path: a}, items: {path: b}}"}
    lines |= {"workload": "workload: {}", "train": "train: {early_stopping: {metric: rmse}}"}
    removed = {"raw.events.path": ("raw", "raw: {events: {}, items: {path: b}}")}
    removed |= {"train.early_stopping.metric": ("train", "train: {early_stopping: {}}")}
    removed |= {"train.early_stopping": ("train", "train: {}")}
    section, line = removed.get(key, (key, ""))
    text = "\n".join(line if name == section else given for name, given in lines.items())
    with pytest.raises(SpecError, match=f"key '{key}' is missing; it has no default"):
        load_ring(written(tmp_path, text))


def test_an_overridden_key_leaves_the_search_space() -> None:
    before = load_ring(SHIPPED).tune.space
    after = load_ring(SHIPPED, ["train.batch_size=256", "seed=3"]).tune.space
    assert "train.batch_size" in before
    assert after == {key: values for key, values in before.items() if key != "train.batch_size"}


def test_choices_keep_their_types(tmp_path: Path) -> None:
    spec = load_ring(written(tmp_path), ["tune.space={x: [true, 1, 1.0, one], y: {low: 1, high: 2}}"])
    choices = spec.tune.space["x"]
    assert isinstance(choices, list)
    assert [type(value) for value in choices] == [bool, int, float, str]
    assert parse(RingSpec, dump(spec), "again") == spec


@pytest.mark.parametrize(
    "values", [{"low": 2, "high": 1}, {"low": 1, "high": 1}, {"low": 0, "high": 1, "log": True}, {"low": -1, "high": 1}]
)
def test_a_range_is_ordered_and_above_0_where_logarithmic(tmp_path: Path, values: dict[str, float]) -> None:
    override = f"tune.space={{x: {values}}}".replace("True", "true").replace("'", "")
    if values == {"low": -1, "high": 1}:
        assert load_ring(written(tmp_path), [override]).tune.space == {"x": RangeSpec(low=-1, high=1)}
        return
    with pytest.raises(SpecError, match="low must be below high, and above 0 where log is true"):
        load_ring(written(tmp_path), [override])


@pytest.mark.parametrize("key", ["train.optimizer.learning_rate", "train.optimizer.weight_decay"])
@pytest.mark.parametrize("value", [".nan", "-.inf"])
def test_what_is_no_finite_number_is_refused(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(SpecError, match=key):
        load_ring(written(tmp_path), [f"{key}={value}"])


def test_sections_are_plain_data_of_the_named_parts_only(tmp_path: Path) -> None:
    spec = load_ring(written(tmp_path), ["prepare.split.within=user_id"])
    part = sections(spec, "raw", "prepare")
    assert list(part) == ["raw", "prepare"]
    assert part["prepare"]["split"] == {"by": "time", "valid": 0.1, "test": 0.1, "column": None, "within": "user_id"}
    assert part["raw"]["events"] == {"path": "raw/ratings", "columns": {}, "checks": {}}


def test_a_section_does_not_change_with_another(tmp_path: Path) -> None:
    path = written(tmp_path)
    before, after = load_ring(path), load_ring(path, ["train.num_epochs=99"])
    assert sections(before, "raw", "prepare", "workload") == sections(after, "raw", "prepare", "workload")
    assert sections(before, "train") != sections(after, "train")
    assert math.isclose(before.prepare.max_bad_fraction, 0.05)


TABLE = """
name: loans
raw: {events: {path: raw/loans}}
prepare: {split: {by: hash}}
workload: {kind: tabular, label: status, numeric: [income]}
train: {early_stopping: {metric: log_loss, mode: min}}
"""


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        (
            SMALLEST,
            "raw.items=null",
            r"raw\.items is missing, the recommender workload reads items .*raw\.items\.path=",
        ),
        (
            TABLE,
            "raw.items.path=raw/a",
            r"raw\.items\.path=raw/a would not be read, the tabular .* leave raw\.items out",
        ),
        (
            TABLE,
            "prepare.split.by=time",
            r"split\.by=time: the tabular workload .* give prepare\.split\.by=hash.* by id",
        ),
        (TABLE, "prepare.split={}", r"prepare\.split\.by=time: the tabular workload reads no time"),
    ],
)
def test_data_that_the_workload_does_not_take_is_refused(
    tmp_path: Path, text: str, override: str, message: str
) -> None:
    assert load_ring(written(tmp_path, text)).name in ("films", "loans")
    with pytest.raises(SpecError, match=message):
        load_ring(written(tmp_path, text), [override])


def test_a_submitted_job_needs_a_storage_that_outlives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(SpecError, match=r"storage 'data' is a relative path.*storage=/data/rayline"):
        load_ring(SHIPPED, ["storage=data"])
    for lasting in ("/data", "~/data", "s3://bucket/data"):
        assert load_ring(SHIPPED, [f"storage={lasting}"]).storage == lasting


TABLE = """
name: table
raw: {events: {path: raw, checks: {delay: {required: true, high: 600}}}}
prepare: {split: {by: time, column: hour}, steps: [{kind: scaling, column: delay, output: wait}]}
workload: {kind: tabular, label: late, numeric: [wait, age], categorical: [place]}
train: {early_stopping: {metric: log_loss, mode: min}}
"""


def table(tmp_path: Path, *overrides: str) -> RingSpec:
    (tmp_path / "table.yaml").write_text(TABLE)
    return load_ring(tmp_path / "table.yaml", overrides)


def test_raw_events_hold_what_steps_and_workload_read_and_no_step_makes(tmp_path: Path) -> None:
    columns = {column.name: column for column in event_columns(table(tmp_path))}
    assert {name: column.kind for name, column in columns.items()} == {
        "id": "id",
        "age": "number",
        "place": "text",
        "late": "id",
        "delay": "number",
        "hour": "time",
    }
    assert (columns["delay"].nullable, columns["delay"].high) == (False, 600)
    assert not columns["hour"].nullable


def test_a_column_that_a_step_replaces_is_read_as_that_step_takes_it(tmp_path: Path) -> None:
    steps = "{kind: scaling, column: delay, output: wait}, {kind: vocabulary, column: age, output: age}"
    kinds = {column.name: column.kind for column in event_columns(table(tmp_path, f"prepare.steps=[{steps}]"))}
    assert kinds["age"] == "text"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prepare.steps=[{kind: scaling, column: late, output: x}]", "reads 'late' as number, but there it is of kind"),
        ("prepare.steps=[{kind: scaling, column: place}]", "reads 'place' as text, but prepare.steps make it of kind"),
        ("prepare.steps=[{kind: vocabulary, column: x, output: place}]", "reads 'place' as text, but prepare.steps"),
        ("prepare.steps=[{kind: scaling, column: delay, output: id}]", "makes 'id', a name that prepare needs itself"),
        ("prepare.steps=[{kind: scaling, column: delay, output: split}]", "makes 'split', a name that prepare needs"),
        ("prepare.steps=[{kind: scalin, column: delay}]", "steps.0.kind: there is no 'scalin'. Did you mean 'scaling'"),
        ("prepare.steps=[{kind: scaling, colum: x}]", "unknown key 'prepare.steps.0.colum'. Did you mean 'column'"),
        ("prepare.steps=[{kind: scaling, column: x, groups: 2}]", "steps.0: groups=2 are of lists; set of_lists=true"),
        ("raw.events.checks={dealy: {required: true}}", "checks: no column 'dealy' is read. Did you mean 'delay'"),
        ("prepare.split.column=null", "reads no time .* name a column that does in prepare.split.column"),
    ],
)
def test_a_mistake_in_the_steps_is_told_with_its_place(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        table(tmp_path, "raw.events.checks={}", override)


def test_a_workload_with_a_time_of_its_own_is_split_by_it(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"split by its own 'timestamp'; leave column out, or .*columns.timestamp=day"):
        load_ring(written(tmp_path), ["prepare.split.column=day"])


PAST = "{column: delay, group: place, time: hour, output: past, size: 3}"


def test_a_history_reads_raw_columns_and_makes_its_own(tmp_path: Path) -> None:
    steps = "{kind: lag, column: past, output: wait}"
    spec = table(tmp_path, f"prepare.history=[{PAST}]", f"prepare.steps=[{steps}]")
    columns = {column.name: column for column in event_columns(spec)}
    assert (columns["delay"].kind, columns["hour"].kind, columns["place"].kind) == ("number", "time", "text")
    assert not {"past", "wait"} & set(columns)
    assert (columns["delay"].nullable, columns["hour"].nullable) == (False, False)


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (PAST.replace("past", "delay"), "history.0 makes 'delay', the name of a column that is there already"),
        (f"{PAST}, {PAST}", "history.1 makes 'past', the name of a column that is there already"),
        (PAST.replace("delay", "late"), "history.0 reads 'late' as number, but there it is of kind"),
        (PAST.replace("hour", "age"), "history.0 reads 'age' as time, but there it is of kind number"),
        (f"{PAST}, {PAST.replace('place', 'late').replace('past', 'x')}", "names the groups late, place, but rows"),
    ],
)
def test_a_mistake_in_a_history_is_told_with_its_place(tmp_path: Path, history: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        table(tmp_path, f"prepare.history=[{history}]")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("serving.autoscale={min_replicas: 3, max_replicas: 2}", "max_replicas=2 is below min_replicas=3; raise it"),
        ("serving.traces=collector:4318", "serving.traces"),
        ("serving.access=closed", "serving.access"),
    ],
)
def test_serving_that_cannot_be_is_refused(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_ring(written(tmp_path), [override])


def test_how_many_replicas_is_said_once(tmp_path: Path) -> None:
    scaled = load_ring(written(tmp_path), ["serving.autoscale={max_replicas: 2}"])
    assert scaled.serving.autoscale
    assert (scaled.serving.autoscale.min_replicas, scaled.serving.autoscale.max_replicas) == (1, 2)
    with pytest.raises(SpecError, match="num_replicas=2 and autoscale both say how many; leave out one"):
        load_ring(written(tmp_path), ["serving.autoscale={max_replicas: 2}", "serving.num_replicas=2"])
