"""What one transfer holds: every instance with its size and SHA-256; what a parcel carries of it."""

from __future__ import annotations

from dataclasses import dataclass

from raypost.errors import RemoteProtocolError
from raypost.model.identifiers import is_dicom_uid, is_sha256

INSTANCE_SIZE_MAX_BYTES = 8 << 30
INSTANCES_MAX = 50_000
PARCELS_MAX = 50_000


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One instance as sealed: the hash and size of its file."""

    sha256: str
    size_bytes: int
    sop_instance_uid: str

    def __post_init__(self) -> None:
        if not is_sha256(self.sha256) or not is_dicom_uid(self.sop_instance_uid):
            raise RemoteProtocolError("an instance is named by something that is no SHA-256 or no UID")
        if type(self.size_bytes) is not int or not 0 < self.size_bytes <= INSTANCE_SIZE_MAX_BYTES:
            raise RemoteProtocolError("an instance has an impossible size")


@dataclass(frozen=True, slots=True)
class ParcelEntry:
    """One instance, or a slice of a too large one, inside a parcel."""

    instance: ManifestEntry
    offset_bytes: int
    length_bytes: int

    def __post_init__(self) -> None:
        if type(self.offset_bytes) is not int or type(self.length_bytes) is not int:
            raise RemoteProtocolError("a slice has no place")
        if not (
            0 <= self.offset_bytes
            and 0 < self.length_bytes
            and self.offset_bytes + self.length_bytes <= self.instance.size_bytes
        ):
            raise RemoteProtocolError("a slice lies outside its instance")

    @property
    def is_whole(self) -> bool:
        """Say whether the entry carries the whole instance."""
        return self.offset_bytes == 0 and self.length_bytes == self.instance.size_bytes
