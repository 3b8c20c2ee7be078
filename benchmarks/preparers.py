"""One preparation, five ways: what `benchmarks.prepare` runs, each in a process of its own.

    python -m benchmarks.preparers NAME RAW OUT [SPLITS]

Rows that share their id once; 80/10/10 by a hash of it; training rows with an outlier (3 times the quartiles' distance
from them) in one of four columns left out; 6 means, 7 medians and 5 modes in gaps; 6 columns standardised, 7 scaled to
0 to 1, all by the training rows; 5 categories one-hot; Parquet, a folder a split. With SPLITS, a Parquet file of `id`
and `split`, these are taken instead of the contestant's own hash, so that results can be compared.

Prints one line of JSON: seconds of the start (imports, Ray) and of the work, rows and bytes written.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DROP = ("n1", "n3", "n5", "n7")
MEANS = tuple(f"n{n}" for n in range(6))
MEDIANS = tuple(f"n{n}" for n in range(6, 13))
NUMBERS = MEANS + MEDIANS
CATEGORIES = tuple(f"c{n}" for n in range(5))
SPLITS = ("train", "valid", "test")
LIMIT = 3.0
VALID_FROM, TEST_FROM = 0.8, 0.9
TO_64_BITS = 2.0**64

Work = Callable[[Path, Path, Path | None], None]


def spec(storage: Path, in_process: bool) -> str:
    """The same work as a spec of Rayline."""
    steps = [f"{{kind: outliers, column: {name}, limit: {LIMIT}, then: drop}}" for name in DROP]
    steps += [f"{{kind: impute, column: {name}, fill: mean}}" for name in MEANS]
    steps += [f"{{kind: impute, column: {name}, fill: median}}" for name in MEDIANS]
    steps += [f"{{kind: impute, column: {name}, of: text, fill: mode}}" for name in CATEGORIES]
    steps += [f"{{kind: scaling, column: {name}, method: standard}}" for name in MEANS]
    steps += [f"{{kind: scaling, column: {name}, method: min_max}}" for name in MEDIANS]
    steps += [f"{{kind: one_hot, column: {name}, others: zeros, output: hot_{name}}}" for name in CATEGORIES]
    return "\n".join(
        [
            "name: table",
            f"storage: {storage}",
            "raw: {events: {path: raw}}",
            "prepare:",
            f"  in_process_bytes: {10**12 if in_process else 0}",
            "  split: {by: hash, valid: 0.1, test: 0.1}",
            "  steps:",
            *(f"    - {step}" for step in steps),
            "workload:",
            "  kind: tabular",
            "  label: label",
            "  standardize: false",
            f"  numeric: [{', '.join(NUMBERS)}]",
            f"  vectors: [{', '.join(f'hot_{name}' for name in CATEGORIES)}]",
            "train: {early_stopping: {metric: log_loss, mode: min}}",
        ]
    )


def rayline(in_process: bool) -> Work:
    """Rayline, in one process or on a Ray cluster of this machine."""
    from contextlib import nullcontext

    from cluster.lifecycle import connected
    from cluster.storage import Storage
    from jobs.prepare import run
    from jobs.spec import load_ring

    context: Any = nullcontext() if in_process else connected()
    context.__enter__()

    def work(raw: Path, out: Path, splits: Path | None) -> None:
        out.mkdir(parents=True)
        (out / "raw").symlink_to(raw)
        (out / "spec.yaml").write_text(spec(out, in_process))
        made = run(load_ring(out / "spec.yaml"), Storage(str(out)))
        (out / made.folder).rename(out / "made")
        context.__exit__(None, None, None)

    return work


def polars() -> Work:
    """Polars with its streaming engine; the rows without repetitions are held in memory."""
    import polars as pl

    def work(raw: Path, out: Path, splits: Path | None) -> None:
        rows = pl.scan_parquet(raw / "*.parquet").unique("id", keep="any")
        if splits:
            rows = rows.join(pl.scan_parquet(splits), on="id")
        else:
            share = pl.col("id").hash(0).cast(pl.Float64) / TO_64_BITS
            name = pl.when(share < VALID_FROM).then(pl.lit("train"))
            rows = rows.with_columns(split=name.when(share < TEST_FROM).then(pl.lit("valid")).otherwise(pl.lit("test")))
        rows = rows.collect(engine="streaming").lazy()
        train = rows.filter(pl.col("split") == "train")
        shares = (0.25, 0.75)
        quartiles = [pl.col(c).quantile(q, "linear").alias(f"{c}{q}") for c in DROP for q in shares]
        ends = train.select(quartiles).collect(engine="streaming").row(0, named=True)
        inside = pl.lit(True)
        for name in DROP:
            low, high = ends[f"{name}0.25"], ends[f"{name}0.75"]
            reach = LIMIT * (high - low)
            inside = inside & pl.col(name).is_between(low - reach, high + reach).fill_null(True)
        rows = rows.filter((pl.col("split") != "train") | inside)
        train = rows.filter(pl.col("split") == "train")
        filled = [pl.col(c).mean() for c in MEANS] + [pl.col(c).median() for c in MEDIANS]
        modes = [pl.col(c).drop_nulls().mode().sort().first() for c in CATEGORIES]
        fill = train.select(filled + modes).collect(engine="streaming").row(0, named=True)
        rows = rows.with_columns([pl.col(c).fill_null(value) for c, value in fill.items()])
        train = rows.filter(pl.col("split") == "train")
        scale = [pl.col(c).mean().alias(f"{c}a") for c in MEANS] + [pl.col(c).std(ddof=0).alias(f"{c}b") for c in MEANS]
        scale += [pl.col(c).min().alias(f"{c}a") for c in MEDIANS]
        scale += [(pl.col(c).max() - pl.col(c).min()).alias(f"{c}b") for c in MEDIANS]
        scale += [pl.col(c).unique().sort().implode().alias(c) for c in CATEGORIES]
        found = train.select(scale).collect(engine="streaming").row(0, named=True)
        made = [pl.col("id"), pl.col("label"), pl.col("split")]
        made += [((pl.col(c) - found[f"{c}a"]) / found[f"{c}b"]).cast(pl.Float32).alias(c) for c in NUMBERS]
        made += [(pl.col(c) == v).cast(pl.UInt8).alias(f"{c}={v}") for c in CATEGORIES for v in found[c]]
        rows = rows.select(made).collect(engine="streaming").lazy()
        for name in SPLITS:
            (out / name).mkdir(parents=True)
            of_split = rows.filter(pl.col("split") == name).drop("split")
            of_split.sink_parquet(out / name / "0.parquet", compression="snappy", engine="streaming")

    return work


def duckdb() -> Work:
    """DuckDB, in memory."""
    import duckdb as db

    def work(raw: Path, out: Path, splits: Path | None) -> None:
        con = db.connect()
        con.execute("set preserve_insertion_order = false")
        share = f"hash(id) / {TO_64_BITS}"
        own = f"case when {share} < {VALID_FROM} then 'train' when {share} < {TEST_FROM} then 'valid' else 'test' end"
        source = f"(select distinct on (id) * from read_parquet('{raw}/*.parquet'))"
        if splits:
            con.execute(
                f"create table r as select s.*, t.split from {source} s join read_parquet('{splits}') t using (id)"
            )
        else:
            con.execute(f"create table r as select *, {own} as split from {source}")

        def one(expressions: list[str], where: str) -> tuple[Any, ...]:
            found = con.execute(f"select {', '.join(expressions)} from r where {where}").fetchone()
            assert found is not None
            return found

        train = "split = 'train'"
        ends = one([f"quantile_cont({c}, [0.25, 0.75])" for c in DROP], train)
        inside = " and ".join(
            f"coalesce({c} between {low - LIMIT * (high - low)} and {high + LIMIT * (high - low)}, true)"
            for c, (low, high) in zip(DROP, ends, strict=True)
        )
        kept = f"({train} and {inside})"
        filled = [f"avg({c})" for c in MEANS] + [f"median({c})" for c in MEDIANS] + [f"mode({c})" for c in CATEGORIES]
        fill = dict(zip(NUMBERS + CATEGORIES, one(filled, kept), strict=True))
        full = {
            c: f"coalesce({c}, {value!r})" if c in NUMBERS else f"coalesce({c}, '{value}')" for c, value in fill.items()
        }
        scales = [f"avg({full[c]})" for c in MEANS] + [f"min({full[c]})" for c in MEDIANS]
        widths = [f"stddev_pop({full[c]})" for c in MEANS] + [f"max({full[c]}) - min({full[c]})" for c in MEDIANS]
        levels = [f"list_sort(list(distinct {full[c]}))" for c in CATEGORIES]
        found = one(scales + widths + levels, kept)
        centre, width = found[:13], found[13:26]
        made = [f"(({full[c]} - {a!r}) / {b!r})::float as {c}" for c, a, b in zip(NUMBERS, centre, width, strict=True)]
        made += [
            f"({full[c]} = '{v}')::utinyint as \"{c}={v}\""
            for c, of in zip(CATEGORIES, found[26:], strict=True)
            for v in of
        ]
        for name in SPLITS:
            (out / name).mkdir(parents=True)
            where = kept if name == "train" else f"split = '{name}'"
            con.execute(
                f"copy (select id, label, {', '.join(made)} from r where {where}) to '{out}/{name}/0.parquet' "
                "(format parquet, compression snappy)"
            )

    return work


def pandas() -> Work:
    """pandas and scikit-learn."""
    import numpy as np
    import pandas as pd
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

    def work(raw: Path, out: Path, splits: Path | None) -> None:
        rows = pd.concat([pd.read_parquet(path) for path in sorted(raw.glob("*.parquet"))], ignore_index=True)
        rows = rows.drop_duplicates("id", ignore_index=True)
        if splits:
            rows = rows.merge(pd.read_parquet(splits), on="id")
        else:
            share = pd.util.hash_array(rows["id"].to_numpy()) / TO_64_BITS
            rows["split"] = np.where(share < VALID_FROM, "train", np.where(share < TEST_FROM, "valid", "test"))
        is_train = rows["split"] == "train"
        inside = pd.Series(True, rows.index)
        for name in DROP:
            low, high = rows.loc[is_train, name].quantile([0.25, 0.75])
            reach = LIMIT * (high - low)
            inside &= rows[name].between(low - reach, high + reach) | rows[name].isna()
        rows = rows[~is_train | inside]
        is_train = rows["split"] == "train"
        parts = []
        for names, strategy, scaler in (
            (MEANS, "mean", StandardScaler()),
            (MEDIANS, "median", MinMaxScaler()),
        ):
            values = rows[list(names)].to_numpy(float)
            imputer = SimpleImputer(strategy=strategy).fit(values[is_train])
            filled = imputer.transform(values)
            scaler.fit(filled[is_train])
            parts.append(pd.DataFrame(scaler.transform(filled).astype("float32"), rows.index, list(names)))
        fill = {name: rows.loc[is_train, name].mode().iloc[0] for name in CATEGORIES}
        texts = rows[list(CATEGORIES)].fillna(fill).astype(object)
        encoder = OneHotEncoder(sparse_output=False, dtype=np.uint8, handle_unknown="ignore").fit(texts[is_train])
        names = [f"{c}={v}" for c, of in zip(CATEGORIES, encoder.categories_, strict=True) for v in of]
        parts.append(pd.DataFrame(encoder.transform(texts), rows.index, names))
        made = pd.concat([rows[["id", "label"]], *parts], axis=1)
        for name in SPLITS:
            (out / name).mkdir(parents=True)
            made[rows["split"] == name].to_parquet(out / name / "0.parquet", index=False, compression="snappy")

    return work


def ray_preprocessors() -> Work:
    """Ray Data's own preprocessors; it has no exact quantile, so medians and quartiles are its approximate ones."""
    import os

    os.environ["RAY_num_workers_soft_limit"] = "8"  # noqa: SIM112  # as Rayline starts its own
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import ray
    from ray.data import DataContext, Dataset
    from ray.data.aggregate import ApproximateQuantile
    from ray.data.expressions import col
    from ray.data.preprocessors import MinMaxScaler, OneHotEncoder, SimpleImputer, StandardScaler

    ray.init(log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    DataContext.get_current().enable_progress_bars = False

    def first_of_each(block: pa.Table) -> pa.Table:
        _, places = np.unique(block.column("id").to_numpy(), return_index=True)
        return block.take(pa.array(places))

    def with_split(block: pa.Table) -> pa.Table:
        mixed = block.column("id").to_numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
        share = mixed / TO_64_BITS
        names = np.where(share < VALID_FROM, "train", np.where(share < TEST_FROM, "valid", "test"))
        return block.append_column("split", pa.array(names))

    def work(raw: Path, out: Path, splits: Path | None) -> None:
        rows: Dataset = ray.data.read_parquet(str(raw)).repartition(16, keys=["id"])
        rows = rows.map_batches(first_of_each, batch_format="pyarrow", batch_size=None)
        if splits:
            table = pq.read_table(splits)
            known = dict(zip(table.column("id").to_pylist(), table.column("split").to_pylist(), strict=True))
            shared = ray.put(known)

            def given(block: pa.Table) -> pa.Table:
                of = ray.get(shared)
                return block.append_column("split", pa.array([of[i] for i in block.column("id").to_pylist()]))

            rows = rows.map_batches(given, batch_format="pyarrow", batch_size=None).materialize()
        else:
            rows = rows.map_batches(with_split, batch_format="pyarrow", batch_size=None).materialize()
        train = rows.filter(expr=col("split") == "train")
        ends = train.aggregate(*(ApproximateQuantile(c, quantiles=[0.25, 0.75], alias_name=c) for c in DROP))
        inside = col("split") != "train"
        keep: Any = None
        for name in DROP:
            low, high = ends[name]
            reach = LIMIT * (high - low)
            fits = (col(name) >= low - reach) & (col(name) <= high + reach) | col(name).is_null()
            keep = fits if keep is None else keep & fits
        rows = rows.filter(expr=inside | keep).materialize()
        train = rows.filter(expr=col("split") == "train")
        medians = train.aggregate(*(ApproximateQuantile(c, quantiles=[0.5], alias_name=c) for c in MEDIANS))
        steps = [SimpleImputer(list(MEANS), strategy="mean")]
        steps += [SimpleImputer([c], strategy="constant", fill_value=medians[c][0]) for c in MEDIANS]
        steps += [SimpleImputer(list(CATEGORIES), strategy="most_frequent")]
        for step in steps:
            step.fit(train)
            rows, train = step.transform(rows), step.transform(train)
        rows, train = rows.materialize(), train.materialize()
        for scale in (StandardScaler(list(MEANS)), MinMaxScaler(list(MEDIANS)), OneHotEncoder(list(CATEGORIES))):
            scale.fit(train)
            rows = scale.transform(rows)
        rows = rows.materialize()
        for name in SPLITS:
            rows.filter(expr=col("split") == name).drop_columns(["split"]).write_parquet(str(out / name))
        ray.shutdown()

    return work


CONTESTANTS: dict[str, Callable[[], Work]] = {
    "rayline": lambda: rayline(in_process=True),
    "rayline on ray": lambda: rayline(in_process=False),
    "polars": polars,
    "duckdb": duckdb,
    "pandas + scikit-learn": pandas,
    "ray preprocessors": ray_preprocessors,
}


def main() -> None:
    name, raw, out, *splits = sys.argv[1:]
    started = time.perf_counter()
    work = CONTESTANTS[name]()
    ready = time.perf_counter()
    work(Path(raw).resolve(), Path(out).resolve(), Path(splits[0]) if splits else None)
    done = time.perf_counter()
    print(json.dumps({"start_s": ready - started, "work_s": done - ready}), flush=True)


if __name__ == "__main__":
    main()
