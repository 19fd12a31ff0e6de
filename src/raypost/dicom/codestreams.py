"""Encoded frames: which fragments belong to which, what their headers declare, and lossless decoding."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import imagecodecs
import jpeg_ls  # the module of the package pyjpegls
import numpy as np
import numpy.typing as npt

from raypost.dicom.elements import Element
from raypost.dicom.pixel_layout import PixelLayout, UndecodableError, Words, sign_extended
from raypost.dicom.transfer_syntaxes import (
    JPEG_2000_LOSSLESS,
    JPEG_LOSSLESS,
    JPEG_LOSSLESS_SV1,
    JPEG_LS_LOSSLESS,
    RLE_LOSSLESS,
)

MARKERS_MAX = 1000
# Errors of the codecs for damaged streams: imagecodecs derives from RuntimeError, numpy raises the others.
CODEC_ERRORS = (RuntimeError, ValueError, TypeError, OverflowError, IndexError)

_SOF3, _SOF55 = 0xC3, 0xF7
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {_SOF55}


def encoded_frames(element: Element, layout: PixelLayout) -> Iterator[bytes]:
    """Yield the encoded bytes of each frame of encapsulated Pixel Data (PS3.5, A.4).

    Raises:
        UndecodableError: The fragments cannot be assigned to the frames.
    """
    if not element.is_encapsulated or len(element.fragments) < 2:
        raise UndecodableError("Pixel Data holds no fragments")
    table, fragments = element.fragments[0], element.fragments[1:]
    if layout.frames == 1:
        yield b"".join(fragments)
    elif len(fragments) == layout.frames:
        yield from (bytes(one) for one in fragments)
    elif len(table) == 4 * layout.frames:
        yield from _frames_by_offset(struct.unpack(f"<{layout.frames}I", table), fragments)
    else:
        raise UndecodableError(f"{len(fragments)} fragments for {layout.frames} frames and no offset table")


def _frames_by_offset(offsets: tuple[int, ...], fragments: tuple[memoryview, ...]) -> Iterator[bytes]:
    starts = {offset: index for index, offset in enumerate(offsets)}
    groups: list[list[memoryview]] = [[] for _ in offsets]
    at, frame = 0, -1
    for fragment in fragments:
        frame = starts.get(at, frame)
        if frame < 0:
            raise UndecodableError("the Basic Offset Table does not fit the fragments")
        groups[frame].append(fragment)
        at += 8 + len(fragment)
    for group in groups:
        yield b"".join(group)


def decode_frame(transfer_syntax_uid: str, stream: bytes, layout: PixelLayout) -> Words:
    """Return the samples of one frame as unsigned words of Bits Allocated, colour-by-pixel.

    The size in the codestream is compared with the layout before the decoder runs: it allocates what the stream says.

    Raises:
        UndecodableError: Damaged, another size than declared, or a form we do not decode without loss.
    """
    if layout.bits_allocated not in (8, 16):
        raise UndecodableError(f"encapsulated samples of {layout.bits_allocated} bits")
    try:
        if transfer_syntax_uid == JPEG_LS_LOSSLESS:
            precision = check_jpeg_size(stream, layout, _SOF55)
            return _as_words(_interleaved(imagecodecs.jpegls_decode(stream), layout), layout, precision)
        if transfer_syntax_uid in (JPEG_LOSSLESS, JPEG_LOSSLESS_SV1) and layout.samples == 1:
            precision = check_jpeg_size(stream, layout, _SOF3)
            return _as_words(imagecodecs.ljpeg_decode(stream), layout, precision)
        if transfer_syntax_uid == JPEG_2000_LOSSLESS:
            check_jpeg2000_size(stream, layout)
            return _as_words(imagecodecs.jpeg2k_decode(stream), layout, layout.bits_allocated)
        if transfer_syntax_uid == RLE_LOSSLESS:
            return _decode_rle(stream, layout)
    except CODEC_ERRORS as error:
        raise UndecodableError(f"the codestream is damaged ({type(error).__name__})") from error
    raise UndecodableError("an encoding that is not decoded here")


def encode_jpeg_ls(words: Words, layout: PixelLayout) -> bytes:
    """Return a lossless JPEG-LS codestream of one frame.

    Precision: Bits Stored for unsigned data of 8 bits and more, else Bits Allocated. With that choice pydicom, DCMTK
    and GDCM all give back the very same bytes; pyjpegls encodes the former, imagecodecs (which cannot set the
    precision) the latter.

    Raises:
        UndecodableError: The encoder refused, as it does for a single pixel.
    """
    shape = (layout.rows, layout.columns, layout.samples)[: 2 if layout.samples == 1 else 3]
    is_whole = layout.is_signed or layout.bits_stored < 8 or layout.bits_stored == layout.bits_allocated
    try:
        if is_whole:
            return bytes(imagecodecs.jpegls_encode(np.ascontiguousarray(words.reshape(shape))))
        return bytes(jpeg_ls.encode_buffer(words.tobytes(), layout.rows, layout.columns, 1, layout.bits_stored))
    except CODEC_ERRORS as error:
        raise UndecodableError(f"the encoder refused ({type(error).__name__})") from error


def check_jpeg_size(stream: bytes, layout: PixelLayout, frame_marker: int) -> int:
    """Compare rows, columns and components of a JPEG or JPEG-LS frame header with the layout; return its precision.

    Raises:
        UndecodableError: They differ, or the stream is of another kind.
    """
    if stream[:2] != b"\xff\xd8":
        raise UndecodableError("no JPEG codestream")
    at = 2
    for _ in range(MARKERS_MAX):
        while stream[at : at + 2] == b"\xff\xff":
            at += 1
        if len(stream) < at + 10 or stream[at] != 0xFF:
            break
        marker, size = stream[at + 1], struct.unpack_from(">H", stream, at + 2)[0]
        if marker in _SOF:
            precision, rows, columns, components = struct.unpack_from(">BHHB", stream, at + 4)
            if marker != frame_marker or (rows, columns, components) != (layout.rows, layout.columns, layout.samples):
                break
            if not 2 <= precision <= layout.bits_allocated:
                break
            return int(precision)
        at += 2 + size
    raise UndecodableError("the codestream has another size than the header")


def check_jpeg2000_size(stream: bytes, layout: PixelLayout) -> None:
    """Compare the SIZ marker (ITU-T T.800, A.5.1) of a JPEG 2000 codestream with the layout.

    Raises:
        UndecodableError: They differ, or it is no bare codestream.
    """
    if stream[:4] != b"\xff\x4f\xff\x51" or len(stream) < 42:
        raise UndecodableError("no JPEG 2000 codestream")
    width, height, left, top = struct.unpack_from(">4I", stream, 8)
    components = struct.unpack_from(">H", stream, 40)[0]
    if (height - top, width - left, components) != (layout.rows, layout.columns, layout.samples):
        raise UndecodableError("the codestream has another size than the header")


def _interleaved(found: npt.NDArray[np.generic], layout: PixelLayout) -> npt.NDArray[np.generic]:
    if layout.samples > 1 and found.shape != (layout.rows, layout.columns, layout.samples):
        raise UndecodableError("colour planes in an order that is not decoded here")
    return found


def _as_words(found: npt.NDArray[np.generic], layout: PixelLayout, precision: int) -> Words:
    if found.size != layout.rows * layout.columns * layout.samples or found.dtype.kind not in "iu":
        raise UndecodableError("the decoded frame has another size than the header")
    width = layout.bits_allocated // 8
    if found.dtype.itemsize > width:
        raise UndecodableError("the decoded samples are wider than Bits Allocated")
    kind = found.dtype.kind
    words: Words = found.ravel().astype(f"<{kind}{width}", copy=False).view(f"<u{width}")
    # A codestream as narrow as Bits Stored carries no sign bits above; native words do.
    return sign_extended(words, layout) if layout.is_signed and precision == layout.bits_stored else words


def _decode_rle(stream: bytes, layout: PixelLayout) -> Words:
    dtype = np.dtype("u1" if layout.bits_allocated == 8 else "<u2")
    expected = layout.rows * layout.columns * layout.samples * dtype.itemsize
    # A run of two bytes makes at most 128 (PS3.5, G.3): what cannot become a frame is not unpacked.
    if len(stream) < 64 or not expected <= 64 * len(stream):
        raise UndecodableError("the RLE frame is too short")
    raw = imagecodecs.dicomrle_decode(stream, dtype=dtype)
    if len(raw) - expected not in (0, 1):
        raise UndecodableError("the decoded frame has another size than the header")
    words: Words = np.frombuffer(raw, dtype, expected // dtype.itemsize)
    return words.reshape(layout.samples, -1).T.ravel() if layout.samples > 1 else words
