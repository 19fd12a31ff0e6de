"""Hostile DICOM files in the sandbox: refused or kept within time and memory, and only that one object is hit."""

import pathlib
import struct
import zlib

import pytest

from raypost.dicom import jobs
from raypost.errors import BadInputError, SandboxCrashError
from raypost.model.study import ENCODED_MARK
from raypost.sandbox.pool import Sandbox, SandboxLimits

CT_IMAGE = b"1.2.840.10008.5.1.4.1.1.2"
INSTANCE = b"2.25.329800735698586629295641978511506172918"
EXPLICIT, DEFLATED, JPEG_LS = b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.4.80"
LONG = (b"OB", b"OW", b"SQ", b"UN")


def element(group: int, number: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    if len(value) % 2:
        value += b"\0" if vr in (b"UI", b"OB") else b" "
    length = len(value) if length is None else length
    if vr in LONG:
        return struct.pack("<HH2sHI", group, number, vr, 0, length) + value
    return struct.pack("<HH2sH", group, number, vr, length) + value


def number(group: int, element_number: int, value: int) -> bytes:
    return element(group, element_number, b"US", struct.pack("<H", value))


IDENTITY = (
    element(8, 0x16, b"UI", CT_IMAGE)
    + element(8, 0x18, b"UI", INSTANCE)
    + element(0x20, 0x0D, b"UI", INSTANCE)
    + element(0x20, 0x0E, b"UI", INSTANCE)
)


def file(body: bytes, syntax: bytes = EXPLICIT) -> bytes:
    meta = element(2, 1, b"OB", b"\0\1") + element(2, 2, b"UI", CT_IMAGE) + element(2, 3, b"UI", INSTANCE)
    meta += element(2, 0x10, b"UI", syntax) + element(2, 0x12, b"UI", b"2.25.1")
    return bytes(128) + b"DICM" + element(2, 0, b"UL", struct.pack("<I", len(meta))) + meta + body


def image(rows: int, columns: int, value: bytes, length: int | None = None, frames: bytes = b"1") -> bytes:
    return (
        IDENTITY
        + number(0x28, 2, 1)
        + element(0x28, 4, b"CS", b"MONOCHROME2")
        + element(0x28, 8, b"IS", frames)
        + number(0x28, 0x10, rows)
        + number(0x28, 0x11, columns)
        + number(0x28, 0x100, 16)
        + number(0x28, 0x101, 16)
        + number(0x28, 0x102, 15)
        + number(0x28, 0x103, 0)
        + element(0x7FE0, 0x10, b"OW", value, length)
    )


def deflate_bomb(mib: int) -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = squeeze.compress(IDENTITY + element(9, 0x10, b"LO", b"RAYPOST TEST"))
    body += squeeze.compress(struct.pack("<HH2sHI", 9, 0x1001, b"OB", 0, mib << 20))
    for _ in range(mib):
        body += squeeze.compress(bytes(1 << 20))
    return file(body + squeeze.flush(), DEFLATED)


def fragments(*values: bytes) -> bytes:
    values = tuple(one + b"\0" * (len(one) % 2) for one in values)
    return b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(one)) + one for one in values) + b"\xfe\xff\xdd\xe0\0\0\0\0"


OPEN_ITEM = element(8, 0x1140, b"SQ", b"", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
HUGE_JPEG_LS = b"\xff\xd8\xff\xf7\0\x0b\x10\xff\xff\xff\xff\1\1\x11\0\xff\xda\0\x08\1\1\0\0\0\0" + bytes(200)

REFUSED = {
    "deflate bomb": deflate_bomb(512),
    "nested 10,000 deep": file(IDENTITY[:60] + OPEN_ITEM * 10_000),
    "a million empty items": file(
        IDENTITY + element(8, 0x1140, b"SQ", b"", 0xFFFFFFFF) + b"\xfe\xff\0\xe0\0\0\0\0" * 1_000_001
    ),
    "length FFFFFFFEH": file(IDENTITY + element(9, 0x1001, b"OB", b"", 0xFFFFFFFE)),
    "pixels beyond the end": file(image(512, 512, bytes(100), 512 * 512 * 2)),
    "fragment beyond the end": file(image(8, 8, struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFF0), 0xFFFFFFFF), JPEG_LS),
    "UID as path": file(IDENTITY.replace(INSTANCE, b"../../../../etc/passwd".ljust(len(INSTANCE), b"x"))),
    "two UIDs in one": file(IDENTITY.replace(INSTANCE, b"1.2\\3.4".ljust(len(INSTANCE), b"5"))),
}
KEPT = {
    "65535x65535": file(image(65535, 65535, bytes(256))),
    "rows x columns x frames overflow": file(image(65535, 1, bytes(256), frames=b"99999")),
    "frames without end": file(image(8, 8, bytes(128), frames=b"999999999999")),
    "JPEG-LS that says 65535x65535": file(image(8, 8, fragments(b"", HUGE_JPEG_LS), 0xFFFFFFFF), JPEG_LS),
    "JPEG-LS without a header": file(image(8, 8, fragments(b"", b"\xff" * 10_000), 0xFFFFFFFF), JPEG_LS),
    "offset table that lies": file(image(8, 8, fragments(b"\xff" * 8, b"1", b"2", b"3"), 0xFFFFFFFF, b"2"), JPEG_LS),
    "200,000 fragments": file(image(8, 8, fragments(*[b""] * 100_000), 0xFFFFFFFF), JPEG_LS),
}


@pytest.fixture(scope="module")
def pool():
    # The processor time is what a hostile file costs; time on the clock depends on what else this machine does.
    limits = SandboxLimits(memory_max_bytes=768 << 20, cpu_max_s=8, wall_max_s=300, output_max_bytes=64 << 20)
    with Sandbox(limits, 1, jobs.PRELOAD) as sandbox:
        yield sandbox


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(file(image(64, 64, bytes(8192))))
    return path


def peak_of(pool: Sandbox) -> int:
    (worker,) = pool._idle
    return int(pathlib.Path(f"/proc/{worker.pid}/status").read_text().split("VmHWM:")[1].split()[0]) >> 10


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED)
def test_hostile_file_is_refused(pool, source, tmp_path, raw):
    honest = source.read_bytes()
    pool.run(jobs.EXAMINE, source, None, {"compress": False})
    source.write_bytes(raw)
    with pytest.raises(BadInputError) as caught:
        pool.run(jobs.EXAMINE, source, tmp_path / "kept", {"compress": True})
    assert not isinstance(caught.value, SandboxCrashError), "it was not refused but ended: too long, or too large"
    assert not (tmp_path / "kept").exists()
    source.write_bytes(honest)
    assert pool.run(jobs.EXAMINE, source, None, {"compress": False})["number_of_frames"] == 1


@pytest.mark.parametrize("raw", KEPT.values(), ids=KEPT)
def test_hostile_pixels_are_kept_undecoded_in_flat_memory(source, tmp_path, raw):
    limits = SandboxLimits(memory_max_bytes=256 << 20, cpu_max_s=10, wall_max_s=20, output_max_bytes=64 << 20)
    with Sandbox(limits, 1, jobs.PRELOAD) as fresh:
        fresh.run(jobs.EXAMINE, source, None, {"compress": False})
        before = peak_of(fresh)
        source.write_bytes(raw)
        found = fresh.run(jobs.EXAMINE, source, tmp_path / "kept", {"compress": True})
        assert peak_of(fresh) - before < 64
    assert found["pixel_sha256"].startswith(ENCODED_MARK) and found["kept_because"].startswith(
        "Pixel Data cannot be decoded"
    )
    assert (tmp_path / "kept").read_bytes() == raw


def test_deflate_bomb_is_refused_in_bounded_memory(source, tmp_path):
    limits = SandboxLimits(memory_max_bytes=512 << 20, cpu_max_s=10, wall_max_s=20)
    with Sandbox(limits, 1, jobs.PRELOAD) as fresh:
        fresh.run(jobs.EXAMINE, source, None, {"compress": False})
        before = peak_of(fresh)
        source.write_bytes(REFUSED["deflate bomb"])
        with pytest.raises(BadInputError, match="inflates beyond"):
            fresh.run(jobs.EXAMINE, source, tmp_path / "kept", {"compress": True})
        assert peak_of(fresh) - before < 16


@pytest.mark.parametrize("program", [b"MZ\x90\0", b"\x7fELF", b"\xcf\xfa\xed\xfe", b"%PDF-1.7\n", b"<html><script>"])
def test_preamble_that_is_a_program_is_zeroed(pool, source, tmp_path, program):
    raw = source.read_bytes()
    source.write_bytes(program.ljust(128, b"x") + raw[128:])
    pool.run(jobs.EXAMINE, source, tmp_path / "kept", {"compress": True})
    assert (tmp_path / "kept").read_bytes()[:132] == bytes(128) + b"DICM"
