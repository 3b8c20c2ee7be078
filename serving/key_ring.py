"""KeyRing: the keys and limits of an application as one replica knows them, looked at anew every second."""

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from serving.keys import READ_AGAIN_S, AccessLog, Grants, Key, compare_with_nothing, key_id_of
from serving.limits import TenantLimits
from serving.repeating import repeat

log = logging.getLogger(__name__)

POLL_S = 1.0
LOOK_WITHIN_S = 1.0
NO_LIMITS = TenantLimits()


class KeyRing:
    """Of one replica."""

    def __init__(self, access_log: AccessLog) -> None:
        """Read what holds.

        Raises:
            AccessError: the log of keys was tampered with.
        """
        self._log = access_log
        self._grants, self._passes = Grants(), dict[str, Key]()
        self._reading = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "keys")
        self._asked: asyncio.Future[None] | None = None
        self._asked_at = 0.0
        self.refresh()

    def refresh(self) -> None:
        """Read what is new.

        Raises:
            AccessError: the log of keys was tampered with; what was known holds on.
        """
        with self._reading:
            self._grants = self._log.grants(self._grants)
            self._passes = self._log.passes()

    def follow(self) -> None:
        """Look from now on, in a thread that lives as long as the process."""
        repeat(self.refresh, POLL_S, "reading keys")

    def _try_refresh(self) -> None:
        try:
            self.refresh()
        except Exception:  # storage may be away for a while: what is known holds on
            log.exception("the keys cannot be read; those that were known hold on")

    async def key(self, text: str) -> Key | None:
        """What is known of a key, expired or not; None where it is none, or revoked.

        A key of which nothing is known may be new, so storage is asked, ten times a second at most.
        """
        key_id = key_id_of(text)
        if key_id and self._known(key_id) is None:
            await self._looked_for(key_id)
        known = self._known(key_id)
        if known is None:
            compare_with_nothing(text)
            return None
        return known if known.is_of(text) else None

    async def _looked_for(self, key_id: str) -> None:
        """Return once storage was read, at the latest after a second; all who ask meanwhile wait for the same.

        A look that was under way may have begun before the key was made: where it did not find it, there is another.
        """
        until = time.monotonic() + LOOK_WITHIN_S
        if self._asked and not self._asked.done():
            await asyncio.wait({self._asked}, timeout=LOOK_WITHIN_S)
            if self._known(key_id):
                return
        if self._asked is None or self._asked.done():
            if time.monotonic() - self._asked_at < READ_AGAIN_S:
                return
            self._asked_at = time.monotonic()
            self._asked = asyncio.get_running_loop().run_in_executor(self._thread, self._try_refresh)
        await asyncio.wait({self._asked}, timeout=max(0.0, until - time.monotonic()))

    def limits(self, tenant: str) -> TenantLimits:
        """Of a tenant."""
        return self._grants.limits.get(tenant, NO_LIMITS)

    def _known(self, key_id: str) -> Key | None:
        return self._grants.keys.get(key_id) or self._passes.get(key_id)
