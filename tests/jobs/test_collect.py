import asyncio, json
from dataclasses import asdict
import pyarrow.parquet as pq
import pytest
from cluster.lifecycle import Cluster
from jobs import collect, prepare
from serving.feedback import Event, FeedbackLog
from tests.jobs.conftest import Ring

def event(number, second=0):
    return Event(f"e{number}", str(number % 60), str(number % 90), 4.5, 1_700_000_000 + number, f"2026-05-04T12:00:{second:02d}+00:00", "v1")

@pytest.mark.ray
def test_x(cluster, ring):
    import time
    log = FeedbackLog(ring.storage, "films")
    async def go():
        await asyncio.gather(*(log.append(event(n, n)) for n in range(5)))
    asyncio.run(go())
    t=time.time()
    print(collect.run(ring.spec(), ring.storage), time.time()-t)
    for info in ring.storage.files("raw/ratings"): print(info.path)
    print(pq.read_table(ring.storage.path("raw/ratings/collected-000001.parquet")))
    try: print(prepare.run(ring.spec(), ring.storage))
    except Exception as e: print("PREPARE", type(e), e)
    ring.storage.write("feedback/films/2026-05-05/empty.jsonl", b"")
    try: print(collect.run(ring.spec(), ring.storage))
    except Exception as e: print("EMPTY", type(e), str(e)[-300:])
    ring.storage.write("feedback/films/2026-05-05/noid.jsonl", b'{"user_id":"1","item_id":"2","rating":3.0,"timestamp":1,"received_at":"2026"}\n'*2)
    try: print(collect.run(ring.spec(), ring.storage))
    except Exception as e: print("NOID", type(e), str(e)[-300:])
    t=time.time()
    ring.storage.write("feedback/films/2026-05-05/bad.jsonl", b'{"user_id":"1","it')
    print(ring.call("jobs.collect"), time.time()-t)
    t=time.time()
    ring.storage.remove("feedback/films/2026-05-05/bad.jsonl")
    print(ring.call("jobs.collect"), time.time()-t)
