"""Which files are compressed, which are kept and why (reference table 1.1), and that nothing is ever lost."""

import hashlib
import io
import re
import struct

import imagecodecs
import jpeg_ls
import numpy as np
import pydicom
import pytest
from dicom_samples import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, JPEG_2000, JPEG_LS, RLE, encapsulated, make, smooth
from hypothesis import given, settings
from hypothesis import strategies as st

from raypost.dicom import pixels as pixels_module
from raypost.dicom.instance_file import read_file
from raypost.dicom.pixels import Compressed, Kept, frame_digests, to_native, try_compress
from raypost.errors import BadInputError

COMPRESSED = {
    "CT 12-in-16 unsigned": {},
    "16-bit signed": {"stored": 16, "signed": True},
    "12-in-16 signed, sign-extended": {"signed": True},
    "13-in-16 signed": {"stored": 13, "signed": True},
    "16-bit unsigned": {"stored": 16},
    "10-in-16": {"stored": 10},
    "8-bit": {"allocated": 8, "stored": 8},
    "8-bit signed": {"allocated": 8, "stored": 8, "signed": True},
    "7-in-8": {"allocated": 8, "stored": 7},
    "127x129 with pad byte": {"pixels": smooth(127, 129, bits=8), "allocated": 8, "stored": 8},
    "1x2000": {"pixels": smooth(1, 2000)},
    "3 odd frames": {"pixels": smooth(45, 45, frames=3, bits=8), "allocated": 8, "stored": 8},
    "10 frames": {"pixels": smooth(40, 40, frames=10)},
    "MONOCHROME1": {"photometric": "MONOCHROME1"},
    "RGB": {"pixels": smooth(40, 50, 3, bits=8), "allocated": 8, "stored": 8},
    "RGB 4 frames": {"pixels": smooth(40, 50, 3, 4, bits=8), "allocated": 8, "stored": 8},
    "YBR_FULL": {"pixels": smooth(40, 50, 3, bits=8), "allocated": 8, "stored": 8, "photometric": "YBR_FULL"},
    "PALETTE COLOR": {"allocated": 8, "stored": 8, "photometric": "PALETTE COLOR"},
}
PLANAR = {
    "RGB planar 1": {"pixels": smooth(40, 50, 3, bits=8), "allocated": 8, "stored": 8, "planar": 1},
    "RGB planar 1, 3 frames": {"pixels": smooth(40, 50, 3, 3, bits=8), "allocated": 8, "stored": 8, "planar": 1},
}
OVERLAY = smooth(48, 64)
OVERLAY[0, 5, 5, 0] |= 0x8000
ZERO_HIGH_BITS = smooth(48, 64, signed=True) & 0x0FFF
KEPT = {
    "overlay bit": ({"pixels": OVERLAY}, "data above Bits Stored"),
    "signed without sign extension": ({"pixels": ZERO_HIGH_BITS, "signed": True}, "data above Bits Stored"),
    "noise": ({"pixels": np.random.default_rng(1).integers(0, 65536, (1, 48, 64, 1)), "stored": 16}, "would grow"),
    "pad byte not 0": ({"data": bytes(48 * 64 * 2) + b"\1\0"}, "Pixel Data has 6146 bytes, expected 6144"),
    "too short": ({"data": bytes(100)}, "Pixel Data has 100 bytes, expected 6144"),
    "no pixels at all": ({"data": b""}, "Pixel Data is empty or encapsulated"),
    "YBR_FULL_422": (
        {
            "pixels": smooth(40, 50, 3, bits=8),
            "allocated": 8,
            "stored": 8,
            "photometric": "YBR_FULL_422",
            "data": bytes(4000),
        },
        "3 samples YBR_FULL_422",
    ),
    "16-bit RGB": ({"pixels": smooth(40, 50, 3)}, "3 samples of 16 bits"),
    "1 bit": ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}, "bits 1/1/0"),
    "32 bits": ({"allocated": 32, "stored": 32}, "bits 32/32/31"),
    "High Bit": ({"HighBit": 12}, "bits 16/12/12"),
    "no Pixel Representation": ({"PixelRepresentation": None}, "no Pixel Representation"),
    "no Rows": ({"Rows": None}, "no Rows/Columns"),
    "1x1": ({"pixels": smooth(1, 1)}, "refused|would grow"),
    "65535x65535 in 100 bytes": ({"Rows": 65535, "Columns": 65535, "data": bytes(100)}, "a frame of more than"),
    "many frames in 100 bytes": ({"NumberOfFrames": "99999", "data": bytes(100)}, "Pixel Data has 100 bytes"),
    "absurd frames": ({"NumberOfFrames": "999999999"}, "odd Samples per Pixel"),
    "big endian": ({"syntax": BIG_ENDIAN}, "transfer syntax Explicit VR Big Endian"),
    "deflated": ({"syntax": DEFLATED}, "transfer syntax Deflated Explicit VR Little Endian"),
}


def compressed(raw: bytes) -> bytes:
    found = try_compress(raw)
    assert isinstance(found, Compressed), found
    return found.data


def words_by_pixel(layout: dict) -> list[bytes]:
    layout = {"allocated": 16, "stored": 12, "signed": False, **layout}
    pixels = layout.get("pixels")
    if pixels is None:
        pixels = smooth(48, 64, bits=layout["stored"], signed=layout["signed"])
    kind = ("i" if layout["signed"] else "u") + str(layout["allocated"] // 8)
    return [frame.astype(kind).tobytes() for frame in pixels]


@pytest.mark.parametrize("layout", COMPRESSED.values(), ids=COMPRESSED)
def test_explicit_vr_file_comes_back_byte_for_byte(layout):
    raw = make(**layout)
    out = compressed(raw)
    assert len(out) < len(raw)
    assert pydicom.dcmread(io.BytesIO(out)).file_meta.TransferSyntaxUID == JPEG_LS
    assert to_native(out) == raw


@pytest.mark.parametrize("layout", (COMPRESSED | PLANAR).values(), ids=COMPRESSED | PLANAR)
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_pixels_and_attributes_survive(layout, syntax):
    raw = make(**layout, syntax=syntax)
    out = compressed(raw)
    expected = [hashlib.sha256(one).hexdigest() for one in words_by_pixel(layout)]
    assert frame_digests(read_file(raw)) == frame_digests(read_file(out)) == expected
    for implicit in (False, True):
        native = to_native(out, implicit=implicit)
        assert frame_digests(read_file(native)) == expected
        before, after = (pydicom.dcmread(io.BytesIO(one)) for one in (make(**layout), native))
        for one in (before, after):
            one.pop("PlanarConfiguration", None)
            del one.PixelData
        assert {one.tag for one in before} == {one.tag for one in after}
        assert before.PatientName == after.PatientName


@pytest.mark.parametrize(("layout", "reason"), KEPT.values(), ids=KEPT)
def test_what_is_not_proven_is_kept(layout, reason):
    found = try_compress(make(**layout))
    assert isinstance(found, Kept)
    assert re.search(reason, found.reason), found.reason


def test_implicit_vr_with_group_length_is_kept():
    raw = make(syntax=IMPLICIT)
    at = raw.index(b"\x08\0\x05\0")
    raw = raw[:at] + struct.pack("<HHII", 8, 0, 4, 4) + raw[at:]
    found = try_compress(raw)
    assert isinstance(found, Kept) and "header" in found.reason


@pytest.mark.parametrize("raw", [b"", b"DICM", bytes(132), bytes(128) + b"DICM"])
def test_what_is_no_file_is_kept(raw):
    assert isinstance(try_compress(raw), Kept)


def test_signed_planar_image_is_kept():
    raw = make(pixels=smooth(40, 50, 3, bits=8), allocated=8, stored=8, planar=1)
    one = pydicom.dcmread(io.BytesIO(raw))
    one.DigitalSignaturesSequence = [pydicom.Dataset()]
    out = io.BytesIO()
    one.save_as(out)
    assert try_compress(out.getvalue()) == Kept("signed planar colour image")


def test_precision_is_bits_stored_for_unsigned_and_bits_allocated_for_signed():
    for signed, precision in ((False, 12), (True, 16)):
        out = compressed(make(signed=signed))
        at = out.index(b"\xff\xf7")
        assert out[at + 4] == precision


def test_several_frames_have_an_offset_table_that_fits():
    layout = COMPRESSED["10 frames"]
    out = compressed(make(**layout))
    fragments = read_file(out).pixel_data.fragments
    offsets = struct.unpack("<10I", fragments[0])
    at = 0
    for offset, fragment in zip(offsets, fragments[1:], strict=True):
        assert offset == at
        at += 8 + len(fragment)


def test_an_encoder_that_errs_is_found_out(monkeypatch):
    encode = pixels_module.encode_jpeg_ls
    monkeypatch.setattr(pixels_module, "encode_jpeg_ls", lambda words, layout: encode(words ^ 1, layout))
    assert try_compress(make()) == Kept("decoded frame 1 differs")


def test_a_header_that_changes_is_found_out(monkeypatch):
    monkeypatch.setattr(
        pixels_module,
        "other_elements",
        lambda file, element: (bytes(file.body[: element.head]).replace(b"HEAD", b"FOOT"), file.body[element.end :]),
    )
    assert try_compress(make()) == Kept("written file: attributes differ")


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (JPEG_LS, lambda a: imagecodecs.jpegls_encode(a)),
        (JPEG_2000, lambda a: imagecodecs.jpeg2k_encode(a, level=0, codecformat="j2k", mct=False)),
        (
            RLE,
            lambda a: pydicom.pixels.encoders.RLELosslessEncoder.encode(
                a.tobytes(),
                rows=a.shape[0],
                columns=a.shape[1],
                samples_per_pixel=a.shape[2] if a.ndim == 3 else 1,
                bits_allocated=a.itemsize * 8,
                bits_stored=a.itemsize * 8,
                pixel_representation=0,
                number_of_frames=1,
                photometric_interpretation="RGB" if a.ndim == 3 else "MONOCHROME2",
                planar_configuration=0,
            ),
        ),
    ],
)
@pytest.mark.parametrize(
    ("samples", "bits", "frames", "parts"),
    [
        (1, 16, 1, 1),
        (1, 8, 3, 1),
        (3, 8, 1, 1),
        (1, 16, 1, 3),
    ],
)
def test_foreign_lossless_encodings_are_decoded(syntax, encode, samples, bits, frames, parts):
    pixels = smooth(40, 50, samples, frames, bits=bits)
    words = pixels.astype(f"u{bits // 8}")
    streams = [encode(np.ascontiguousarray(one[..., 0] if samples == 1 else one)) for one in words]
    raw = encapsulated(streams, syntax, pixels=pixels, allocated=bits, stored=bits, fragments_per_frame=parts)
    assert frame_digests(read_file(raw)) == [hashlib.sha256(one.tobytes()).hexdigest() for one in words]
    assert frame_digests(read_file(to_native(raw))) == frame_digests(read_file(raw))


def test_fragments_are_put_together_by_the_offset_table():
    pixels = smooth(40, 50, frames=3, bits=16)
    streams = [imagecodecs.jpegls_encode(one[..., 0].astype("u2")) for one in pixels]
    raw = encapsulated(streams, JPEG_LS, pixels=pixels, stored=16, fragments_per_frame=2)
    assert len(read_file(raw).pixel_data.fragments) == 7
    assert len(frame_digests(read_file(raw))) == 3


def test_foreign_narrow_signed_codestream_gets_its_sign_back():
    pixels = smooth(40, 50, signed=True)
    words = pixels[0, ..., 0].astype("i2")
    stream = bytes(jpeg_ls.encode_buffer((words.view("u2") & 0x0FFF).tobytes(), 40, 50, 1, 12))
    raw = encapsulated([stream], JPEG_LS, pixels=pixels, signed=True)
    assert frame_digests(read_file(raw)) == [hashlib.sha256(words.tobytes()).hexdigest()]


@pytest.mark.parametrize("syntax", [JPEG_LS, JPEG_2000, RLE])
def test_codestream_of_another_size_is_refused_before_decoding(syntax):
    large = np.zeros((4000, 4000), "u2")
    stream = {
        JPEG_LS: imagecodecs.jpegls_encode,
        JPEG_2000: lambda a: imagecodecs.jpeg2k_encode(a, level=0, codecformat="j2k"),
        RLE: lambda a: bytes(64),
    }[syntax](large)
    with pytest.raises(BadInputError, match="another size|too short"):
        frame_digests(read_file(encapsulated([bytes(stream)], syntax, stored=16)))


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: s[: len(s) // 2],
        lambda s: s[:60] + bytes(len(s) - 60),
        lambda s: b"\xff\xd8",
    ],
)
def test_damaged_codestream_is_refused(damage):
    stream = imagecodecs.jpegls_encode(smooth(48, 64, bits=16)[0, ..., 0].astype("u2"))
    with pytest.raises(BadInputError):
        frame_digests(read_file(encapsulated([damage(stream)], JPEG_LS, stored=16)))


def test_native_forms_of_other_native_files():
    expected = frame_digests(read_file(make()))
    for syntax in (IMPLICIT, BIG_ENDIAN, DEFLATED):
        native = to_native(make(syntax=syntax))
        assert frame_digests(read_file(native)) == expected
        assert native[132:].endswith(make()[-6156:])
    assert to_native(make()) == make()
    assert to_native(make(syntax=IMPLICIT), implicit=True) == make(syntax=IMPLICIT)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(1, 3),
    st.integers(2, 16),
    st.booleans(),
    st.booleans(),
    st.sampled_from([IMPLICIT, EXPLICIT]),
    st.integers(0, 2**32 - 1),
)
def test_any_small_image_comes_back_bit_for_bit(rows, columns, frames, bits, signed, colour, syntax, seed):
    colour = colour and bits <= 8 and not signed
    allocated = 8 if bits <= 8 else 16
    rng = np.random.default_rng(seed)
    low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if signed else (0, 1 << bits)
    pixels = rng.integers(low, high, (frames, rows, columns, 3 if colour else 1)) // rng.integers(1, 5)
    layout = {"pixels": pixels, "allocated": allocated, "stored": bits, "signed": signed, "syntax": syntax}
    if colour:
        layout["planar"] = int(rng.integers(0, 2))
    raw = make(**layout)
    found = try_compress(raw)
    kind = ("i" if signed else "u") + str(allocated // 8)
    expected = [hashlib.sha256(one.astype(kind).tobytes()).hexdigest() for one in pixels]
    assert frame_digests(read_file(raw)) == expected
    if isinstance(found, Compressed):
        assert frame_digests(read_file(found.data)) == expected
        assert frame_digests(read_file(to_native(found.data, implicit=True))) == expected
    else:
        assert found.reason in ("would grow",) or "refused" in found.reason
