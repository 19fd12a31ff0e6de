"""The faults of the demonstration: what is broken and when, so that everybody can watch what comes of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from raypost.errors import UsageError
from raypost.node.demo_network import CENTRE, MAIN_RELAY, REFERRER, RESERVE_RELAY, SECOND_CENTRE, DemoNetwork
from raypost.node.demo_progress import Progress
from raypost.node.demo_site import serve
from raypost.node.demo_story import FAULT

DROP, DOUBLE = 0.25, 0.10
REROUTE_AFTER_S = 15
QUICK = (
    "receipt_timeout_s = 6.0",
    "receipt_interval_s = 1.0",
    "quiet_s = 4.0",
    "quiet_emergency_s = 4.0",
    "gap_wait_s = 3.0",
    "first_parcel_max_bytes = 100_000",
    "parcel_max_bytes = 1_000_000",
)
"""Little patience and smaller parcels, so that a study is in the middle of its way for some seconds."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What a fault can see and do.

    Attributes:
        instances: How many images the scanner sends.
        note: Adds a sentence to the story: who, and what.
    """

    network: DemoNetwork
    progress: Progress
    instances: int
    note: Callable[[str, str], None]


class Fault(ABC):
    """One fault; it acts when the study is where the fault hurts.

    Attributes:
        scanner_patience_s: A scanner tries again for so long what was not taken.
        state: How the demonstration must end in spite of it.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    relay_count: ClassVar[int] = 1
    has_second_centre: ClassVar[bool] = False
    scanner_patience_s: ClassVar[float] = 0.0
    state: ClassVar[str] = "delivered"
    transfer_lines: ClassVar[tuple[str, ...]] = QUICK

    def begin(self, stage: Stage) -> None:
        """Prepare it, before the scanner begins."""
        return

    @abstractmethod
    def look(self, stage: Stage) -> None:
        """Act if it is time to; called several times a second."""


class RelayDies(Fault):
    """The first relay dies with the first parcel in it."""

    name = "relay-dies"
    summary = "two relays; the first is killed with mails in it and stays dead"
    relay_count = 2

    def __init__(self) -> None:
        self._is_dead = False

    def look(self, stage: Stage) -> None:
        """Kill it as soon as it accepted a parcel."""
        over = stage.progress.sent_over
        if not self._is_dead and over[MAIN_RELAY] + over[""]:
            self._is_dead = True
            stage.note(FAULT, f"relay {MAIN_RELAY} is killed (kill -9) with every mail in it, and stays dead")
            stage.network.relays[MAIN_RELAY].kill()


class Lossy(Fault):
    """The relay loses mails after it said that it has them, and delivers others twice."""

    name = "lossy"
    summary = f"the relay loses {DROP:.0%} of the mails that it accepted, and delivers {DOUBLE:.0%} twice"

    def begin(self, stage: Stage) -> None:
        """Order it."""
        for relay in stage.network.relays.values():
            relay.order(drop=DROP, double=DOUBLE)
        stage.note(FAULT, f"the relay now loses {DROP:.0%} of what it accepted, and delivers {DOUBLE:.0%} twice")

    def look(self, stage: Stage) -> None:
        """Leave it at that."""


class SiteKilled(Fault):
    """Both hospitals lose their power in the middle, one after the other."""

    name = "site-killed"
    summary = "both sites are killed with -9 in the middle and started again"
    scanner_patience_s = 60.0

    def __init__(self) -> None:
        self._steps = [self._kill_centre, self._kill_referrer, self._start_again]

    def look(self, stage: Stage) -> None:
        """Kill the centre when it filed the first images, the sender when half of the images came; start both again."""
        if self._steps and self._steps[0](stage):
            del self._steps[0]

    def _kill_centre(self, stage: Stage) -> bool:
        if not stage.progress.count(CENTRE, "filed"):
            return False
        stage.note(FAULT, f"all processes of {CENTRE.title()} are killed (kill -9)")
        stage.network.sites[CENTRE].kill()
        return True

    def _kill_referrer(self, stage: Stage) -> bool:
        if 2 * stage.progress.count(REFERRER, "received") < stage.instances:
            return False
        stage.note(FAULT, f"all processes of {REFERRER.title()} are killed (kill -9)")
        stage.network.sites[REFERRER].kill()
        return True

    def _start_again(self, stage: Stage) -> bool:
        for name in (REFERRER, CENTRE):
            stage.note(name, "is started again")
        serve(stage.network.sites[REFERRER], stage.network.sites[CENTRE])
        return True


class CentreSilent(Fault):
    """The centre falls silent in the middle; a rule names the next one."""

    name = "centre-silent"
    summary = "the centre is cut off in the middle; a rule sends the study to the next one"
    has_second_centre = True
    state = "rerouted"

    def __init__(self) -> None:
        self._is_silent = False

    def begin(self, stage: Stage) -> None:
        """Add the rule, as the administrator of the referring hospital does."""
        after_s = str(REROUTE_AFTER_S)
        rule = ("rule", "add", "--reroute-from", CENTRE, "--to", SECOND_CENTRE, "--after", after_s)
        stage.network.sites[REFERRER].run(*rule)
        stage.note(
            REFERRER,
            f"a rule: when {CENTRE.title()} confirms nothing for {after_s} s, {SECOND_CENTRE.title()} gets the study",
        )

    def look(self, stage: Stage) -> None:
        """Cut the centre off when it filed the first images."""
        if not self._is_silent and stage.progress.count(CENTRE, "filed"):
            self._is_silent = True
            stage.note(FAULT, f"{CENTRE.title()} loses its power and stays silent")
            stage.network.sites[CENTRE].kill()


FAULTS: dict[str, type[Fault]] = {one.name: one for one in (RelayDies, Lossy, SiteKilled, CentreSilent)}


def fault_named(name: str) -> Fault:
    """Return a fault by name.

    Raises:
        UsageError: There is none.
    """
    if name not in FAULTS:
        raise UsageError(f"there is no fault {name!r}", do=f"Choose one of {', '.join(FAULTS)}.")
    return FAULTS[name]()


def cast(fault: Fault | None) -> str:
    """Say in words who takes part."""
    relays = f"{RESERVE_RELAY} relay" if fault is not None and fault.relay_count > 1 else ""
    sites = "three hospitals" if fault is not None and fault.has_second_centre else "two hospitals"
    return f"a database, a mail relay{', a ' + relays if relays else ''} and {sites}"
