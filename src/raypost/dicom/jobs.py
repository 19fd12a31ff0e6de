"""The names of the functions on DICOM files that run in the sandbox, and what its pool must import for them.

They stand in `examine.py`, which callers do not import: it brings the codecs with it.
"""

from __future__ import annotations

EXAMINE = "raypost.dicom.examine:examine"
"""(source, target or None, compress=bool) -> `InstanceFacts` as JSON; the file to be kept is written to target."""
NATIVE = "raypost.dicom.examine:native"
"""(source, target, transfer_syntax_uid=Explicit or Implicit VR Little Endian) -> {"size_bytes"}"""
PIXEL_DIGESTS = "raypost.dicom.examine:pixel_digests"
"""(source, None) -> {"frames": [SHA-256 of the decoded pixels of each frame]}"""
PRELOAD = ("raypost.dicom.examine:load",)
