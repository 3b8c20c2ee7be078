"""Limiter: the one ledger of an application in its cluster, in an actor, as replicas reach it.

The actor counts anew where it has died, from what the replicas wrote of the day.
"""

import asyncio
import os
import time
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from cluster.errors import user_error_in
from cluster.storage import Storage
from serving.limits import Granted, Ledger, TenantLimits
from serving.usage import used_on

NAMESPACE = "rayline-limits"
WITHIN_S, TRY_AGAIN_S = 10.0, 0.3
"""A new ledger is there within seconds, and reads what was used of the day."""


class LimitsError(Exception):
    """The ledger does not answer, so nobody knows what is left."""


class _LedgerActor:
    def __init__(self, storage: Storage, name: str) -> None:
        self._ledger = Ledger(partial(used_on, storage, name))

    def take(self, tenant: str, limits: TenantLimits) -> Granted:
        return self._ledger.take(tenant, limits)

    def process_id(self) -> int:
        return os.getpid()


class Limiter:
    """How a replica of an application asks its ledger, which the first one starts."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name = storage, name
        self._actor: Any = None

    async def take(self, tenant: str, limits: TenantLimits) -> Granted:
        """See `Ledger.take`.

        Raises:
            LimitsError: the ledger does not answer within ten seconds.
        """
        deadline = time.monotonic() + WITHIN_S
        while (left := deadline - time.monotonic()) > 0:
            try:
                if self._actor is None:
                    self._actor = await asyncio.to_thread(self._start)
                granted: Granted = await asyncio.wait_for(
                    asyncio.wrap_future(self._actor.take.remote(tenant, limits).future()), left
                )
                return granted
            except RayActorError:  # it died, or was ended with an earlier deployment
                self._actor = None
                await asyncio.sleep(TRY_AGAIN_S)
            except (RayError, TimeoutError) as error:  # storage is away, where it reads what was used
                why = user_error_in(error) or error
                raise LimitsError(f"the ledger of '{self._name}' does not answer: {why}") from error
        raise LimitsError(f"the ledger of '{self._name}' does not answer")

    def _start(self) -> Any:
        options = {"name": self._name, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
        kind = ray.remote(_LedgerActor).options(num_cpus=0, max_restarts=-1, **options)
        return kind.remote(self._storage, self._name)


def end_limits(name: str) -> None:
    """End the ledger of an application that is removed; what was used of the day is in storage."""
    try:
        ray.kill(ray.get_actor(name, namespace=NAMESPACE))
    except ValueError:  # nobody had limits
        return
