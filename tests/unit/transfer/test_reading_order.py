"""Readable first: what scanners call their series, and in which order the series then go."""

import itertools
import re
import time

import pytest

from raypost.transfer import reading_order
from raypost.transfer.reading_order import (
    KEY_CLASSES,
    READING_ORDER,
    REFINEMENTS,
    ReadingClass,
    is_key_series,
    is_localizer,
    reading_class,
    reading_rank,
)
from raypost.transfer.series_signs import (
    DESCRIPTION_LENGTH_MAX,
    SHARP_KERNELS,
    ReadingFacts,
    Sign,
    folded,
    image_type_values,
    signs_of,
)

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
AXIAL = "ORIGINAL\\PRIMARY\\AXIAL"
L, K, A = ReadingClass.LOCALIZER, ReadingClass.PLAIN_THICK, ReadingClass.PLAIN_OF_ANY_THICKNESS
OVERVIEW, VESSELS, MAPS = ReadingClass.VESSELS_OVERVIEW, ReadingClass.VESSELS, ReadingClass.PERFUSION_MAPS
PERFUSION, THIN, SHARP = ReadingClass.PERFUSION, ReadingClass.THIN, ReadingClass.SHARP
PAGES, VIEWS, DOCUMENTS = ReadingClass.PAGES, ReadingClass.OTHER_VIEWS, ReadingClass.DOCUMENTS


def ct(description="", thickness_mm=None, kernel="", agent="", image_type=AXIAL, **others) -> ReadingFacts:
    return ReadingFacts("CT", CT_IMAGE, image_type, description, "HEAD", thickness_mm, kernel, agent, **others)


def mr(description, thickness_mm=5.0, image_type="ORIGINAL\\PRIMARY\\M\\ND", agent="") -> ReadingFacts:
    return ReadingFacts("MR", "1.2.840.10008.5.1.4.1.1.4", image_type, description, "HEAD", thickness_mm, "", agent)


SERIES = [
    # Siemens: description holds thickness and kernel; the kernel of newer scanners has the strength as a second value.
    (ct("Topogramm  0.6  T20f", 0.6, "T20f", image_type="ORIGINAL\\PRIMARY\\LOCALIZER\\CT_SOM5 TOP"), L),
    (ct("SN Topo   1.0  Tr20", 1.0, "Tr20f", image_type="ORIGINAL\\PRIMARY\\LOCALIZER"), L),
    (ct("Schädel nativ  4.0  H31s", 4.0, "H31s"), K),
    (ct("Kopf nativ 5.0 J30s 3", 5.0, "J30s\\3"), K),
    (ct("CCT nativ 4.0 Hr38 ax", 4.0, "Hr38f\\3", image_type="DERIVED\\SECONDARY\\MPR\\CT_SOM7 MPR"), K),
    (ct("Schädel nativ  0.75  H31s", 0.75, "H31s"), THIN),
    (ct("Kopf nativ 1.0 Hr40 3", 1.0, "Hr40f\\3"), THIN),
    (ct("Schädel nativ  4.0  H60s", 4.0, "H60s"), SHARP),
    (ct("Knochen  1.0  Hr64 3", 1.0, "Hr64h\\3"), SHARP),
    (ct("Kopf nativ Knochenfenster 3.0", 3.0, "H31s"), SHARP),
    (ct("Kopf nativ cor 3.0 MPR", 3.0, "H31s", image_type="DERIVED\\PRIMARY\\MPR"), VIEWS),
    (ct("Kopf nativ koronar 4.0", 4.0, "H31s"), VIEWS),
    (ct("PreMonitoring  10.0  I30f", 10.0, "I30f\\2"), PAGES),
    (ct("Monitoring  10.0  B30f", 10.0, "B30f", "APPLIED"), PAGES),
    (ct("TestBolus 10.0 B30f", 10.0, "B30f"), PAGES),
    (ct("CarotisAngio  0.75  H20f", 0.75, "H20f", "APPLIED"), VESSELS),
    (ct("HeadAngio 0.6 Bv36 3", 0.6, "Bv36d\\3"), VESSELS),
    (ct("CTA supraaortal 0.75 Hv60", 0.75, "Hv60f"), VESSELS),
    (ct("CTA MIP ax 10.0", 10.0, "H20f", "Imeron 400"), OVERVIEW),
    (ct("CTA Kopf/Hals 3.0 Hv40", 3.0, "Hv40f\\3"), OVERVIEW),
    (ct("CTA  2.0  MPR  Cor", 2.0, "Bv40", image_type="DERIVED\\PRIMARY\\AXIAL\\CT_SOM5 MPR"), OVERVIEW),
    (ct("Schädel nach KM 4.0 H31s", 4.0, "H31s", "Imeron 400"), OVERVIEW),
    (ct("VPCT  5.0  H20f", 5.0, "H20f", "APPLIED"), PERFUSION),
    (ct("Neuro Perfusion dynamisch 10.0", 10.0, "H20f"), PERFUSION),
    (ct("Kopf 1.5 Hr36", 1.5, "Hr36f", image_type="ORIGINAL\\PRIMARY\\AXIAL\\CT_SOM7 SPI DYNAMIC"), PERFUSION),
    (ct("Nativ vor Perfusion 4.0 H31s", 4.0, "H31s"), K),
    (ct("Patient Protocol", None, image_type="DERIVED\\SECONDARY\\OTHER\\CT_SOM5 PROT"), PAGES),
    (ct("Patientenprotokoll"), PAGES),
    (ct("DE_Head  5.0  Qr32  3  A_80kV", 5.0, "Qr32s\\3"), VIEWS),
    (ct("DE_Head  5.0  Q34s  3 Optimum Contrast#0 (Auto)", 5.0, "Q34s\\3"), K),
    (ct("DE_Head  3.0  H60s  F_0.5", 3.0, "H60s"), SHARP),
    # GE
    (ct("SCOUT", image_type="ORIGINAL\\PRIMARY\\LOCALIZER"), L),
    (ct("HEAD W/O CONTRAST 5MM", 5.0, "SOFT", image_type="ORIGINAL\\PRIMARY\\AXIAL"), K),
    (ct("ROUTINE HEAD STD", 5.0, "STANDARD"), K),
    (ct("2.5 mm STD Head", 2.5, "STANDARD"), K),
    (ct("0.625MM ROUTINE HEAD BONE WO", 0.625, "BONEPLUS"), SHARP),
    (ct("ROUTINE HEAD BONE", 2.5, "BONEPLUS"), SHARP),
    (ct("THIN HEAD WO", 0.625, "STANDARD"), THIN),
    (ct("CTA HEAD NECK 0.625", 0.625, "STANDARD", "Omnipaque"), VESSELS),
    (ct("ANGIO 1.25MM RECON", 1.25, "STANDARD"), VESSELS),
    (ct("HEAD +C", 5.0, "STANDARD"), OVERVIEW),
    (ct("HEAD W/ CONTRAST", 5.0, "STANDARD"), OVERVIEW),
    (ct("Smart Prep Series", 5.0, "STANDARD"), PAGES),
    (ct("Axial Shuttle 5mm", 5.0, "STANDARD"), PERFUSION),
    (ct("COR MIP CTA", 10.0, "STANDARD", image_type="DERIVED\\SECONDARY\\REFORMATTED\\MIN IP"), OVERVIEW),
    (ct("3D Lab:  Ax batch 20 x 5 MIP", 20.0, agent="Omnipaque"), OVERVIEW),
    (ct("Dose Report", image_type="DERIVED\\SECONDARY\\SCREEN SAVE"), PAGES),
    (ct("CTA Bone Removal", 0.625, "STANDARD", "Omnipaque"), VESSELS),
    # Philips
    (ct("Surview", image_type="ORIGINAL\\PRIMARY\\LOCALIZER"), L),
    (ct("Schädel o. KM, iDose (3)", 4.0, "UB"), K),
    (ct("Brain w/o 5mm, iDose", 5.0, "UB"), K),
    (ct("Hirn dünn", 0.9, "UB"), THIN),
    (ct("Knochen, 1mm", 1.0, "YD"), SHARP),
    (ct("Kopf nativ", 3.0, "D"), SHARP),
    (ct("Angio Hals/Kopf, iDose (4)", 0.9, "B", "Ultravist"), VESSELS),
    (ct("Locator", 10.0, "A"), PAGES),
    (ct("Tracker", 10.0, "A", "Ultravist"), PAGES),
    (ct("Brain Perfusion, JOG", 10.0, "UB", "Ultravist"), PERFUSION),
    (ct("Dose Info", image_type="DERIVED\\SECONDARY"), PAGES),
    # Canon
    (ct("Scanogram", image_type="ORIGINAL\\PRIMARY\\LOCALIZER"), L),
    (ct("Head Routine 4.0", 4.0, "FC21"), K),
    (ct("Brain AIDR 3D 5.0", 5.0, "FC68"), K),
    (ct("Schädel ohne KM 1.0", 1.0, "FC26"), THIN),
    (ct("Bone 1.0", 1.0, "FC30"), SHARP),
    (ct("Head 0.5", 0.5, "FC81"), SHARP),
    (ct("VOLUME Head 3.000 CE", 3.0, "FC68", image_type="DERIVED\\PRIMARY\\MPR"), OVERVIEW),
    (ct("SureStart", 10.0, "FC13"), PAGES),
    (ct("CBP Study", 5.0, "FC41", "Iomeron"), PERFUSION),
    (ct("4D CTA 0.5", 0.5, "FC41", "Iomeron"), PERFUSION),
    # Other software
    (ct("RAPID Perfusion Parameter Maps Colored", image_type="DERIVED\\SECONDARY\\OTHER"), MAPS),
    (ct("RAPID CT-P Summary", image_type="DERIVED\\SECONDARY\\OTHER"), MAPS),
    (ct("CBF", 10.0, image_type="DERIVED\\PRIMARY\\AXIAL\\PERFUSION"), MAPS),
    (ct("Tmax [s]", 5.0, image_type="DERIVED\\SECONDARY"), MAPS),
    (ct("VRT Gefäße", image_type="DERIVED\\SECONDARY", agent="Imeron"), OVERVIEW),
    (ct("VRT Schädel nativ", image_type="DERIVED\\SECONDARY"), VIEWS),
    # Headers that say little
    (ct("", 5.0), K),
    (ct("Low dose CCT", 5.0, "H31s"), K),
    (ct("Kopf"), A),
    (ct("Kopf 5mm"), K),
    (ct("Kopf 0,75 mm"), THIN),
    (ct("Kopf dünn"), THIN),
    (ct("Kopf", 0.0), A),
    (ct("Kopf", 9999.0), A),
    (ct("e-ASPECTS", image_type="DERIVED\\SECONDARY"), ReadingClass.OTHER_IMAGES),
    (ct("Kopf nativ", 5.0, "H31s", "Imeron 400"), K),
    (ct("Kopf", 5.0, "H31s", "NONE"), K),
    (ct("Kopf", 5.0, "H31s", "ohne"), K),
    (ct("Kopf", 5.0, "H31s", "oral"), K),
    (ct("Kopf", 5.0, "H31s", "Imeron 400"), OVERVIEW),
    # MR
    (mr("localizer", 10.0), L),
    (mr("3Plane Loc SSFSE", 5.0), L),
    (mr("ep2d_diff_3scan_trace_p2_ADC", image_type="DERIVED\\PRIMARY\\DIFFUSION\\ADC\\ND"), ReadingClass.DIFFUSION),
    (mr("Ax DWI (SEND TO RAPID-3) (freq r/l)"), ReadingClass.DIFFUSION),
    (mr("ADC (10^-6 mm2/s)"), ReadingClass.DIFFUSION),
    (mr("DWI b1000"), ReadingClass.DIFFUSION),
    (mr("RAPID DWI-PWI Summary", image_type="DERIVED\\SECONDARY\\OTHER"), MAPS),
    (mr("t2_tirm_tra_dark-fluid"), ReadingClass.BLOOD_AND_OEDEMA),
    (mr("Ax T2 FLAIR"), ReadingClass.BLOOD_AND_OEDEMA),
    (mr("t2*_fl2d_tra_hemo"), ReadingClass.BLOOD_AND_OEDEMA),
    (mr("SWI_Images", 1.6), ReadingClass.BLOOD_AND_OEDEMA),
    (mr("TOF_3D_multi-slab", 0.5), VESSELS),
    (mr("3DTOF COW MRA fast", 1.0), VESSELS),
    (mr("PJN:3DTOF COW MRA fast", image_type="DERIVED\\PRIMARY\\PROJECTION IMAGE\\VASCULAR"), OVERVIEW),
    (mr("ep2d_perf"), PERFUSION),
    (mr("t1_mprage_sag_p2_iso", 1.0), THIN),
    (mr("t1_se_tra", agent="Gadovist"), ReadingClass.OTHER_IMAGES),
    # Others
    (ReadingFacts("SR", "1.2.840.10008.5.1.4.1.1.88.67", series_description="Dose Report"), DOCUMENTS),
    (ReadingFacts("KO", "1.2.840.10008.5.1.4.1.1.88.59"), DOCUMENTS),
    (ReadingFacts("PR", "1.2.840.10008.5.1.4.1.1.11.1"), DOCUMENTS),
    (ReadingFacts("CT", "1.2.840.10008.5.1.4.1.1.66"), DOCUMENTS),
    (ReadingFacts("CT", "1.3.12.2.1107.5.9.1"), DOCUMENTS),
    (ReadingFacts("DOC", "1.2.840.10008.5.1.4.1.1.104.1", series_description="Kopf nativ"), DOCUMENTS),
    (ReadingFacts("OT", "1.2.840.10008.5.1.4.1.1.7", series_description="Bildschirmfoto"), PAGES),
    (ReadingFacts("CT", "1.2.840.10008.5.1.4.1.1.7.4", series_description="RAPID MTT"), MAPS),
    (ReadingFacts("DX", "1.2.840.10008.5.1.4.1.1.1.1", series_description="Thorax"), ReadingClass.OTHER_IMAGES),
    (ReadingFacts("US", "1.2.840.10008.5.1.4.1.1.6.1"), ReadingClass.OTHER_IMAGES),
    (ReadingFacts(""), ReadingClass.OTHER_IMAGES),
]


@pytest.mark.parametrize(
    ("facts", "expected"), SERIES, ids=[f"{one.modality} {one.series_description or '?'}" for one, _ in SERIES]
)
def test_class(facts, expected) -> None:
    assert reading_class(reading_rank(facts)) is expected, sorted(sign.name for sign in signs_of(facts))


def test_every_line_and_every_class_of_the_order_is_seen_above() -> None:
    def line(facts):
        signs = signs_of(facts)
        return next(row for row in READING_ORDER if row.fits(facts.modality, signs))

    assert {id(line(facts)) for facts, _ in SERIES} == {id(row) for row in READING_ORDER}
    assert {expected for _, expected in SERIES} == set(ReadingClass)
    assert READING_ORDER[-1].fits("XY", frozenset(Sign)) and not READING_ORDER[-1].modality, "nothing is left out"


def test_each_kernel_pattern_decides_for_a_series_above() -> None:
    for who, pattern in SHARP_KERNELS:
        kernels = [facts.convolution_kernel.split("\\")[0] for facts, _ in SERIES]
        assert any(re.fullmatch(pattern, folded(kernel)) for kernel in kernels), who


STROKE = [  # in the order in which they are to be sent
    ct("Topogramm", 0.6, "T20f", image_type="ORIGINAL\\PRIMARY\\LOCALIZER"),
    ct("Schädel nativ 4.0 H31s", 4.0, "H31s"),
    ct("CTA MIP ax 10.0", 10.0, "H20f", "Imeron"),
    ct("CTA 0.75 H20f", 0.75, "H20f", "Imeron"),
    ct("RAPID Summary", image_type="DERIVED\\SECONDARY"),
    ct("VPCT 5.0 H20f", 5.0, "H20f", "Imeron"),
    ct("Schädel nativ 0.75 H31s", 0.75, "H31s"),
    ct("Schädel Knochen 0.75 H60s", 0.75, "H60s"),
    ct("Patient Protocol"),
    ReadingFacts("SR", "1.2.840.10008.5.1.4.1.1.88.67"),
]


def test_a_stroke_is_sent_as_it_is_read_whatever_the_instance_numbers() -> None:
    for slower, faster in itertools.pairwise(reversed(STROKE)):
        for numbers in itertools.product((None, 0, 1, 32, 2**31), repeat=2):
            first, second = (
                reading_rank(ReadingFacts(**{**as_dict(one), "instance_number": number}))
                for one, number in zip((faster, slower), numbers, strict=True)
            )
            assert first < second


def as_dict(facts) -> dict:
    return {name: getattr(facts, name) for name in ReadingFacts.__dataclass_fields__}


def test_key_series() -> None:
    assert [is_key_series(reading_rank(one)) for one in STROKE] == [False, True] + [False] * 8
    assert KEY_CLASSES == {expected for facts, expected in SERIES if is_key_series(reading_rank(facts))}
    assert not is_key_series(0), "rows from before there were ranks say nothing"


def test_the_head_goes_before_the_rest_of_the_body_in_the_same_class() -> None:
    head, spine = ct("Schädel nativ", 5.0), ReadingFacts("CT", CT_IMAGE, AXIAL, "HWS nativ", "CSPINE", 3.0, "Br36")
    unknown = ReadingFacts("CT", CT_IMAGE, AXIAL, "nativ", "", 5.0)
    wrong = ReadingFacts("CT", CT_IMAGE, AXIAL, "Kopf nativ", "NECK", 5.0)
    assert reading_rank(head) == reading_rank(unknown) == reading_rank(wrong) < reading_rank(spine)
    assert reading_class(reading_rank(spine)) is K


@pytest.mark.parametrize("first", [0, 1, 7])
def test_within_a_series_the_gaps_are_halved(first) -> None:
    """At every moment the images that are there are evenly spread: no gap is over twice as wide as another."""
    numbers = range(first, first + 128)
    ranked = sorted(numbers, key=lambda number: reading_rank(ct("nativ", 4.0, instance_number=number)))
    for refinement in range(REFINEMENTS + 1):
        distance = 2 ** (REFINEMENTS - refinement)
        sent = sorted(ranked[: sum(1 for number in numbers if number % distance == 0)])
        assert {after - before for before, after in itertools.pairwise(sent)} == {distance}
    assert reading_rank(ct("nativ", 4.0)) == reading_rank(ct("nativ", 4.0, instance_number=1))
    assert reading_rank(ct("nativ", 4.0, instance_number=-4)) == reading_rank(ct("nativ", 4.0, instance_number=4))


def test_a_localizer_goes_first_in_its_series_and_its_images_as_they_come() -> None:
    scout = {reading_rank(ct("Kopf nativ 4.0", 4.0, image_type=LOCALIZER, instance_number=n)) for n in (1, 2, None)}
    assert len(scout) == 1
    assert scout.pop() < min(reading_rank(ct("Kopf nativ 4.0", 4.0, instance_number=n)) for n in range(1, 65))


LOCALIZER = "ORIGINAL\\PRIMARY\\LOCALIZER"


@pytest.mark.parametrize(
    ("image_type", "expected"),
    [(LOCALIZER, True), ("original\\primary\\localizer\\CT_SOM5 TOP", True), (AXIAL, False), ("", False)],
)
def test_localizer_by_image_type(image_type, expected) -> None:
    assert is_localizer(image_type) is expected


def test_texts_of_any_length_and_kind_are_judged_quickly() -> None:
    """The words come from outside: no pattern runs away, and nothing but the beginning is looked at."""
    hostile = [
        "a" * 5000,
        "ct " * 2000,
        "bolus " * 1000,
        "non " * 1500,
        "1" * 5000,
        "w/" * 2500,
        "perfus" * 900,
        "\0ß" * 99,
    ]
    begin_s = time.perf_counter()
    for text in hostile:
        facts = ReadingFacts("CT", text, text, text, text, 5.0, text, text, 1)
        assert reading_rank(facts) > 0
    assert time.perf_counter() - begin_s < 0.5
    assert len(folded(hostile[0])) == DESCRIPTION_LENGTH_MAX
    assert len(max(image_type_values(hostile[0]))) == DESCRIPTION_LENGTH_MAX


def test_one_series_is_judged_once() -> None:
    reading_order._judged.cache_clear()
    for number in range(200):
        reading_rank(ct("nativ", 4.0, instance_number=number))
    assert reading_order._judged.cache_info().misses == 1
