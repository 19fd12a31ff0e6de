"""A stroke CT as a scanner makes it: plain thick and thin, CT angiography, perfusion. No patient behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

import numpy as np
from pydicom.dataset import Dataset

from raypost.errors import UsageError
from raypost.lab.head_images import FIELD_OF_VIEW_MM, SCAN_LENGTH_MM, SCAN_START_MM, HeadImages
from raypost.lab.head_phantom import HeadPhantom
from raypost.lab.head_shapes import Field, ellipse, inside
from raypost.lab.sample_studies import AxialSeries, HeadCtSpec, axial_image, localizer

THICK_MAX = 78
"""More slices of the head would be thinner than 2 mm."""
THICK_MM, THIN_MM, PERFUSION_MM = 4.0, 0.75, 10.0
PERFUSION_POSITIONS_MAX = 16
CONTRAST_AGENT = "Iomeprol 400"

_ARTERIES_MM = ((-13.0, -14.0, 2.4), (13.0, -14.0, 2.4), (0.0, 6.0, 2.0))
_VEIN_MM = (0.0, 74.0, 4.0)
_CTA_HU, _BOLUS_HU, _VEIN_SHARE = 330.0, 280.0, 0.6


class StrokeSeries(Enum):
    """The series of the set beside the localiser; the value is the Series Number."""

    PLAIN_THICK = 2
    PLAIN_THIN = 3
    CTA = 4
    PERFUSION = 5


AS_RECONSTRUCTED = (StrokeSeries.PLAIN_THIN, StrokeSeries.PLAIN_THICK, StrokeSeries.CTA, StrokeSeries.PERFUSION)
"""Scanners reconstruct the thin images first and make the thick ones of them."""


@dataclass(frozen=True, slots=True)
class StrokeSetSpec:
    """What the scanner is told; numbers of slices, 0 leaves a series out.

    Attributes:
        study_at: Date and time of the study, in the hospital's local time.
        seed: The same seed gives the same study, byte for byte and UID for UID.
        size_px: Rows and columns of the axial images; 64 makes a set for tests within a second or two.
        order: In which the scanner sends its series, behind the localiser.
    """

    study_at: datetime
    seed: int = 1
    plain_thick: int = 40
    plain_thin: int = 472
    cta: int = 708
    perfusion: int = 1180
    size_px: int = 512
    noise_hu: float = 13.0
    has_localizer: bool = True
    order: tuple[StrokeSeries, ...] = AS_RECONSTRUCTED

    def __post_init__(self) -> None:
        if not 0 <= self.plain_thick <= THICK_MAX or min(self.plain_thin, self.cta, self.perfusion) < 0:
            raise UsageError(f"A stroke set has at most {THICK_MAX} thick slices, and no number below 0.")
        if set(self.order) != set(StrokeSeries) or len(self.order) != len(StrokeSeries):
            raise UsageError("Each series of a stroke set is sent once.")
        self.head()  # raises for a set of nothing or of too much

    @classmethod
    def of_size(cls, slices: int, study_at: datetime, seed: int = 1, size_px: int = 512) -> StrokeSetSpec:
        """Return a set of so many slices in all, as 40, 200 or 2,400, with all four series in a usual proportion."""
        thick = max(1, min(40, slices // 4))
        thin, cta = (slices - thick) // 5, (slices - thick) * 3 // 10
        rest = slices - thick - thin - cta
        return cls(study_at, seed, plain_thick=thick, plain_thin=thin, cta=cta, perfusion=rest, size_px=size_px)

    @property
    def slices(self) -> int:
        """Return how many slices there are in all; the localiser is none."""
        return self.plain_thick + self.plain_thin + self.cta + self.perfusion

    def count(self, series: StrokeSeries) -> int:
        """Return how many slices a series has."""
        counts = (self.plain_thick, self.plain_thin, self.cta, self.perfusion)
        return dict(zip(StrokeSeries, counts, strict=True))[series]

    def head(self) -> HeadCtSpec:
        """Return the study that all series share."""
        return HeadCtSpec(
            study_at=self.study_at,
            seed=self.seed,
            slices=self.slices,
            size_px=self.size_px,
            noise_hu=self.noise_hu,
            kind="stroke " + "+".join(str(self.count(series)) for series in StrokeSeries),
            study_description="CT Schädel Stroke",
            accession_number="TSTA00002",
        )


def stroke_set(spec: StrokeSetSpec) -> Iterator[Dataset]:
    """Yield the instances of a stroke CT in the order in which the scanner sends them, localiser first.

    Memory stays flat: one image at a time, and the positions of the perfusion.
    """
    head = spec.head()
    phantom = HeadPhantom(spec.seed, None)
    if spec.has_localizer:
        yield localizer(head, phantom)
    makers: dict[StrokeSeries, Callable[[StrokeSetSpec, HeadCtSpec, HeadPhantom], Iterator[Dataset]]] = {
        StrokeSeries.PLAIN_THICK: _plain_thick,
        StrokeSeries.PLAIN_THIN: _plain_thin,
        StrokeSeries.CTA: _cta,
        StrokeSeries.PERFUSION: _perfusion,
    }
    for series in spec.order:
        if spec.count(series):
            yield from makers[series](spec, head, phantom)


def _plain_thick(spec: StrokeSetSpec, head: HeadCtSpec, phantom: HeadPhantom) -> Iterator[Dataset]:
    thickness_mm = min(THICK_MM, SCAN_LENGTH_MM / spec.plain_thick)
    series = AxialSeries(2, f"Schädel nativ {thickness_mm:.1f} H31s", "H31s", thickness_mm)
    images = HeadImages(phantom, spec.size_px, spec.noise_hu / 2, spec.seed)
    for number, z_mm in enumerate(_heights_mm(spec.plain_thick, thickness_mm)):
        yield axial_image(head, series, number + 1, z_mm, images.image(number, z_mm, thickness_mm))


def _plain_thin(spec: StrokeSetSpec, head: HeadCtSpec, phantom: HeadPhantom) -> Iterator[Dataset]:
    thickness_mm = min(THIN_MM, SCAN_LENGTH_MM / spec.plain_thin)
    series = AxialSeries(3, f"Schädel nativ {thickness_mm:.2f} H31s", "H31s", thickness_mm)
    images = HeadImages(phantom, spec.size_px, spec.noise_hu, spec.seed)
    for number, z_mm in enumerate(_heights_mm(spec.plain_thin, thickness_mm)):
        yield axial_image(head, series, number + 1, z_mm, images.image(number, z_mm, thickness_mm))


def _cta(spec: StrokeSetSpec, head: HeadCtSpec, phantom: HeadPhantom) -> Iterator[Dataset]:
    thickness_mm = min(THIN_MM, SCAN_LENGTH_MM / spec.cta)
    series = AxialSeries(4, f"HeadAngio {thickness_mm:.2f} H20f", "H20f", thickness_mm, CONTRAST_AGENT)
    images = HeadImages(phantom, spec.size_px, spec.noise_hu, spec.seed + 1)
    enhancement = _CTA_HU * np.maximum(_vessels(spec.size_px, *_ARTERIES_MM), 0.4 * _vessels(spec.size_px, _VEIN_MM))
    for number, z_mm in enumerate(_heights_mm(spec.cta, thickness_mm)):
        hu = images.image(number, z_mm, thickness_mm) + enhancement
        yield axial_image(head, series, number + 1, z_mm, hu)


def _perfusion(spec: StrokeSetSpec, head: HeadCtSpec, phantom: HeadPhantom) -> Iterator[Dataset]:
    """Yield a few positions again and again while a bolus passes, as shuttle scans do; numbered through."""
    positions = min(PERFUSION_POSITIONS_MAX, spec.perfusion)
    series = AxialSeries(5, f"VPCT {PERFUSION_MM:.1f} H20f", "H20f", PERFUSION_MM, CONTRAST_AGENT)
    still = HeadImages(phantom, spec.size_px, 0.0, spec.seed)
    heights_mm = _heights_mm(positions, PERFUSION_MM)
    tissue = [still.image(0, z_mm, PERFUSION_MM) for z_mm in heights_mm]
    arteries, vein = _vessels(spec.size_px, *_ARTERIES_MM), _vessels(spec.size_px, _VEIN_MM)
    times = -(-spec.perfusion // positions)
    rng = np.random.default_rng([spec.seed, 5])
    for number in range(spec.perfusion):
        time, position = divmod(number, positions)
        phase = time / max(1, times - 1)
        hu = tissue[position] + _BOLUS_HU * (_bolus(phase, 0.35) * arteries + _VEIN_SHARE * _bolus(phase, 0.55) * vein)
        hu += spec.noise_hu * rng.standard_normal(hu.shape, dtype=np.float32)
        yield axial_image(head, series, number + 1, heights_mm[position], hu)


def _heights_mm(count: int, thickness_mm: float) -> list[float]:
    """Return the middles of a slab of slices around the middle of the scan."""
    start_mm = SCAN_START_MM + (SCAN_LENGTH_MM - count * thickness_mm) / 2
    return [start_mm + (number + 0.5) * thickness_mm for number in range(count)]


def _vessels(size_px: int, *vessels_mm: tuple[float, float, float]) -> Field:
    """Return from 0 to 1 where vessels run upright through the field of view; each is x, y and radius."""
    pixels = ((np.arange(size_px) - (size_px - 1) / 2) * FIELD_OF_VIEW_MM / size_px).astype(np.float32)
    edge_mm = max(1.0, FIELD_OF_VIEW_MM / size_px)
    shapes = [
        inside(ellipse(pixels[None, :] - x_mm, pixels[:, None] - y_mm, radius_mm, radius_mm), edge_mm)
        for x_mm, y_mm, radius_mm in vessels_mm
    ]
    covered: Field = np.maximum.reduce(shapes)
    return covered


def _bolus(phase: float, peak: float) -> float:
    return float(np.exp(-(((phase - peak) / 0.15) ** 2)))
