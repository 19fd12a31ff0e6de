"""Virtual time: a heap of what comes next, one seeded source of chance, and the trace."""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from typing import Any

EVENTS_MAX = 60_000
"""Twenty times what a seed needs: one that comes here goes round in circles."""


class RunawayError(Exception):
    """A seed did not come to an end: something is repeated without bound."""


class World:
    """One seed's time, chance and trace.

    Args:
        seed: Everything that happens follows from it.
        is_traced: Keep a readable line of everything that happens.
    """

    def __init__(self, seed: int, *, is_traced: bool = False) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.now_s = 0.0
        self.events = 0
        self.lines: list[str] | None = [] if is_traced else None
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...], bool]] = []
        self._waited_for = 0
        self._serial = 0

    def after(self, wait_s: float, call: Callable[..., None], *args: Any) -> None:
        """Call something after so many seconds."""
        self._serial += 1
        self._waited_for += 1
        heapq.heappush(self._heap, (self.now_s + wait_s, self._serial, call, args, True))

    def aside(self, wait_s: float, call: Callable[..., None], *args: Any) -> None:
        """Call something after so many seconds, if the seed is not over by then: it waits for nothing that is aside."""
        self._serial += 1
        heapq.heappush(self._heap, (self.now_s + wait_s, self._serial, call, args, False))

    def run(self, until_s: float) -> bool:
        """Let time pass until nothing is waited for; False when something still is at `until_s`.

        Raises:
            RunawayError: More happened than can be right.
        """
        heap, pop = self._heap, heapq.heappop
        while self._waited_for:
            at_s, _, call, args, is_waited_for = pop(heap)
            self._waited_for -= is_waited_for
            if at_s > until_s:
                return False
            self.now_s = at_s
            self.events += 1
            if self.events > EVENTS_MAX:
                raise RunawayError(f"more than {EVENTS_MAX} events at {at_s:.0f} s")
            call(*args)
        return True

    def say(self, who: str, what: str) -> None:
        """Write a line into the trace."""
        if self.lines is not None:
            self.lines.append(f"{_clock(self.now_s)} {who:<8} {what}")

    def fingerprint(self) -> str:
        """Return the hash of the trace: the same seed gives the same one."""
        return hashlib.sha256("\n".join(self.lines or ()).encode()).hexdigest()


def _clock(now_s: float) -> str:
    days, rest_s = divmod(now_s, 86_400.0)
    hours, rest_s = divmod(rest_s, 3_600.0)
    minutes, seconds = divmod(rest_s, 60.0)
    return f"{days:2.0f}d {hours:02.0f}:{minutes:02.0f}:{seconds:06.3f}"
