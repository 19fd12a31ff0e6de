"""Pictures of the head phantom as a CT scanner makes them: pixels, field of view, head holder, noise, scout."""

from __future__ import annotations

import numpy as np

from raypost.lab.head_phantom import AIR_HU, HeadPhantom
from raypost.lab.head_shapes import Field, resampling, smooth_noise

FIELD_OF_VIEW_MM = 240.0
SCAN_START_MM = 0.0
SCAN_LENGTH_MM = 156.0
PLANE_STEP_MIN_MM = 2.5
"""Thinner images are mixed from two planes of the phantom: a bench needs thousands of them."""

_RENDER_STEP_MM = 0.62
_HEAD_BOX_MM = (-86.0, 86.0, -118.0, 106.0)
_SIGMA_MM = 0.42
"""Of the point spread in the picture, beside the soft edges of the shapes."""
_NOISE_LENGTH_MM = 0.17
_NOISE_FIELDS = 5
_AIR_NOISE_SHARE = 0.6
_OUTSIDE_HU = -1024.0

SCOUT_SIZE_PX = 512
SCOUT_SPACING_MM = 0.5
SCOUT_TOP_MM = 168.0
SCOUT_LEFT_MM = -128.0


class HeadImages:
    """Makes axial images of one phantom, one after the other in the scan's order; keeps two planes in memory.

    Args:
        phantom: What is scanned.
        size_px: Rows and columns.
        noise_hu: Standard deviation within the brain.
        seed: Of the noise.
    """

    def __init__(self, phantom: HeadPhantom, size_px: int, noise_hu: float, seed: int) -> None:
        self._phantom = phantom
        self._size_px = size_px
        self._noise_hu = noise_hu
        self._seed = seed
        self.spacing_mm = FIELD_OF_VIEW_MM / size_px
        left, right, front, back = _HEAD_BOX_MM
        step = max(_RENDER_STEP_MM, self.spacing_mm)
        self._x_mm = np.arange(left, right, step, dtype=np.float32)
        self._y_mm = np.arange(front, back, step, dtype=np.float32)
        pixels = ((np.arange(size_px) - (size_px - 1) / 2) * self.spacing_mm).astype(np.float32)
        sigma_mm = max(_SIGMA_MM, 0.5 * step)
        self._columns = resampling(pixels, self._x_mm, sigma_mm).T.copy()
        self._rows = resampling(pixels, self._y_mm, sigma_mm)
        radius = np.hypot(pixels[None, :], pixels[:, None])
        self._outside = radius > FIELD_OF_VIEW_MM / 2
        self._holder = _head_holder(radius, pixels)
        self._planes: dict[int, Field] = {}
        rng = np.random.default_rng([seed, 2])
        length_px = _NOISE_LENGTH_MM / self.spacing_mm
        self._noise = [
            np.tile(smooth_noise(rng, (size_px, size_px), (length_px, length_px)), (2, 2)) for _ in range(_NOISE_FIELDS)
        ]

    def tissue(self, z_mm: float) -> Field:
        """Return an image free of noise, at exactly this height."""
        head = self._phantom.hounsfield(z_mm, self._x_mm, self._y_mm)
        image: Field = np.maximum(self._rows @ (head - AIR_HU) @ self._columns + AIR_HU, self._holder)
        return image

    def image(self, number: int, z_mm: float, thickness_mm: float) -> Field:
        """Return image `number` of a scan with its noise, within the field of view."""
        hu = self._between_planes(z_mm) if thickness_mm < PLANE_STEP_MIN_MM else self.tissue(z_mm)
        share = np.where(hu > -400.0, np.float32(1.0), np.float32(_AIR_NOISE_SHARE))
        hu = hu + share * self._noise_of(number)
        hu[self._outside] = _OUTSIDE_HU
        return hu

    def _between_planes(self, z_mm: float) -> Field:
        at = z_mm / PLANE_STEP_MIN_MM
        low = int(np.floor(at))
        self._planes = {index: plane for index, plane in self._planes.items() if index in (low, low + 1)}
        for index in (low, low + 1):
            if index not in self._planes:
                self._planes[index] = self.tissue(index * PLANE_STEP_MIN_MM)
        mixed: Field = self._planes[low] + np.float32(at - low) * (self._planes[low + 1] - self._planes[low])
        return mixed

    def _noise_of(self, number: int) -> Field:
        # Two of a few fields, shifted and mixed: new noise for every image at the price of two additions.
        rng = np.random.default_rng([self._seed, 3, number])
        first, second = rng.choice(_NOISE_FIELDS, 2, replace=False)
        turn = rng.uniform(0.0, 2.0 * np.pi)
        size = self._size_px
        (r1, c1), (r2, c2) = rng.integers(0, size, (2, 2))
        noise: Field = self._noise[first][r1 : r1 + size, c1 : c1 + size] * np.float32(
            self._noise_hu * np.cos(turn)
        ) + self._noise[second][r2 : r2 + size, c2 : c2 + size] * np.float32(self._noise_hu * np.sin(turn))
        return noise


def _head_holder(radius_mm: Field, pixels_mm: Field) -> Field:
    """Return the carbon shell with its foam below the head, air elsewhere."""
    below = np.broadcast_to(pixels_mm[:, None] > 42.0, radius_mm.shape)
    holder = np.full(radius_mm.shape, AIR_HU, dtype=np.float32)
    holder[below & (radius_mm > 106.0) & (radius_mm < 114.0)] = -920.0
    for shell in (106.0, 114.0):
        holder[below & (np.abs(radius_mm - shell) < 0.7)] = -250.0
    return holder


def scout(phantom: HeadPhantom, seed: int) -> Field:
    """Return the lateral localiser: the head seen from its left, face to the left, vertex up."""
    x_mm = np.arange(-88.0, 88.0, 2.0, dtype=np.float32)
    y_mm = np.arange(-124.0, 124.0, 1.6, dtype=np.float32)
    z_mm = np.arange(SCOUT_TOP_MM, SCOUT_TOP_MM - SCOUT_SIZE_PX * SCOUT_SPACING_MM - 2.0, -2.0, dtype=np.float32)
    water_mm = np.stack(
        [((phantom.hounsfield(float(z), x_mm, y_mm) - AIR_HU) / -AIR_HU).sum(axis=1) * 2.0 for z in z_mm]
    ).astype(np.float32)
    rows = SCOUT_TOP_MM - np.arange(SCOUT_SIZE_PX, dtype=np.float32) * SCOUT_SPACING_MM
    columns = SCOUT_LEFT_MM + np.arange(SCOUT_SIZE_PX, dtype=np.float32) * SCOUT_SPACING_MM
    sharp, soft = (
        resampling(rows, z_mm, sigma_mm) @ water_mm @ resampling(columns, y_mm, sigma_mm).T for sigma_mm in (1.1, 7.0)
    )
    enhanced = sharp + 1.2 * (sharp - soft)
    noise = smooth_noise(np.random.default_rng([seed, 4]), (SCOUT_SIZE_PX, SCOUT_SIZE_PX), (0.6, 0.6))
    image: Field = np.clip(-1000.0 + 8.0 * enhanced + 9.0 * noise, _OUTSIDE_HU, 3071.0).astype(np.float32)
    return image
