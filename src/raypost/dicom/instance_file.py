"""One DICOM file in memory: its meta group, its elements and its header, read with bounds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from raypost.dicom.codestreams import decode_frame, encoded_frames
from raypost.dicom.elements import PIXEL_DATA, DataSet, Element, read_data_set
from raypost.dicom.header import Header
from raypost.dicom.part10 import (
    INFLATED_SIZE_MAX_BYTES,
    Buffer,
    FileMeta,
    inflate_bounded,
    split_meta,
)
from raypost.dicom.pixel_layout import UndecodableError, native_frames, native_pixels, read_layout
from raypost.dicom.transfer_syntaxes import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    LOSSLESS,
    NATIVE,
)
from raypost.model.study import ENCODED_MARK

_DOMAIN = b"raypost content 1\0"


@dataclass(frozen=True, slots=True)
class InstanceFile:
    """A file that was read.

    Attributes:
        raw: All its bytes.
        body: The data set, inflated if the file is deflated.
    """

    raw: memoryview
    meta: FileMeta
    body: memoryview
    data_set: DataSet
    header: Header

    @property
    def transfer_syntax_uid(self) -> str:
        """The transfer syntax in the meta group."""
        return self.meta.transfer_syntax_uid

    @property
    def pixel_data(self) -> Element | None:
        """Pixel Data (7FE0,0010), if there is any."""
        return self.data_set.elements.get(PIXEL_DATA)


def read_file(raw: Buffer, inflated_size_max_bytes: int = INFLATED_SIZE_MAX_BYTES) -> InstanceFile:
    """Read every element of a file; pixels are not touched.

    Raises:
        BadInputError: Not DICOM, truncated, nested too deep, or a bomb.
    """
    view = memoryview(raw)
    meta = split_meta(view)
    body = view[meta.data_set_offset :]
    transfer_syntax_uid = meta.transfer_syntax_uid
    if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        body = memoryview(inflate_bounded(body, inflated_size_max_bytes))
    data_set = read_data_set(
        body,
        implicit=transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN,
        little_endian=transfer_syntax_uid != EXPLICIT_VR_BIG_ENDIAN,
    )
    return InstanceFile(view, meta, body, data_set, Header(data_set))


def decoded_frames(file: InstanceFile) -> Iterator[Buffer]:
    """Yield the pixels of each frame: little endian, colour-by-pixel, without pad byte.

    Raises:
        UndecodableError: The pixels cannot be decoded, or not without loss.
    """
    element = file.pixel_data
    if element is None:
        raise UndecodableError("no Pixel Data")
    layout = read_layout(file.header)
    if file.transfer_syntax_uid in NATIVE:
        if element.is_encapsulated:
            raise UndecodableError("encapsulated Pixel Data in a native transfer syntax")
        yield from native_frames(native_pixels(file.data_set, layout), layout)
        return
    if file.transfer_syntax_uid not in LOSSLESS:
        raise UndecodableError("an encoding that is not decoded here")
    for stream in encoded_frames(element, layout):
        yield decode_frame(file.transfer_syntax_uid, stream, layout).tobytes()


def pixel_digest(file: InstanceFile) -> tuple[str, str]:
    """Return the SHA-256 over the pixels, '' if there are none, and why they could not be decoded.

    An encoding with loss, or one we do not decode, counts by its encoded bytes behind its transfer syntax; so do
    pixels that cannot be decoded, behind `ENCODED_MARK`: two images are never taken for the same because both were
    unreadable.
    """
    element = file.pixel_data
    if element is None:
        return "", ""
    found = hashlib.sha256()
    if file.transfer_syntax_uid not in NATIVE | LOSSLESS:
        return _encoded_digest(file, element).hex(), ""
    try:
        for frame in decoded_frames(file):
            found.update(frame)
    except UndecodableError as error:
        return ENCODED_MARK + _encoded_digest(file, element).hex(), f"Pixel Data cannot be decoded: {error}"
    return found.hexdigest(), ""


def content_digest(file: InstanceFile, pixel_sha256: str) -> str:
    """Return the SHA-256 over all attributes and pixels, equal for the same instance in any transfer syntax.

    Args:
        pixel_sha256: As `pixel_digest` gave it.
    """
    pixels = b""
    if pixel_sha256.startswith(ENCODED_MARK):
        pixels = b"encoded" + bytes.fromhex(pixel_sha256.removeprefix(ENCODED_MARK))
    elif pixel_sha256:
        pixels = b"decoded" + bytes.fromhex(pixel_sha256)
    return hashlib.sha256(_DOMAIN + file.data_set.digest + pixels).hexdigest()


def _encoded_digest(file: InstanceFile, element: Element) -> bytes:
    is_native = file.transfer_syntax_uid in NATIVE and file.data_set.is_little_endian
    found = hashlib.sha256((b"native" if is_native else file.transfer_syntax_uid.encode()) + b"\0")
    if not element.is_encapsulated:
        found.update(element.value)
    for fragment in element.fragments[1:]:
        found.update(len(fragment).to_bytes(4, "little"))
        found.update(fragment)
    return found.digest()
