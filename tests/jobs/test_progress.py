from jobs.progress import Progress


def test_a_line_comes_every_few_seconds_with_rows_and_bytes_a_second() -> None:
    now, lines = [0.0], list[str]()
    progress = Progress("scan", 3, clock=lambda: now[0], say=lines.append)
    for seconds in (4, 10, 12):
        now[0] = seconds
        progress.done(1, 2_000_000, 20 * 2**20)
    assert lines == ["scan: 2 of 3 parts, 4,000,000 rows, 400,000 rows/s, 4.0 MiB/s"]
