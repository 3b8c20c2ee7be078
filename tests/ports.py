"""Ports for servers that tests kill and start again."""

import random

from cluster.environment import free_ports

KEPT = range(20_000, 32_000)
"""Below those that the kernel gives to connections (from 32768 on): one would take a port while its server is away."""
_LEFT = random.SystemRandom().sample(KEPT, len(KEPT))
"""Those that were not handed out yet: some wait long for their server, and are free until then."""


def kept_ports(num: int) -> list[int]:
    """So many different ports that nothing listens on now, and hardly anything will."""
    found: list[int] = []
    while len(found) < num:
        port = _LEFT.pop()
        found += [port] if free_ports(port) == [port] else []
    return found
