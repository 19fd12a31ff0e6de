"""The demonstration: a scanner sends a CT, a relay and two hospitals bring it across, followed live."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from raypost.archive import events
from raypost.archive.blobs import BlobStore
from raypost.archive.database import Database
from raypost.archive.events import Happened, Position
from raypost.dicom.jobs import EXAMINE, PRELOAD
from raypost.errors import RaypostError
from raypost.lab.sample_studies import HeadCtSpec, head_ct, write_study
from raypost.lab.scanner import ScanResult, find_dicom_files, scan
from raypost.model.audit import EventKind, Level
from raypost.model.study import InstanceFacts
from raypost.node.clock import SystemClock
from raypost.node.demo_network import CENTRE, REFERRER, SCANNER_AE_TITLE, DemoNetwork, DemoSite
from raypost.sandbox.limits import SandboxLimits
from raypost.sandbox.pool import Sandbox

LOOK_S = 0.1
MEMORY_EVERY = 3
DELIVERY_TIMEOUT_S = 240.0
DELIVERY_TIMEOUT_PER_INSTANCE_S = 0.5


@dataclass(slots=True)
class Progress:
    """What the two sites did so far, step by step, in the words of the chain."""

    received: int = 0
    packed: int = 0
    sealed: int = 0
    sent: int = 0
    fetched: int = 0
    verified: int = 0
    filed: int = 0
    receipted: int = 0
    mails_sent: int = 0
    receipts_written: int = 0
    first_at: dict[str, datetime] = field(default_factory=dict)
    delivered: int = 0
    unconfirmed: int = 0
    opened: int = 0
    alarms: list[str] = field(default_factory=list)

    def hear(self, site_name: str, one: Happened) -> None:
        """Take in one event of one of the sites."""
        count = int(one.fields.get("instances") or 0)
        is_parcel = one.fields.get("message") == "parcel"
        at_centre = site_name == CENTRE
        match one.kind:
            case EventKind.RECEIVED if not at_centre:
                self.received += 1
            case EventKind.PACKED if not at_centre and is_parcel:
                self.packed += count
            case EventKind.SEALED if not at_centre and is_parcel:
                self.sealed += count
            case EventKind.SENT if not at_centre:
                self.mails_sent += 1
                self.sent += is_parcel
            case EventKind.FETCHED if at_centre:
                self.fetched += 1
            case EventKind.VERIFIED if at_centre and is_parcel:
                self.verified += count
            case EventKind.FILED if at_centre:
                self.filed += count
            case EventKind.RECEIPTED if not at_centre:
                self.receipted = int(one.fields.get("instances") or 0)
            case EventKind.RECEIPT_WRITTEN if at_centre:
                self.receipts_written += 1
            case EventKind.TRANSFER_OPENED if not at_centre:
                self.opened += 1
            case EventKind.TRANSFER_DELIVERED if not at_centre:
                self.delivered += 1
            case EventKind.TRANSFER_UNCONFIRMED if not at_centre:
                self.unconfirmed += 1
        if one.level is Level.ALARM:
            self.alarms.append(
                f"{site_name}: {one.kind.value} {one.fields.get('said') or one.fields.get('what') or ''}"
            )
        self.first_at.setdefault(f"{site_name} {one.kind.value}", one.at)
        if one.kind is EventKind.TRANSFER_DELIVERED:
            self.first_at["delivered"] = one.at


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `JSON=file` holds."""

    state: str
    study_instance_uid: str
    instances: int
    raw_bytes: int
    stored_bytes: int
    wire_bytes: int
    mails: int
    announce_s: float | None
    first_image_s: float | None
    delivered_s: float | None
    pixels_identical: bool
    peak_rss_mb: float
    refused_by_scp: int
    alarms: tuple[str, ...] = ()


class Demo:
    """One run over a network that is up."""

    def __init__(self, network: DemoNetwork, show: Callable[[Progress], None]) -> None:
        self._network = network
        self._show = show
        self._clock = SystemClock()
        self._pause = threading.Event()
        self.progress = Progress()
        self._positions = {name: Position() for name in network.sites}
        self._databases: dict[str, Database] = {name: site.database() for name, site in network.sites.items()}
        self._peaks = dict.fromkeys(network.sites, 0)

    def close(self) -> None:
        """Give the connections back."""
        for database in self._databases.values():
            database.close()

    def run(self, files: list[Path]) -> Outcome:
        """Send the files from the scanner to the referring hospital and follow them until the receipt is there."""
        scanned: list[ScanResult] = []
        failed: list[RaypostError] = []
        referrer = self._network.sites[REFERRER]
        begin_s = self._clock.now().timestamp()

        def _scan() -> None:
            try:
                scanned.append(
                    scan(
                        files,
                        "127.0.0.1",
                        referrer.dicom_port,
                        SCANNER_AE_TITLE,
                        f"{CENTRE.upper()}_N",
                        monotonic=lambda: self._clock.now().timestamp(),
                    )
                )
            except RaypostError as error:
                failed.append(error)

        scanner = threading.Thread(target=_scan)
        scanner.start()
        timeout_s = DELIVERY_TIMEOUT_S + DELIVERY_TIMEOUT_PER_INSTANCE_S * len(files)
        looks = 0
        while self._clock.now().timestamp() - begin_s < timeout_s:
            self.look(with_memory=looks % MEMORY_EVERY == 0)
            looks += 1
            it = self.progress
            if not scanner.is_alive() and (failed or (it.opened and it.delivered + it.unconfirmed >= it.opened)):
                break
            self._pause.wait(LOOK_S)
        scanner.join()
        if failed:
            raise failed[0]
        self.look(with_memory=True)
        return self._outcome(files, scanned[0])

    def look(self, *, with_memory: bool = False) -> None:
        """Read what happened since the last look and show it."""
        for name, database in self._databases.items():
            try:
                for one in events.read_after(database, self._positions[name]):
                    self._positions[name] = one.position
                    self.progress.hear(name, one)
            except RaypostError:
                continue  # a database that is being restarted; the next look reads on
        if with_memory:
            for name, site in self._network.sites.items():
                self._peaks[name] = max(self._peaks[name], site.memory_bytes())
        self._show(self.progress)

    def _outcome(self, files: list[Path], scanned: ScanResult) -> Outcome:
        it = self.progress

        def _since(name: str) -> float | None:
            at = it.first_at.get(name)
            return round(at.timestamp() - scanned.first_store_at_s, 3) if at else None

        is_delivered = bool(it.opened) and it.delivered >= it.opened
        is_identical, dicom_uid = compare_pixels(files, self._network.sites[CENTRE])
        return Outcome(
            state="delivered" if is_delivered else "unconfirmed" if it.unconfirmed else "not delivered in time",
            study_instance_uid=dicom_uid,
            instances=scanned.instances,
            raw_bytes=scanned.raw_part10_bytes,
            stored_bytes=sum(one.stat().st_size for one in _blobs(self._network.sites[CENTRE])),
            wire_bytes=sum(self._network.accepted),
            mails=len(self._network.accepted),
            announce_s=None,
            first_image_s=_since(f"{CENTRE} {EventKind.FILED.value}"),
            delivered_s=_since("delivered"),
            pixels_identical=is_identical,
            peak_rss_mb=round(max(self._peaks.values()) / 1e6, 1),
            refused_by_scp=len(scanned.refused),
            alarms=tuple(it.alarms),
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


def compare_pixels(files: list[Path], centre: DemoSite) -> tuple[bool, str]:
    """Say whether every frame at the centre equals what was sent, and the study's UID.

    Pictures are compared decoded; objects without pictures by their whole content.
    """
    limits = SandboxLimits()
    with Sandbox(limits, 2, PRELOAD) as sandbox:

        def _facts(file: Path) -> InstanceFacts:
            return InstanceFacts.from_json(sandbox.run(EXAMINE, file, None, {"compress": False}))

        there: dict[str, set[str]] = {}
        for blob in _blobs(centre):
            facts = _facts(blob)
            there.setdefault(facts.sop_instance_uid, set()).add(facts.pixel_sha256 or facts.content_sha256)
        dicom_uid, is_identical = "", bool(files)
        for file in files:
            facts = _facts(file)
            dicom_uid = dicom_uid or facts.study_instance_uid
            mine = facts.pixel_sha256 or facts.content_sha256
            is_identical = is_identical and mine in there.get(facts.sop_instance_uid, set())
    return is_identical, dicom_uid


def _blobs(site: DemoSite) -> list[Path]:
    return BlobStore(site.folder / "data" / "blobs").all_files()


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return the documented shape."""
    shape = {name: getattr(outcome, name) for name in Outcome.__dataclass_fields__}
    shape["alarms"] = list(outcome.alarms)
    return shape
