"""Feedback from many clients while replicas and the proxy are killed: every acknowledged event is in storage, once.

    OMP_NUM_THREADS=1 python -m benchmarks.feedback_storm FOLDER [--seconds 60]

Labels of the loans' rows, each with an id, sent again with the same id until it is acknowledged; every ten seconds a
replica or the proxy is killed with SIGKILL. Writes the .md beside it. Needs the extra `demo`.
"""

import argparse
import http.client
import json
import os
import platform
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.served_loans import Loans, kill, prepared, served
from serving.feedback import labels_of

NUM_CLIENTS, KILL_EVERY_S = 16, 10.0
VICTIMS = ("ray::ServeReplica", "haproxy -")


class Storm:
    """Clients that send labels until they are told to stop."""

    def __init__(self, loans: Loans) -> None:
        self.parts = urlsplit(loans.address)
        self.acknowledged: list[str] = []
        self.num_tries = 0
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self._send, args=(number,)) for number in range(NUM_CLIENTS)]

    def _send(self, client: int) -> None:
        connection = http.client.HTTPConnection(str(self.parts.hostname), self.parts.port, timeout=30)
        number = 0
        while not self.over.is_set():
            event_id = f"c{client}-{number}"
            while not self._try(connection, event_id):
                time.sleep(0.1)
            self.acknowledged.append(event_id)
            number += 1

    def _try(self, connection: http.client.HTTPConnection, event_id: str) -> bool:
        self.num_tries += 1
        body = json.dumps({"prediction_id": "p", "label": "good", "event_id": event_id})
        try:
            connection.request("POST", f"{self.parts.path}/feedback", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return False
        return answer.status == 202


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args()
    loans = prepared(given.folder)
    with served(loans):
        storm, kills = Storm(loans), 0
        for thread in storm.threads:
            thread.start()
        ends = time.monotonic() + given.seconds
        while time.monotonic() < ends:
            time.sleep(KILL_EVERY_S)
            kill(VICTIMS[kills % 2])
            kills += 1
            print(f"{len(storm.acknowledged):,} acknowledged, {kills} kills", flush=True)
        storm.over.set()
        for thread in storm.threads:
            thread.join(120)
    kept = [label.event_id for label in labels_of(loans.storage, loans.spec.name)]
    folder = Path(loans.storage.path(f"labels/{loans.spec.name}"))
    files = sorted(folder.rglob("*.jsonl"))
    num_lines = sum(len(file.read_text().splitlines()) for file in files)
    missing, doubled = set(storm.acknowledged) - set(kept), len(kept) - len(set(kept))
    counts = (kills, storm.num_tries, len(storm.acknowledged), len(missing), doubled, num_lines, len(files))
    row = " | ".join(f"{count:,}" for count in counts)
    text = f"""# Feedback while replicas and the proxy are killed

{NUM_CLIENTS} clients for {given.seconds:.0f} s, two replicas, SIGKILL to a replica or the proxy in turn every
{KILL_EVERY_S:.0f} s; {os.cpu_count()} cores, {platform.machine()}.
Made by `python -m benchmarks.feedback_storm FOLDER`.

| kills | tries | acknowledged | of these missing | read twice | lines in files | files |
|---:|---:|---:|---:|---:|---:|---:|
| {row} |

A line more than there are events is one that was written by a replica which died before it could say so; its client
sent it again, and whoever reads takes the first of an id.
"""
    Path(__file__).with_suffix(".md").write_text(text)
    print(text)
    assert not missing
    assert not doubled


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
