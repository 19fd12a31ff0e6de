"""Readable first: in which order the instances of a study are sent, each judged alone while the study still streams.

Neither the number of instances nor what comes later is known, so that an instance is judged by its own header and its
series (`series_signs.py`: which attributes, by clause of DICOM PS3.3). `READING_ORDER` is the rule. What is not
recognised is sent later, never left out. Within a series every 32nd image goes first, then those halfway between, and
so on: whoever reads sees the whole head coarsely at once, and ever finer.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from enum import IntEnum

from raypost.transfer.series_signs import ReadingFacts, Sign, image_type_values, signs_of

REFINEMENTS = 5
"""So often the distance between the images of a series that are sent is halved: 32, 16, 8, 4, 2, 1."""

SERIES_REMEMBERED_MAX = 1024
"""So many series are not judged anew for each of their instances."""

_CLASS_STEP, _REGION_STEP = 1000, 100


class ReadingClass(IntEnum):
    """What a series is good for, in the order of sending."""

    LOCALIZER = 1
    PLAIN_THICK = 2
    PLAIN_OF_ANY_THICKNESS = 3
    DIFFUSION = 4
    BLOOD_AND_OEDEMA = 5
    VESSELS_OVERVIEW = 6
    VESSELS = 7
    PERFUSION_MAPS = 8
    OTHER_IMAGES = 9
    OTHER_VIEWS = 10
    PERFUSION = 11
    THIN = 12
    SHARP = 13
    PAGES = 14
    DOCUMENTS = 15


KEY_CLASSES = frozenset({ReadingClass.PLAIN_THICK, ReadingClass.PLAIN_OF_ANY_THICKNESS})
"""The series that make a study readable: the plain CT that rules out a bleed and shows an early infarct."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the order: it fits a series of the modality ('' is any) with all of `has` and none of `lacks`."""

    reading_class: ReadingClass
    modality: str
    has: frozenset[Sign]
    lacks: frozenset[Sign]
    why: str

    def fits(self, modality: str, signs: frozenset[Sign]) -> bool:
        """Say whether a series is one of these."""
        return self.modality in ("", modality) and self.has <= signs and not self.lacks & signs


def _row(reading_class: ReadingClass, modality: str, why: str, *has: Sign, lacks: tuple[Sign, ...] = ()) -> Row:
    return Row(reading_class, modality, frozenset(has), frozenset(lacks), why)


READING_ORDER: tuple[Row, ...] = (
    # The first line that fits counts.
    _row(ReadingClass.DOCUMENTS, "", "SR, dose, PDF, presentation states: nobody waits for them", Sign.DOCUMENT),
    _row(ReadingClass.LOCALIZER, "", "one to three images, and where the slices lie", Sign.LOCALIZER),
    _row(ReadingClass.PERFUSION_MAPS, "", "few images that decide", Sign.MAP, lacks=(Sign.ORIGINAL,)),
    _row(ReadingClass.PAGES, "", "dose and protocol pages", Sign.PAGE),
    _row(ReadingClass.PAGES, "", "screen shots", Sign.CAPTURE),
    _row(ReadingClass.PAGES, "CT", "one slice again and again while the bolus comes", Sign.BOLUS_CONTROL),
    _row(ReadingClass.PERFUSION, "CT", "thousands, read as maps", Sign.PERFUSION, lacks=(Sign.PLAIN,)),
    _row(ReadingClass.SHARP, "CT", "bone and lung kernels do not show the brain", Sign.SHARP),
    _row(ReadingClass.VESSELS_OVERVIEW, "CT", "MIP and renderings: few", Sign.CONTRAST, Sign.PROJECTION),
    _row(ReadingClass.VESSELS_OVERVIEW, "CT", "thick CTA and thick CT with contrast: few", Sign.CONTRAST, Sign.THICK),
    _row(ReadingClass.VESSELS, "CT", "which vessel is occluded", Sign.CONTRAST),
    _row(ReadingClass.THIN, "CT", "the plain CT once more, for reconstructions", Sign.THIN),
    _row(ReadingClass.OTHER_VIEWS, "CT", "the plain CT, coronal and sagittal or of one energy", Sign.OTHER_VIEW),
    _row(ReadingClass.OTHER_VIEWS, "CT", "the plain CT, rendered", Sign.PROJECTION),
    _row(ReadingClass.PLAIN_THICK, "CT", "a bleed, an early infarct: read at once", Sign.THICK),
    _row(ReadingClass.PLAIN_OF_ANY_THICKNESS, "CT", "nothing speaks against it", lacks=(Sign.SECONDARY,)),
    _row(ReadingClass.DIFFUSION, "MR", "DWI and ADC: the infarct", Sign.DIFFUSION),
    _row(ReadingClass.PERFUSION, "MR", "many, read as maps", Sign.PERFUSION),
    _row(ReadingClass.VESSELS_OVERVIEW, "MR", "MIP of the MRA", Sign.VESSELS, Sign.PROJECTION),
    _row(ReadingClass.VESSELS, "MR", "TOF and other MRA", Sign.VESSELS),
    _row(ReadingClass.BLOOD_AND_OEDEMA, "MR", "FLAIR, T2*, SWI", Sign.BLOOD),
    _row(ReadingClass.THIN, "MR", "volumes for reconstructions", Sign.THIN),
    _row(ReadingClass.OTHER_IMAGES, "", "all other images, as they come"),
)


def reading_rank(facts: ReadingFacts) -> int:
    """Return when an instance is sent: lower first, always above 0; equal ranks go as they came.

    The thousands are the class, the hundreds 1 for a body part other than the head, the rest how fine the images are
    that the series has by then.
    """
    series = replace(facts, instance_number=None)
    kind, is_elsewhere = _judged(series)
    refinement = 0 if kind is ReadingClass.LOCALIZER else _refinement(facts.instance_number)
    return kind * _CLASS_STEP + is_elsewhere * _REGION_STEP + refinement


def reading_class(rank: int) -> ReadingClass:
    """Return the class that a rank is in."""
    return ReadingClass(rank // _CLASS_STEP)


def is_key_series(rank: int) -> bool:
    """Say whether an instance is of a series that makes a study readable: the thick plain CT, but not its localiser."""
    return rank // _CLASS_STEP in KEY_CLASSES


def is_read_first(rank: int) -> bool:
    """Say whether an instance is of what is read first: the localiser or a key series."""
    return rank // _CLASS_STEP <= max(KEY_CLASSES)


def is_localizer(image_type: str) -> bool:
    """Say whether an image is a localiser by its Image Type (PS3.3, C.8.2.1.1.1)."""
    return "LOCALIZER" in image_type_values(image_type)


@functools.lru_cache(SERIES_REMEMBERED_MAX)
def _judged(series: ReadingFacts) -> tuple[ReadingClass, bool]:
    signs = signs_of(series)
    row = next(row for row in READING_ORDER if row.fits(series.modality, signs))
    return row.reading_class, Sign.ELSEWHERE in signs


def _refinement(instance_number: int | None) -> int:
    """Return how often the distance is halved before an image is sent; by its number alone (PS3.3, C.7.6.1)."""
    if instance_number is None:
        return REFINEMENTS
    halvings = (instance_number & -instance_number).bit_length() - 1 if instance_number else REFINEMENTS
    return REFINEMENTS - min(halvings, REFINEMENTS)
