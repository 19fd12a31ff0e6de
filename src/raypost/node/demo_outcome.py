"""What came out of a demonstration: its figures, and whether the pixels are those of the scanner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypost.archive.blobs import BlobStore
from raypost.dicom.jobs import EXAMINE, PRELOAD
from raypost.model.study import InstanceFacts
from raypost.node.demo_site import DemoSite
from raypost.sandbox.limits import SandboxLimits
from raypost.sandbox.pool import Sandbox


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `JSON=file` holds; docs/reference/json-shapes.md has the meaning of each."""

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
    faults: str = ""
    final_site: str = ""
    story: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Say whether a centre has the study, every pixel as the scanner made it."""
        return self.state in ("delivered", "rerouted") and self.pixels_identical


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return the documented shape."""
    shape = {name: getattr(outcome, name) for name in Outcome.__dataclass_fields__}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in shape.items()}


def compare_pixels(files: list[Path], site: DemoSite) -> tuple[bool, str]:
    """Say whether every frame at a site equals what was sent, and the study's UID.

    Pictures are compared decoded; objects without pictures by their whole content.
    """
    limits = SandboxLimits()
    with Sandbox(limits, 2, PRELOAD) as sandbox:

        def _facts(file: Path) -> InstanceFacts:
            return InstanceFacts.from_json(sandbox.run(EXAMINE, file, None, {"compress": False}))

        there: dict[str, set[str]] = {}
        for blob in kept_files(site):
            facts = _facts(blob)
            there.setdefault(facts.sop_instance_uid, set()).add(facts.pixel_sha256 or facts.content_sha256)
        dicom_uid, is_identical = "", bool(files)
        for file in files:
            facts = _facts(file)
            dicom_uid = dicom_uid or facts.study_instance_uid
            mine = facts.pixel_sha256 or facts.content_sha256
            is_identical = is_identical and mine in there.get(facts.sop_instance_uid, set())
    return is_identical, dicom_uid


def kept_files(site: DemoSite) -> list[Path]:
    """Return the files of all images that a site keeps."""
    return BlobStore(site.folder / "data" / "blobs").all_files()
