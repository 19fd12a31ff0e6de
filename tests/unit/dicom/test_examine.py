import hashlib
import io

import pydicom
import pytest
from dicom_samples import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    JPEG_2000,
    JPEG_BASELINE,
    JPEG_LS,
    encapsulated,
    make,
    smooth,
    write,
)

from raypost.dicom import examine as examine_module
from raypost.dicom import jobs
from raypost.dicom.examine import examine, native, pixel_digests
from raypost.errors import BadInputError, SandboxCrashError
from raypost.model.study import ENCODED_MARK, TEXT_LENGTH_MAX, TEXT_LENGTHS_MAX, InstanceFacts
from raypost.sandbox.pool import Sandbox, SandboxLimits


def facts(raw: bytes) -> InstanceFacts:
    return InstanceFacts.from_json(examine(memoryview(raw), None, compress=False))


def intake(raw: bytes) -> tuple[InstanceFacts, bytes]:
    target = io.BytesIO()
    found = InstanceFacts.from_json(examine(memoryview(raw), target, compress=True))
    return found, target.getvalue()


def test_facts_of_a_file():
    raw = make()
    found = facts(raw)
    assert found.patient_name == "M\u00fcller^J\u00f6rg"
    assert found.study_description == "Sch\u00e4del"
    assert (found.patient_id, found.patient_birth_date, found.patient_sex) == ("P1", "19500101", "O")
    assert (found.study_date, found.study_time, found.accession_number) == ("20260102", "101112.5", "A1")
    assert (found.modality, found.series_description, found.body_part_examined) == ("CT", "nativ", "HEAD")
    assert (found.series_number, found.instance_number, found.slice_thickness_mm) == (2, 7, 1.25)
    assert (found.image_type, found.number_of_frames) == ("ORIGINAL\\PRIMARY", 1)
    assert (found.size_bytes, found.raw_size_bytes) == (len(raw), len(raw))
    assert found.file_sha256 == hashlib.sha256(raw).hexdigest()
    assert found.pixel_sha256 == hashlib.sha256(smooth(48, 64).astype("<u2").tobytes()).hexdigest()
    assert (found.issuer_of_patient_id, found.kept_because) == ("", "")


def test_file_to_be_kept_is_compressed_and_its_facts_are_of_it():
    raw = make()
    found, kept = intake(raw)
    assert found.transfer_syntax_uid == JPEG_LS and found.kept_because == ""
    assert found.file_sha256 == hashlib.sha256(kept).hexdigest()
    assert (found.size_bytes, found.raw_size_bytes) == (len(kept), len(raw)) and len(kept) < len(raw)
    again = facts(kept)
    assert again.content_sha256 == found.content_sha256 == facts(raw).content_sha256
    assert again.pixel_sha256 == found.pixel_sha256


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"stored": 16, "signed": True},
        {"signed": True},
        {"pixels": smooth(45, 45, frames=3, bits=8), "allocated": 8, "stored": 8},
        {"pixels": smooth(40, 50, 3, bits=8), "allocated": 8, "stored": 8},
        {"pixels": smooth(40, 50, 3, 2, bits=8), "allocated": 8, "stored": 8, "planar": 1},
        {"pixels": smooth(127, 129, bits=8), "allocated": 8, "stored": 8},
    ],
    ids=str,
)
def test_content_hash_is_the_same_in_every_transfer_syntax(layout):
    forms = {syntax: make(**layout, syntax=syntax) for syntax in (IMPLICIT, EXPLICIT, DEFLATED)}
    if layout.get("allocated") != 8:
        forms[BIG_ENDIAN] = make(**layout, syntax=BIG_ENDIAN)
    found = [facts(raw) for raw in forms.values()]
    found += [facts(intake(raw)[1]) for raw in forms.values()]
    assert len({one.content_sha256 for one in found}) == 1
    assert len({one.pixel_sha256 for one in found}) == 1
    assert len({one.transfer_syntax_uid for one in found}) >= 4


@pytest.mark.parametrize(
    "other",
    [
        {"PatientID": "P2"},
        {"pixels": smooth(48, 64, seed=1)},
        {"Rows": 64, "Columns": 48},
        {"instance": "2.25.8"},
        {"sequences": False},
        {"signed": True, "pixels": smooth(48, 64, bits=11)},
    ],
)
def test_content_hash_sees_another_instance(other):
    assert facts(make(**other)).content_sha256 != facts(make()).content_sha256


def test_same_pixels_other_patient():
    one, other = facts(make()), facts(make(PatientID="P2"))
    assert one.pixel_sha256 == other.pixel_sha256 and one.content_sha256 != other.content_sha256


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (make(syntax=BIG_ENDIAN), "transfer syntax Explicit VR Big Endian"),
        (make(syntax=DEFLATED), "transfer syntax Deflated Explicit VR Little Endian"),
        (make(data=bytes(100)), "Pixel Data cannot be decoded: Pixel Data has 100 bytes, expected 6144"),
        (make(HighBit=12), "bits 16/12/12"),
        (encapsulated([b"\xff\xd8\xff\xe0jpeg"], JPEG_BASELINE), "transfer syntax JPEG Baseline"),
        (encapsulated([b"no codestream"], JPEG_2000), "Pixel Data cannot be decoded: no JPEG 2000 codestream"),
    ],
    ids=str,
)
def test_what_cannot_be_compressed_is_kept_as_it_came(raw, reason):
    found, kept = intake(raw)
    assert kept == raw
    assert found.kept_because.startswith(reason)
    assert found.file_sha256 == hashlib.sha256(raw).hexdigest()


def test_preamble_is_zeroed_in_what_is_kept_and_the_rest_is_not_touched():
    for raw in (make(), make(HighBit=12)):
        polyglot = b"MZ\x90\0" + b"x" * 124 + raw[128:]
        found, kept = intake(polyglot)
        assert kept[:128] == bytes(128)
        assert kept == intake(raw)[1]
        assert found.content_sha256 == facts(raw).content_sha256
        assert found.raw_size_bytes == len(polyglot)


def test_undecodable_pixels_are_not_taken_for_equal():
    one, other = facts(make(data=bytes(100))), facts(make(data=bytes(99) + b"\1"))
    assert one.pixel_sha256.startswith(ENCODED_MARK) and other.pixel_sha256.startswith(ENCODED_MARK)
    assert one.pixel_sha256 != other.pixel_sha256 and one.content_sha256 != other.content_sha256
    implicit = facts(make(data=bytes(100), syntax=IMPLICIT))
    assert (implicit.pixel_sha256, implicit.content_sha256) == (one.pixel_sha256, one.content_sha256)
    assert facts(make(data=bytes(100), PatientID="P2")).pixel_sha256 == one.pixel_sha256


def test_content_hashes_are_those_of_the_archives_that_exist():
    """Instances of earlier releases are recognised by them; they never change."""
    kinds = {
        "decoded": make(),
        "undecodable": make(data=bytes(100)),
        "with loss": encapsulated([b"jpeg1"], JPEG_BASELINE),
        "no pixels": without_pixels(),
    }
    assert {kind: facts(raw).content_sha256[:16] for kind, raw in kinds.items()} == {
        "decoded": "cf1782c8690b197e",
        "undecodable": "13e6b6393e55301d",
        "with loss": "3493062a8c0a5520",
        "no pixels": "6937654e65e86ae4",
    }


@pytest.mark.parametrize(
    "pixel_sha256", ["encoded:", "encoded:0", "other:" + "0" * 64, "0" * 63, "encoded:" * 2 + "0" * 64]
)
def test_a_pixel_hash_has_one_of_two_forms(pixel_sha256):
    good = facts(make()).as_json()
    assert InstanceFacts.from_json({**good, "pixel_sha256": ENCODED_MARK + "0" * 64})
    with pytest.raises(BadInputError, match="pixel_sha256"):
        InstanceFacts.from_json({**good, "pixel_sha256": pixel_sha256})


@pytest.mark.parametrize(
    ("keyword", "value", "name", "expected"),
    [
        ("ConvolutionKernel", "H31s ", "convolution_kernel", "H31s"),
        ("ConvolutionKernel", ["Hr38f", "3"], "convolution_kernel", "Hr38f\\3"),
        ("ContrastBolusAgent", "Iomeprol 400 mg/ml, Gefäß ", "contrast_agent", "Iomeprol 400 mg/ml, Gefäß"),
    ],
)
def test_how_a_series_was_made(keyword, value, name, expected):
    assert getattr(facts(make()), name) == ""
    assert getattr(facts(make(**{keyword: value})), name) == expected


def test_texts_are_bounded_by_their_kind():
    raw = make(ConvolutionKernel=["K" * 16] * 300, ContrastBolusAgent="Ä" * 5000, SeriesDescription="x" * 5000)
    found = facts(raw)
    assert found.convolution_kernel == ("K" * 16 + "\\") * 3 + "K" * 13
    assert found.contrast_agent == "Ä" * TEXT_LENGTHS_MAX["contrast_agent"]
    assert len(found.series_description) == TEXT_LENGTH_MAX
    direct = InstanceFacts.from_json({**found.as_json(), "contrast_agent": "y" * 5000})
    assert len(direct.contrast_agent) == TEXT_LENGTHS_MAX["contrast_agent"]


def test_lossy_pixels_count_by_their_bytes():
    one, other = (facts(encapsulated([value], JPEG_BASELINE)) for value in (b"jpeg1", b"jpeg2"))
    assert one.pixel_sha256 and one.pixel_sha256 != other.pixel_sha256


def without_pixels() -> bytes:
    one = pydicom.dcmread(io.BytesIO(make()))
    del one.PixelData
    return write(one)


def test_object_without_pixels():
    found, kept = intake(without_pixels())
    assert (found.pixel_sha256, found.kept_because) == ("", "no Pixel Data")
    assert kept == without_pixels()


def replaced(raw: bytes, old: bytes, new: bytes) -> bytes:
    assert raw.count(old) >= 1
    return raw.replace(old, new)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no DICOM",
        make()[:-10],
        make()[:400],
        make()[132:],
        make(instance="2.25.01"),
        make(study="../../x "),
        make(study="2.25.2\\2.25.3"),
        make(study=""),
        replaced(make(), b"\x08\0\x18\0UI\6\0002.25.1", b"\x08\0\x18\0UI\6\0002.25.7"),
        make()[:132] + make(syntax=IMPLICIT)[132:].replace(b"1.2.840.10008.1.2\0", b"1.2.840.10008.1.2.1\0", 1),
    ],
    ids=range(11),
)
def test_what_is_not_dicom_truncated_or_misnamed_is_refused(raw):
    for compress in (False, True):
        with pytest.raises(BadInputError) as caught:
            examine(memoryview(raw), io.BytesIO(), compress=compress)
        assert "2.25" not in caught.value.what and "ller" not in caught.value.what


@pytest.mark.parametrize(
    ("declared", "name", "expected"),
    [
        ("ISO_IR 192", "Z\u00fcrich^\u4e2d".encode(), "Z\u00fcrich^\u4e2d"),
        ("ISO_IR 144", "\u041b\u044e\u043aceмбypг".encode("iso8859-5"), "\u041b\u044e\u043aceмбypг"),
        ("ISO_IR 100", b"Buc^J\xe9r\xf4me", "Buc^J\u00e9r\u00f4me"),
        (
            "\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B",
            "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce",
        ),
        ("GB18030", "\u738b^\u5c0f\u4e1c".encode("gb18030"), "\u738b^\u5c0f\u4e1c"),
        ("NONSENSE", b"Buc^J\xe9r", None),
        ("ISO_IR 192", b"Buc^\xff\xfe", None),
        ("", b"Buc^J\xe9r", None),
        ("ISO 2022 IR 6\\ISO 2022 IR 999", b"A^\x1b%zB", None),
    ],
)
def test_character_sets_are_followed_and_wrong_ones_tolerated(declared, name, expected):
    raw = make()
    name += b" " * (len(name) & 1)
    old_set, old_name = b"\x08\0\x05\0CS\x0a\0ISO_IR 100", b"\x10\0\x10\0PN\x0c\0M\xfcller^J\xf6rg "
    value = declared.encode() + b" " * (len(declared) & 1)
    raw = replaced(raw, old_set, old_set[:6] + len(value).to_bytes(2, "little") + value)
    raw = replaced(raw, old_name, old_name[:6] + len(name).to_bytes(2, "little") + name)
    found = facts(raw)
    if expected is not None:
        assert found.patient_name == expected
    assert found.patient_name[:3] in (expected or "", "Buc", "A^%", "A^", "A^z") or found.patient_name == expected
    kept = intake(raw)[0]
    assert kept.content_sha256 == found.content_sha256


@pytest.mark.parametrize(
    ("keyword", "value", "name", "expected"),
    [
        ("InstanceNumber", "12 ", "instance_number", 12),
        ("SliceThickness", "-0.5", "slice_thickness_mm", -0.5),
    ],
)
def test_numbers(keyword, value, name, expected):
    assert getattr(facts(make(**{keyword: value})), name) == expected


@pytest.mark.parametrize("value", [b"abc ", b"1e9999", b"NaN ", b"1_0 ", b"99999999999999", b"\xff\xfe", b"1\\2 "])
def test_odd_numbers_are_none_or_first(value):
    for old in (b"\x20\0\x13\0IS\2\x007 ", b"\x18\0\x50\0DS\4\x001.25"):
        found = facts(replaced(make(), old, old[:6] + len(value).to_bytes(2, "little") + value))
        assert found.instance_number in (None, 1, 7) and found.slice_thickness_mm in (None, 1.0, 1.25, 99999999999999.0)


def test_deflate_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(examine_module, "INFLATED_SIZE_MAX_BYTES", 1000)
    with pytest.raises(BadInputError, match="inflates beyond"):
        facts(make(syntax=DEFLATED))


@pytest.fixture(scope="module")
def pool():
    with Sandbox(SandboxLimits(memory_max_bytes=512 << 20, cpu_max_s=20), 1, jobs.PRELOAD) as sandbox:
        yield sandbox


@pytest.fixture
def source(tmp_path):
    def put(raw: bytes):
        path = tmp_path / "source"
        path.write_bytes(raw)
        return path

    return put


@pytest.mark.parametrize(
    "raw",
    [
        make(),
        make(syntax=IMPLICIT),
        make(pixels=smooth(40, 50, 3, 2, bits=8), allocated=8, stored=8, planar=1, syntax=IMPLICIT),
        make(HighBit=12),
        make(syntax=DEFLATED),
        make(syntax=BIG_ENDIAN),
        make(data=bytes(100)),
        encapsulated([b"no codestream"], JPEG_2000),
    ],
    ids=range(8),
)
def test_sandbox_gives_the_same_as_a_call(pool, source, tmp_path, raw):
    found = pool.run(jobs.EXAMINE, source(raw), tmp_path / "kept", {"compress": True})
    expected, kept = intake(raw)
    assert InstanceFacts.from_json(found) == expected
    assert (tmp_path / "kept").read_bytes() == kept


@pytest.mark.parametrize(
    ("declared", "codec"),
    [
        ("ISO_IR 192", "utf-8"),
        ("GB18030", "gb18030"),
        ("ISO_IR 144", "iso8859-5"),
        ("ISO_IR 127", "iso8859-6"),
    ],
)
def test_sandbox_has_loaded_its_character_sets(pool, source, declared, codec):
    name = {"gb18030": "\u738b^\u5c0f\u4e1c", "utf-8": "\u738b", "iso8859-5": "\u041b", "iso8859-6": "\u0642"}[codec]
    value, text = declared.encode(), name.encode(codec)
    value, text = (one + b" " * (len(one) & 1) for one in (value, text))
    raw = make().replace(b"CS\x0a\0ISO_IR 100", b"CS" + len(value).to_bytes(2, "little") + value)
    raw = raw.replace(b"PN\x0c\0M\xfcller^J\xf6rg ", b"PN" + len(text).to_bytes(2, "little") + text)
    assert pool.run(jobs.EXAMINE, source(raw), None, {"compress": False})["patient_name"] == name


def test_native_and_digests_in_the_sandbox(pool, source, tmp_path):
    kept = source(intake(make())[1])
    for syntax, expected in ((EXPLICIT, make()), (IMPLICIT, make(syntax=IMPLICIT))):
        found = pool.run(jobs.NATIVE, kept, tmp_path / syntax, {"transfer_syntax_uid": syntax})
        written = (tmp_path / syntax).read_bytes()
        assert found == {"size_bytes": len(written)}
        assert pydicom.dcmread(io.BytesIO(written)).PixelData == pydicom.dcmread(io.BytesIO(expected)).PixelData
    assert (tmp_path / EXPLICIT).read_bytes() == make()
    assert pool.run(jobs.PIXEL_DIGESTS, kept) == pixel_digests(memoryview(make()), None)


def test_bad_input_leaves_nothing_behind(pool, source, tmp_path):
    with pytest.raises(BadInputError, match="longer than the file"):
        pool.run(jobs.EXAMINE, source(make()[:3000]), tmp_path / "kept", {"compress": True})
    assert not (tmp_path / "kept").exists()


def test_image_that_does_not_fit_into_memory_ends_only_its_worker(source, tmp_path):
    with Sandbox(SandboxLimits(memory_max_bytes=24 << 20), 1, jobs.PRELOAD) as small:
        raw = make(pixels=smooth(2048, 2048))
        with pytest.raises((SandboxCrashError, BadInputError)):
            small.run(jobs.EXAMINE, source(raw), tmp_path / "kept", {"compress": True})
        assert small.run(jobs.EXAMINE, source(make()), None, {"compress": False})["modality"] == "CT"


def test_wrong_use_is_our_bug():
    with pytest.raises(ValueError):
        examine(memoryview(make()), None, compress=True)
    with pytest.raises(ValueError):
        native(memoryview(make()), io.BytesIO(), transfer_syntax_uid=JPEG_LS)
