"""Lossless compression to JPEG-LS with a bit-exact check, and the way back to native pixels.

A file is compressed once, at intake. What is written is read again, decoded and compared before it is accepted; when
anything is not proven the file keeps the transfer syntax it came with.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pydicom

from raypost.dicom.codestreams import decode_frame, encode_jpeg_ls, encoded_frames
from raypost.dicom.elements import EXTENDED_OFFSETS, PLANAR_CONFIGURATION, Element, read_data_set
from raypost.dicom.instance_file import InstanceFile, decoded_frames, read_file
from raypost.dicom.part10 import Buffer, join_meta
from raypost.dicom.pixel_layout import (
    PixelLayout,
    UndecodableError,
    frame_words,
    native_pixels,
    read_layout,
    sign_extended,
)
from raypost.dicom.transfer_syntaxes import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    JPEG_LS_LOSSLESS,
    transfer_syntax_name,
)
from raypost.dicom.vr_rewriting import other_elements, proven_explicit, rewritten_elements, translated
from raypost.errors import BadInputError

_PHOTOMETRIC = {1: ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"), 3: ("RGB", "YBR_FULL")}
_BITS_ALLOCATED = 0x00280100
_TRANSFORMED = ("YBR_RCT", "YBR_ICT")
_DIGITAL_SIGNATURES = 0xFFFAFFFA
_PIXEL_TAG = b"\xe0\x7f\x10\0"
_ITEM_TAG = b"\xfe\xff\x00\xe0"
_SEQUENCE_END = b"\xfe\xff\xdd\xe0\0\0\0\0"
_LENGTH_MAX_BYTES = 0xFFFFFFFE


@dataclass(frozen=True, slots=True)
class Compressed:
    """The proven JPEG-LS file."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Kept:
    """The file keeps its transfer syntax, and why."""

    reason: str


def try_compress(raw: Buffer) -> Compressed | Kept:
    """Compress a Part 10 file; never raises for what is in it."""
    out = io.BytesIO()
    try:
        write_compressed(read_file(raw), out)
    except (UndecodableError, BadInputError) as error:
        return Kept(str(error))
    return Compressed(out.getvalue())


def to_native(raw: Buffer, *, implicit: bool = False) -> bytes:
    """Return the file in Explicit (or Implicit) VR Little Endian with the pixel words of the original.

    Raises:
        BadInputError: The file is damaged, or its pixels cannot be decoded without loss.
    """
    out = io.BytesIO()
    write_native(read_file(raw), out, implicit=implicit)
    return out.getvalue()


def write_compressed(file: InstanceFile, target: BinaryIO) -> None:
    """Write the file as JPEG-LS Lossless to `target`, read it back and compare every bit.

    Only the transfer syntax, Pixel Data and Planar Configuration change. One fragment a frame, Basic Offset Table
    filled for several frames. Flat memory: one frame at a time.

    Raises:
        UndecodableError: Not proven; what is in `target` then is not to be used.
    """
    pixel_data, layout = _compressible(file)
    pixels = native_pixels(file.data_set, layout)
    head, tail = _compressed_header(file, pixel_data, layout)
    target.write(join_meta(file.meta.elements, JPEG_LS_LOSSLESS))
    target.write(head)
    target.write(_PIXEL_TAG + b"OB\0\0\xff\xff\xff\xff")
    table_at = target.tell()
    offsets: list[int] = []
    table_size = 4 * layout.frames if layout.frames > 1 else 0
    target.write(_ITEM_TAG + struct.pack("<I", table_size) + bytes(table_size))
    first_at = target.tell()
    for index in range(layout.frames):
        words = frame_words(pixels, layout, index)
        if not np.array_equal(sign_extended(words, layout), words):
            raise UndecodableError("data above Bits Stored")
        stream = encode_jpeg_ls(words, layout)
        offsets.append(target.tell() - first_at)
        stream += b"\0" * (len(stream) & 1)
        target.write(_ITEM_TAG + struct.pack("<I", len(stream)) + stream)
        if target.tell() + len(tail) >= len(file.raw):
            raise UndecodableError("would grow")
    target.write(_SEQUENCE_END)
    target.write(tail)
    if target.tell() >= len(file.raw) or offsets[-1] > _LENGTH_MAX_BYTES:
        raise UndecodableError("would grow")
    if table_size:
        target.seek(table_at + 8)
        target.write(struct.pack(f"<{len(offsets)}I", *offsets))
    _check_compressed(file, pixels, layout, target)


def write_native(file: InstanceFile, target: BinaryIO, *, implicit: bool) -> None:
    """Write the file in Explicit or Implicit VR Little Endian to `target`, for a peer that takes nothing else.

    Raises:
        BadInputError: The pixels cannot be decoded without loss, or the header cannot be rewritten.
    """
    try:
        _write_native(file, target, implicit)
        if read_file(written(target)).data_set.digest != file.data_set.digest:
            raise UndecodableError("the header does not survive")
    except UndecodableError as error:
        raise BadInputError(f"cannot be converted for this peer: {error}") from error


def written(target: BinaryIO) -> memoryview:
    """Return what was written to a file so far as bytes, without reading it into memory."""
    target.flush()
    try:
        descriptor = target.fileno()
    except io.UnsupportedOperation:
        target.seek(0)
        return memoryview(target.read())
    return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))


def _compressible(file: InstanceFile) -> tuple[Element, PixelLayout]:
    syntax, pixel_data = file.transfer_syntax_uid, file.pixel_data
    if syntax not in (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN):
        raise UndecodableError(f"transfer syntax {transfer_syntax_name(syntax)}")
    if pixel_data is None:
        raise UndecodableError("no Pixel Data")
    if pixel_data.is_encapsulated or not pixel_data.value:
        raise UndecodableError("Pixel Data is empty or encapsulated")
    layout = read_layout(file.header)
    allocated, stored = layout.bits_allocated, layout.bits_stored
    if allocated not in (8, 16) or not 2 <= stored <= allocated or layout.high_bit != stored - 1:
        raise UndecodableError(f"bits {allocated}/{stored}/{layout.high_bit}")
    if layout.is_signed is None:
        raise UndecodableError("no Pixel Representation")
    if layout.photometric not in _PHOTOMETRIC.get(layout.samples, ()):
        raise UndecodableError(f"{layout.samples} samples {layout.photometric}")
    if layout.samples > 1 and (allocated != 8 or layout.is_signed):
        raise UndecodableError(f"{layout.samples} samples of {allocated} bits")
    if layout.is_planar and _DIGITAL_SIGNATURES in file.data_set.elements:
        raise UndecodableError("signed planar colour image")
    return pixel_data, layout


def _compressed_header(file: InstanceFile, pixel_data: Element, layout: PixelLayout) -> tuple[Buffer, Buffer]:
    """Return what comes before and after Pixel Data, in explicit VR and with Planar Configuration 0."""
    is_implicit = file.transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
    head, tail = proven_explicit(file, pixel_data) if is_implicit else other_elements(file, pixel_data)
    return (_by_pixel(head, implicit=False) if layout.is_planar else head), tail


def _by_pixel(head: Buffer, *, implicit: bool) -> bytes:
    """Return the elements before Pixel Data with Planar Configuration 0."""
    element = read_data_set(head, implicit=implicit).elements[PLANAR_CONFIGURATION]
    if bytes(element.value) != b"\1\0":
        raise UndecodableError("odd Planar Configuration")
    changed = bytearray(head)
    changed[element.start : element.end] = b"\0\0"
    return bytes(changed)


def _check_compressed(file: InstanceFile, pixels: memoryview, layout: PixelLayout, target: BinaryIO) -> None:
    """Read the finished file as a stranger would and compare all attributes and every bit of the pixels."""
    target.seek(0)
    with translated():
        stranger = pydicom.dcmread(target, stop_before_pixels=True)
    if stranger.file_meta.TransferSyntaxUID != JPEG_LS_LOSSLESS:
        raise UndecodableError("written file: transfer syntax")
    try:
        back = read_file(written(target))
    except BadInputError as error:
        raise UndecodableError(f"written file: {error}") from error
    target.seek(0, io.SEEK_END)
    if back.data_set.digest != file.data_set.digest or back.pixel_data is None:
        raise UndecodableError("written file: attributes differ")
    count = 0
    for count, stream in enumerate(encoded_frames(back.pixel_data, layout), 1):
        words = decode_frame(JPEG_LS_LOSSLESS, stream, layout)
        if not np.array_equal(words, frame_words(pixels, layout, count - 1)):
            raise UndecodableError(f"decoded frame {count} differs")
    if count != layout.frames:
        raise UndecodableError(f"{count} frames instead of {layout.frames}")


def _write_native(file: InstanceFile, target: BinaryIO, implicit: bool) -> None:
    syntax = IMPLICIT_VR_LITTLE_ENDIAN if implicit else EXPLICIT_VR_LITTLE_ENDIAN
    target.write(join_meta(file.meta.elements, syntax))
    pixel_data = file.pixel_data
    if pixel_data is None:
        target.write(rewritten_elements(file, (file.body, b""), implicit=implicit)[0])
        return
    head, tail = rewritten_elements(file, _without_offsets(file, pixel_data), implicit=implicit)
    vr, size = pixel_data.vr, len(pixel_data.value)
    frames: Iterator[Buffer] = iter((pixel_data.value,))
    if pixel_data.is_encapsulated or not file.data_set.is_little_endian:
        layout = read_layout(file.header)
        vr, frames, size = _decoded_pixels(file, layout)
        if pixel_data.is_encapsulated and layout.is_planar:
            head = _by_pixel(head, implicit=implicit)
    if vr not in (b"OB", b"OW"):
        vr = b"OB" if (file.header.integer(_BITS_ALLOCATED) or 16) <= 8 else b"OW"
    if size + (size & 1) > _LENGTH_MAX_BYTES:
        raise UndecodableError("Pixel Data would be longer than 4 GB")
    target.write(head)
    target.write(_PIXEL_TAG + (b"" if implicit else vr + b"\0\0") + struct.pack("<I", size + (size & 1)))
    if sum(target.write(frame) for frame in frames) != size:
        raise UndecodableError("the decoded frames have another size than the header")
    target.write(b"\0" * (size & 1))
    target.write(tail)


def _decoded_pixels(file: InstanceFile, layout: PixelLayout) -> tuple[bytes, Iterator[Buffer], int]:
    """Return VR, frames and size of what native Pixel Data must be."""
    vr = b"OB" if layout.bits_allocated <= 8 else b"OW"
    if file.pixel_data is None or not file.pixel_data.is_encapsulated:
        return vr, iter((native_pixels(file.data_set, layout),)), layout.pixels_size_bytes
    if layout.photometric in _TRANSFORMED:
        raise UndecodableError("a colour transform inside the codestream")
    size = layout.rows * layout.columns * layout.samples * layout.bits_allocated // 8 * layout.frames
    return vr, decoded_frames(file), size


def _without_offsets(file: InstanceFile, pixel_data: Element) -> tuple[Buffer, Buffer]:
    """Return what comes before and after Pixel Data, without the offsets of fragments, which end with them."""
    head, tail = other_elements(file, pixel_data)
    found = [file.data_set.elements[number].head for number in EXTENDED_OFFSETS if number in file.data_set.elements]
    return (head[: min(found)] if found else head), tail


def frame_digests(file: InstanceFile) -> list[str]:
    """Return the SHA-256 of the decoded pixels of every frame.

    Raises:
        BadInputError: The pixels cannot be decoded without loss.
    """
    try:
        return [hashlib.sha256(frame).hexdigest() for frame in decoded_frames(file)]
    except UndecodableError as error:
        raise BadInputError(f"Pixel Data cannot be decoded: {error}") from error
