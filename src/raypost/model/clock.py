"""What "now" looks like to those who are given a clock."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time; node has the real one, tests and the simulator a virtual one."""

    def now(self) -> datetime:
        """Return the current instant, aware, in UTC."""
        ...
