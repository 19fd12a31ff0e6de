"""The demonstration: a scanner sends a CT, relays and hospitals bring it across, live and with faults on order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from raypost.archive import events, partners
from raypost.archive.database import Database
from raypost.archive.events import Position
from raypost.errors import RaypostError, RefusedError, UnreachableError
from raypost.lab.sample_studies import HeadCtSpec, head_ct, write_study
from raypost.lab.scanner import StoredInstance, find_dicom_files, scan
from raypost.model.audit import EventKind
from raypost.node.clock import SystemClock
from raypost.node.demo_faults import Fault, Stage
from raypost.node.demo_network import CENTRE, REFERRER, SCANNER_AE_TITLE, DemoNetwork
from raypost.node.demo_outcome import Outcome, compare_pixels, kept_files
from raypost.node.demo_progress import Progress
from raypost.node.demo_site import DemoSite
from raypost.node.demo_story import Storyteller

LOOK_S = 0.1
LOOKS_AFTER_MAX = 50
LATE_IMAGES_S = 5.0
MEMORY_EVERY = 3
DELIVERY_TIMEOUT_S = 240.0
FAULT_TIMEOUT_S = 120.0
DELIVERY_TIMEOUT_PER_INSTANCE_S = 0.5
SCANNER_PAUSE_S = 0.5


class Scanner(threading.Thread):
    """A modality in a thread of its own, which tries again what was not taken when the connection broke."""

    def __init__(self, files: list[Path], site: DemoSite, clock: SystemClock, patience_s: float) -> None:
        super().__init__(daemon=True)
        self.first_store_at_s: float | None = None
        self.failed: RaypostError | None = None
        self.answered: dict[Path, StoredInstance] = {}
        self.broken_at: list[datetime] = []
        self._files = files
        self._site = site
        self._clock = clock
        self._patience_s = patience_s
        self._pause = threading.Event()

    @property
    def raw_bytes(self) -> int:
        """Return the size of what was sent, each image once, as Part 10 files."""
        return sum(one.part10_bytes for one in self.answered.values())

    @property
    def refused(self) -> int:
        """Return how many images were answered with a failure at last."""
        return sum(not one.is_stored for one in self.answered.values())

    def run(self) -> None:
        """Send everything; a connection that breaks is begun again until patience is at its end."""
        give_up_s = self._now_s() + self._patience_s
        left = list(self._files)
        while left and self.failed is None:
            try:
                self._send(left)
                return
            except (UnreachableError, RefusedError) as error:
                self.broken_at.append(self._clock.now())
                if self._now_s() >= give_up_s:
                    self.failed = error
                self._pause.wait(SCANNER_PAUSE_S)
            except RaypostError as error:
                self.failed = error
            left = [file for file in left if file not in self.answered or not self.answered[file].is_stored]

    def _send(self, batch: list[Path]) -> None:
        def _note(one: StoredInstance) -> None:
            self.answered[batch[one.number - 1]] = one

        scan(
            batch,
            "127.0.0.1",
            self._site.dicom_port,
            SCANNER_AE_TITLE,
            f"{CENTRE.upper()}_N",
            on_stored=_note,
            monotonic=self._scan_clock_s,
        )

    def _now_s(self) -> float:
        return self._clock.now().timestamp()

    def _scan_clock_s(self) -> float:
        """Return the time; the scan asks for it first when the first C-STORE begins."""
        now_s = self._now_s()
        self.first_store_at_s = self.first_store_at_s or now_s
        return now_s


class Demo:
    """One run over a network that is up.

    Args:
        show: Called with how far it is, several times a second.
        tell: Called with each sentence of the story.
        fault: What goes wrong; None: nothing.
    """

    def __init__(
        self,
        network: DemoNetwork,
        show: Callable[[Progress], None],
        tell: Callable[[str], None],
        fault: Fault | None = None,
    ) -> None:
        self._network = network
        self._show = show
        self._tell = tell
        self._fault = fault
        self._clock = SystemClock()
        self._pause = threading.Event()
        self.progress = Progress()
        self._positions = {name: Position() for name in network.sites}
        self._databases: dict[str, Database] = {name: site.database() for name, site in network.sites.items()}
        self._names: dict[tuple[str, int], str] = {}
        self._carried = dict.fromkeys(network.relays, 0)
        self._peaks = dict.fromkeys(network.sites, 0)
        self._ended_at: datetime | None = None

    def close(self) -> None:
        """Give the connections back."""
        for database in self._databases.values():
            database.close()

    def run(self, files: list[Path]) -> Outcome:
        """Send the files from the scanner to the referring hospital and follow them until the receipt is there.

        Raises:
            RaypostError: The scanner could not send, or a fault could not be made.
        """
        begin = self._clock.now()
        story = Storyteller(REFERRER, len(files))
        stage = Stage(
            self._network, self.progress, len(files), lambda who, words: story.note(self._clock.now(), who, words)
        )
        if self._fault is not None:
            self._fault.begin(stage)
        patience_s = self._fault.scanner_patience_s if self._fault is not None else 0.0
        scanner = Scanner(files, self._network.sites[REFERRER], self._clock, patience_s)
        scanner.start()
        limit_s = FAULT_TIMEOUT_S if self._fault is not None else DELIVERY_TIMEOUT_S
        limit_s += DELIVERY_TIMEOUT_PER_INSTANCE_S * len(files)
        looks, is_break_told = 0, False
        while (self._clock.now() - begin).total_seconds() < limit_s:
            if scanner.first_store_at_s is not None:
                story.begin = datetime.fromtimestamp(scanner.first_store_at_s, UTC)
            if scanner.broken_at and not is_break_told:
                is_break_told = True  # once; until the site is back every further attempt fails, too
                story.note(scanner.broken_at[0], "scanner", "the connection broke: what was not taken is sent again")
            self.look(story, with_memory=looks % MEMORY_EVERY == 0)
            looks += 1
            if self._fault is not None:
                self._fault.look(stage)
            if not scanner.is_alive() and (scanner.failed is not None or self._is_over()):
                break
            self._pause.wait(LOOK_S)
        if scanner.failed is not None:
            raise scanner.failed
        self._look_after(story, len(files))
        return self._outcome(files, scanner, story)

    def _is_over(self) -> bool:
        """Say whether it ended; for a while not before all is confirmed: late images may open one more transfer."""
        it, now = self.progress, self._clock.now()
        if not it.is_ended:
            self._ended_at = None
            return False
        self._ended_at = self._ended_at or now
        received, confirmed = it.count(REFERRER, "received"), it.count(REFERRER, "receipted")
        return confirmed >= received or (now - self._ended_at).total_seconds() > LATE_IMAGES_S

    def _look_after(self, story: Storyteller, instances: int) -> None:
        """Hear the end of the story: an event is read only when every transaction that began before it has ended."""
        final = self._partner(REFERRER, self.progress.delivered_to)
        for _ in range(LOOKS_AFTER_MAX):
            self.look(story)
            if not final or self.progress.count(final, "filed") >= instances:
                break
            self._pause.wait(LOOK_S)
        self.look(story, with_memory=True, is_last=True)

    def look(self, story: Storyteller, *, with_memory: bool = False, is_last: bool = False) -> None:
        """Read what happened since the last look, show and tell it."""
        now = self._clock.now()
        for name, database in self._databases.items():
            try:
                for one in events.read_after(database, self._positions[name]):
                    partner = self._partner(name, one.site_id)
                    self._positions[name] = one.position
                    self.progress.hear(name, one)
                    story.hear(name, one, partner)
            except RaypostError:
                continue  # a database that is being restarted; the next look reads on
        for relay in self._network.relays.values():
            for mail in relay.carried[self._carried[relay.name] :]:
                self._carried[relay.name] += 1
                if mail.copies != 1:
                    story.note_relay(datetime.fromtimestamp(mail.at_s, UTC), relay.name, mail.copies)
        if with_memory:
            for name, site in self._network.sites.items():
                self._peaks[name] = max(self._peaks[name], site.memory_bytes())
        for line in story.tell(None if is_last else now):
            self._tell(line)
        self._show(self.progress)

    def _partner(self, name: str, site_id: int | None) -> str:
        """Return the name that a site's database has for another site."""
        if site_id is None:
            return ""
        if (name, site_id) not in self._names:
            with self._databases[name].transaction() as tx:
                self._names[name, site_id] = partners.site_name(tx, site_id)
        return self._names[name, site_id]

    def _outcome(self, files: list[Path], scanner: Scanner, story: Storyteller) -> Outcome:
        it = self.progress
        begin_s = scanner.first_store_at_s or 0.0

        def _since(*instants: datetime | None) -> float | None:
            known = [instant.timestamp() for instant in instants if instant is not None]
            return round(min(known) - begin_s, 3) if known else None

        final = self._partner(REFERRER, it.delivered_to)
        site = self._network.sites[final or CENTRE]
        is_identical, dicom_uid = compare_pixels(files, site)
        return Outcome(
            state=it.state,
            study_instance_uid=dicom_uid,
            instances=len(scanner.answered),
            raw_bytes=scanner.raw_bytes,
            stored_bytes=sum(one.stat().st_size for one in kept_files(site)),
            wire_bytes=sum(self._network.accepted),
            mails=len(self._network.accepted),
            announce_s=_since(*(it.first(name, EventKind.ANNOUNCED) for name in self._network.sites)),
            first_image_s=_since(it.first(site.name, EventKind.FILED)),
            delivered_s=_since(it.first_at.get("delivered")),
            pixels_identical=is_identical,
            peak_rss_mb=round(max(self._peaks.values()) / 1e6, 1),
            refused_by_scp=scanner.refused,
            alarms=tuple(it.alarms),
            faults=self._fault.name if self._fault is not None else "",
            final_site=final,
            story=tuple(story.lines),
        )


def default_study(folder: Path, clock: SystemClock) -> list[Path]:
    """Make the head CT that is sent when nobody names another study."""
    return write_study(head_ct(HeadCtSpec(study_at=clock.now())), folder)


def files_to_send(study: Path | None, folder: Path, clock: SystemClock) -> list[Path]:
    """Return the files of the study to be sent.

    Raises:
        UsageError: There is no DICOM at the path.
    """
    return find_dicom_files(study) if study is not None else default_study(folder, clock)
