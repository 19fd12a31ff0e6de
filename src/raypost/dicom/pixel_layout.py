"""How the pixels of an image lie in memory: rows, columns, samples, bits, frames, byte order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raypost.dicom.elements import PIXEL_DATA, DataSet, Element, swap_bytes
from raypost.dicom.header import Header

FRAME_SIZE_MAX_BYTES = 256 << 20
FRAMES_MAX = 100_000

Words = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


class UndecodableError(Exception):
    """The pixels cannot be decoded, or not in a way that is proven; the file is kept as it came. Stays in `dicom`."""


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """The attributes of the Image Pixel module (PS3.3, C.7.6.3) that decide what the bytes mean.

    Attributes:
        is_signed: Pixel Representation 1; None if the attribute is absent.
        is_planar: Colour-by-plane (Planar Configuration 1).
    """

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    frames: int
    is_signed: bool | None
    is_planar: bool
    photometric: str

    @property
    def frame_bits(self) -> int:
        """Bits of one native frame; frames of 1-bit images need not end at a byte."""
        samples = 2 if self.photometric == "YBR_FULL_422" and self.samples == 3 else self.samples
        return self.rows * self.columns * samples * self.bits_allocated

    @property
    def frame_size_bytes(self) -> int:
        """Bytes of one frame of whole bytes."""
        return self.frame_bits // 8

    @property
    def pixels_size_bytes(self) -> int:
        """Bytes of all frames, without a pad byte."""
        return (self.frame_bits * self.frames + 7) // 8


def read_layout(header: Header) -> PixelLayout:
    """Return the layout a header declares.

    Raises:
        UndecodableError: An attribute is missing or beyond our bounds.
    """
    rows, columns, samples = (header.integer(number) or 0 for number in (0x00280010, 0x00280011, 0x00280002))
    allocated, stored = header.integer(0x00280100) or 0, header.integer(0x00280101) or 0
    high = header.integer(0x00280102)
    frames = header.integer(0x00280008) or 1
    representation = header.integer(0x00280103)
    if rows < 1 or columns < 1:
        raise UndecodableError("no Rows/Columns")
    if samples not in (1, 3, 4) or not 1 <= frames <= FRAMES_MAX or not 1 <= allocated <= 64:
        raise UndecodableError("odd Samples per Pixel, Bits Allocated or Number of Frames")
    layout = PixelLayout(
        rows,
        columns,
        samples,
        allocated,
        stored,
        -1 if high is None else high,
        frames,
        bool(representation) if representation in (0, 1) else None,
        samples > 1 and header.integer(0x00280006) == 1 and header.text(0x00280004) != "YBR_FULL_422",
        header.text(0x00280004),
    )
    if layout.frame_size_bytes > FRAME_SIZE_MAX_BYTES:
        raise UndecodableError(f"a frame of more than {FRAME_SIZE_MAX_BYTES} bytes")
    return layout


def native_pixels(data_set: DataSet, layout: PixelLayout) -> memoryview:
    """Return the bytes of native Pixel Data without a pad byte, in little endian.

    Raises:
        UndecodableError: The length is not what the layout says.
    """
    element = data_set.elements[PIXEL_DATA]
    size = layout.pixels_size_bytes
    check_length(element, size)
    value = element.value[:size]
    if data_set.is_little_endian:
        return value
    words = 2 if element.vr.startswith(b"OW") or layout.bits_allocated == 16 else 1
    if layout.bits_allocated > 16:
        words = layout.bits_allocated // 8
    return memoryview(swap_bytes(element.value, words))[:size]


def check_length(element: Element, size_bytes: int) -> None:
    """Compare the length of native Pixel Data with the layout before anything is allocated for it.

    Raises:
        UndecodableError: Too short, too long, or a pad byte that is not 0.
    """
    surplus = bytes(element.value[size_bytes : size_bytes + 2])
    if len(element.value) < size_bytes or surplus not in (b"", b"\0"):
        raise UndecodableError(f"Pixel Data has {len(element.value)} bytes, expected {size_bytes}")


def frame_words(pixels: memoryview, layout: PixelLayout, index: int) -> Words:
    """Return a native frame of 8 or 16-bit samples as unsigned words, colour-by-pixel, high bits as in the file."""
    dtype = np.dtype("u1" if layout.bits_allocated == 8 else "<u2")
    size = layout.frame_size_bytes
    words: Words = np.frombuffer(pixels, dtype, size // dtype.itemsize, index * size)
    return words.reshape(layout.samples, -1).T.ravel() if layout.is_planar else words


def native_frames(pixels: memoryview, layout: PixelLayout) -> Iterator[memoryview]:
    """Yield the bytes of native frames, colour-by-pixel; frames that do not end at a byte come as one."""
    if layout.frame_bits % 8:
        yield pixels
        return
    size = layout.frame_size_bytes
    for index in range(layout.frames):
        frame = pixels[index * size : (index + 1) * size]
        if layout.is_planar:
            width = layout.bits_allocated // 8
            cells = np.frombuffer(frame, np.uint8).reshape(layout.samples, -1, width)
            frame = memoryview(cells.transpose(1, 0, 2).tobytes())
        yield frame


def sign_extended(words: Words, layout: PixelLayout) -> Words:
    """Return the words as they must be when the bits above Bits Stored carry nothing: zero, or the sign."""
    shift = layout.bits_allocated - layout.bits_stored
    if shift <= 0:
        return words
    if not layout.is_signed:
        return words & words.dtype.type((1 << layout.bits_stored) - 1)
    signed = np.dtype("i1" if layout.bits_allocated == 8 else "<i2")
    return ((words << shift).astype(words.dtype).view(signed) >> shift).view(words.dtype)
