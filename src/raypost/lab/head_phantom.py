"""A human head made of formulas: Hounsfield units at any plane, the same for the same seed; no patient behind it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raypost.lab.head_base import paint_base
from raypost.lab.head_shapes import (
    Field,
    capsule,
    ellipse,
    ellipsoid,
    inside,
    join,
    paint,
    rotated,
    sample,
    smooth_noise,
)

AIR_HU = -1000.0
FAT_HU = -95.0
SOFT_HU = 48.0
CSF_HU = 6.0
WHITE_HU = 29.0
GREY_HU = 37.0
BLOOD_HU = 68.0
OEDEMA_HU = 19.0
DURA_HU = 54.0
DIPLOE_HU = 500.0
BONE_HU = 1250.0

Z_MIN_MM = -120.0
Z_MAX_MM = 160.0
"""Planes are counted from the foramen magnum (0) to the vertex (about 152)."""

_LATTICE_MM = 3.0
_PERIMETER_MM = 480.0
_WARP_MM = 3.2

_VENTRICLES = (  # x, y, z, radius; the left one is the mirror image
    ((11.0, -39.0, 66.0, 3.0), (6.5, -23.0, 72.0, 4.6)),
    ((6.5, -23.0, 72.0, 4.6), (8.0, -4.0, 82.0, 5.0)),
    ((8.0, -4.0, 82.0, 5.0), (12.0, 18.0, 83.0, 5.2)),
    ((12.0, 18.0, 83.0, 5.2), (23.0, 34.0, 72.0, 6.5)),
    ((23.0, 34.0, 72.0, 6.5), (20.0, 57.0, 66.0, 2.6)),
    ((23.0, 34.0, 72.0, 5.5), (31.0, 16.0, 52.0, 2.2)),
    ((31.0, 16.0, 52.0, 2.2), (27.0, 2.0, 41.0, 1.6)),
)


@dataclass(frozen=True, slots=True)
class Bleed:
    """An intracerebral haemorrhage; +x is the patient's left."""

    x_mm: float = 28.0
    y_mm: float = 3.0
    z_mm: float = 71.0
    radii_mm: tuple[float, float, float] = (13.0, 19.0, 13.0)


class HeadPhantom:
    """One head; its folds come from a seed.

    Args:
        seed: Of everything random in it.
        bleed: What is wrong with it; none for a healthy one.
    """

    def __init__(self, seed: int, bleed: Bleed | None = None) -> None:
        rng = np.random.default_rng([seed, 1])
        planes = int((Z_MAX_MM - Z_MIN_MM) / _LATTICE_MM) + 2
        around = int(_PERIMETER_MM / _LATTICE_MM)
        self.bleed = bleed
        self._outer_folds = smooth_noise(rng, (planes, around, 16), (2.6, 1.6, 3.2))
        self._inner_folds = smooth_noise(rng, (2, planes, 80, 16), (0.0, 2.6, 1.8, 3.2))
        self._warp = smooth_noise(rng, (2, planes, 84, 84), (0.0, 3.5, 2.6, 2.6))
        self._lumps = smooth_noise(rng, (planes, around, 32), (4.0, 4.0, 3.0))
        self._grain = smooth_noise(rng, (planes, 96, 96), (1.5, 1.2, 1.2))

    def hounsfield(self, z_mm: float, x_mm: Field, y_mm: Field) -> Field:
        """Return the Hounsfield units of a plane, free of noise.

        Args:
            z_mm: From the foramen magnum towards the vertex.
            x_mm: Of the columns, the patient's left positive.
            y_mm: Of the rows, backwards positive.
        """
        x = np.broadcast_to(x_mm[None, :], (y_mm.size, x_mm.size)).astype(np.float32)
        y = np.broadcast_to(y_mm[:, None], (y_mm.size, x_mm.size)).astype(np.float32)
        hu = np.full(x.shape, AIR_HU, dtype=np.float32)
        cavity = _cavity(x, y, z_mm)
        lumps = self._around(self._lumps, x, y, z_mm, np.maximum(-cavity, 0.0))
        skin = _paint_outside(hu, x, y, z_mm, cavity, lumps)
        grain = self._plane(self._grain, z_mm)
        grain = sample(grain, y / _LATTICE_MM * 2.0, np.mod(x / _LATTICE_MM * 2.0, 94.0).astype(np.float32))
        paint_base(hu, x, y, z_mm, cavity, skin, grain)
        if float(cavity.min()) < 0.0:
            paint(hu, inside(cavity), self._brain(x, y, z_mm, cavity, lumps))
        return hu

    @staticmethod
    def _plane(lattice: Field, z_mm: float) -> Field:
        at = float(np.clip((z_mm - Z_MIN_MM) / _LATTICE_MM, 0.0, lattice.shape[0] - 1.001))
        low = int(at)
        plane: Field = lattice[low] * (1.0 - (at - low)) + lattice[low + 1] * (at - low)
        return plane

    def _around(self, lattice: Field, x: Field, y: Field, z_mm: float, depth_mm: Field) -> Field:
        angle = np.arctan2(x, y) / (2.0 * np.pi)
        return sample(self._plane(lattice, z_mm), angle * lattice.shape[1], depth_mm / _LATTICE_MM)

    def _brain(self, x: Field, y: Field, z_mm: float, cavity: Field, lumps: Field) -> Field:
        shift = 0.0
        if self.bleed is not None:  # it pushes the midline away, most at its own height
            near = float(np.exp(-(((z_mm - self.bleed.z_mm) / 22.0) ** 2)))
            shift = 4.0 * near * float(np.sign(self.bleed.x_mm))
        pushed = np.exp(-(((y - 2.0) / 38.0) ** 2)) * np.exp(-((x / 45.0) ** 2))
        xs = x + shift * pushed + 0.6 * lumps
        mirrored = np.abs(xs)
        hu = self._cortex(xs, mirrored, y, z_mm, cavity)
        _paint_deep_grey(hu, mirrored, y, z_mm)
        _paint_fluid(hu, xs, mirrored, y, z_mm, lumps)
        _paint_hindbrain(hu, mirrored, y, z_mm, cavity, lumps)
        _paint_membranes(hu, x, xs, mirrored, y, z_mm, cavity)
        if self.bleed is not None:
            _paint_bleed(hu, x, y, z_mm, self.bleed, lumps)
        return hu

    def _cortex(self, x: Field, mirrored: Field, y: Field, z_mm: float, cavity: Field) -> Field:
        """Paint white matter, the folded ribbon of grey matter and the fluid in its furrows."""
        depth = -cavity - 1.4
        # Folds that run straight inwards look like a comb; bend them.
        rows, columns = (y + 126.0) / _LATTICE_MM, (x + 126.0) / _LATTICE_MM
        bend_x, bend_y = (_WARP_MM * sample(self._plane(self._warp[axis], z_mm), rows, columns) for axis in (0, 1))
        x, y, mirrored = x + bend_x, y + bend_y, np.maximum(mirrored + 0.6 * bend_x * np.sign(x), 0.0)
        outer = self._around(self._outer_folds, x, y, z_mm, np.maximum(depth + 0.5 * bend_y, 0.0))
        furrow = _distance_to_zero(outer, x, y) + np.maximum(depth - 17.0 - 4.0 * outer, 0.0) * 0.8
        if z_mm > 44.0:
            split = _split(y, z_mm)
            back = (y + 120.0) / _LATTICE_MM
            sides = [
                sample(self._plane(self._inner_folds[side], z_mm), back, mirrored / _LATTICE_MM) for side in (0, 1)
            ]
            medial = np.where(x > 0.0, sides[0], sides[1])
            inner = _distance_to_zero(medial, x, y) + np.maximum(mirrored - 14.0, 0.0) * 0.8 + 40.0 * (1.0 - split)
            furrow = np.minimum(furrow, inner)
            depth = np.minimum(depth, mirrored - 0.9 + 40.0 * (1.0 - split))
        if 40.0 < z_mm < 84.0:
            furrow = np.minimum(furrow, _sylvian(mirrored, y, z_mm))
        hu = np.full(x.shape, WHITE_HU, dtype=np.float32)
        paint(hu, inside(np.minimum(depth, furrow) - 3.4, 1.6), GREY_HU)
        opening = 0.75 - 0.035 * np.maximum(depth, 0.0)
        paint(hu, 0.85 * inside(furrow - opening, 1.3), CSF_HU)
        paint(hu, inside(depth, 1.4), CSF_HU)
        return hu


def _distance_to_zero(noise: Field, x: Field, y: Field) -> Field:
    """Return, nearly, how many millimetres a pixel is from where a field of noise changes its sign."""
    by_row, by_column = np.gradient(noise)
    step_mm = abs(float(x[0, 1] - x[0, 0]))
    steep = np.sqrt(by_row * by_row + by_column * by_column) / step_mm
    distance: Field = np.abs(noise) / np.maximum(steep, 0.06)
    return distance


def _cavity(x: Field, y: Field, z_mm: float) -> Field:
    """Return the signed distance to the inner table of the skull: vault and the three fossae of the base."""
    mirrored = np.abs(x)
    up = z_mm - 70.0
    # A head is wider behind than in front.
    broad = x / (1.0 + 0.07 * np.tanh(y / 40.0))
    vault = ellipsoid(broad, y - 1.0, up, (65.0, 82.0, 73.0 if up > 0 else 40.0))
    behind = ellipsoid(x, y - 40.0, z_mm - 34.0, (52.0, 38.0, 38.0))
    middle = ellipsoid(mirrored - 38.0, y + 15.0, z_mm - 40.0, (23.0, 29.0, 23.0))
    front = ellipsoid(x, y + 38.0, z_mm - 62.0, (54.0, 43.0, 25.0))
    cavity = join(join(vault, behind, 8.0), join(middle, front, 4.0), 6.0)
    if z_mm < 6.0:  # the spinal canal goes on below
        canal = ellipse(x, y - 30.0, 11.0, 13.0)
        cavity = np.minimum(cavity, canal)
    return cavity


def _split(y: Field, z_mm: float) -> Field:
    """Say where the hemispheres are apart: everywhere but at the corpus callosum and the brain stem."""
    bridge_start, bridge_end = (-33.0, 38.0) if z_mm > 64.0 else (-22.0, 60.0)
    if z_mm > 90.0:
        return np.ones_like(y)
    return 1.0 - inside(np.maximum(bridge_start - y, y - bridge_end), 2.0)


def _sylvian(mirrored: Field, y: Field, z_mm: float) -> Field:
    """Return the distance to the lateral fissure and the insula behind it."""
    away = abs(z_mm - 62.0) * 0.25 - 3.0
    lift = (z_mm - 60.0) * 0.5
    stem = capsule(mirrored, y, 0.0, (66.0, -12.0 + lift, 0.0, 0.8), (41.0, -7.0 + lift, 0.0, 0.8))
    insula = capsule(mirrored, y, 0.0, (36.0, -22.0 + lift, 0.0, 0.6), (42.0, 0.0 + lift, 0.0, 1.0))
    back = capsule(mirrored, y, 0.0, (42.0, 0.0 + lift, 0.0, 1.0), (40.0, 20.0 + lift, 0.0, 0.3))
    distance: Field = np.minimum(np.minimum(stem, insula), back) + max(away, 0.0)
    return np.maximum(distance, 0.0)


def _paint_outside(hu: Field, x: Field, y: Field, z_mm: float, cavity: Field, lumps: Field) -> Field:
    """Paint scalp and vault; the face and the base of the skull come later. Return the distance to the skin."""
    # Above the ears the skin follows the skull; below, face and neck fill the shape up.
    skin = cavity - 13.5
    if z_mm < 66.0:
        face_y = -26.0 - 0.05 * z_mm
        narrow = 8.0 * max(0.0, (z_mm - 40.0) / 26.0)
        face = ellipse(x, y - face_y, 66.0 - narrow, 70.0 - narrow - 0.05 * max(0.0, -z_mm))
        nape = ellipse(x, y - 36.0, 60.0 - narrow, 56.0 - narrow)
        lower = join(face, nape, 20.0)
        skin = join(skin, lower, 8.0) if z_mm > 0.0 else lower
        if z_mm < 40.0:
            nose = capsule(x, y, z_mm, (0.0, -90.0, 38.0, 5.0), (0.0, -102.0, 0.0, 10.0))
            skin = join(skin, nose, 12.0)
            ear = ellipsoid(np.abs(x) - 70.0 - 0.12 * (y - 10.0), y - 22.0, z_mm - 18.0, (3.2, 15.0, 27.0))
            skin = join(skin, ear, 2.0)
    paint(hu, inside(skin), SOFT_HU)
    paint(hu, inside(np.maximum(skin + 2.0, -skin - 7.5)), FAT_HU + 25.0)
    thickness = 5.2 + 0.8 * lumps * np.clip(np.hypot(x, y) / 50.0, 0.0, 1.0) ** 2 + 1.2 * np.cos(np.arctan2(x, y)) ** 2
    muscle = inside(skin + 7.5)
    paint(hu, muscle * inside(cavity - 11.0, 3.0), SOFT_HU + 6.0)
    if z_mm > -16.0:
        paint(hu, inside(np.maximum(cavity - thickness, -cavity)), BONE_HU)
        spongy = np.maximum(np.abs(cavity - thickness * 0.5) - thickness * 0.5 + 2.3, 44.0 - z_mm)
        paint(hu, inside(spongy, 1.6), DIPLOE_HU)
    return skin


def _paint_deep_grey(hu: Field, mirrored: Field, y: Field, z_mm: float) -> None:
    """Paint caudate, lentiform nucleus and thalamus; what they leave between them is the internal capsule."""
    caudate = ellipsoid(mirrored - 12.5, y + 24.0, z_mm - 70.0, (5.0, 8.5, 14.0))
    tail = capsule(mirrored, y, z_mm, (14.0, -16.0, 80.0, 3.0), (19.0, 12.0, 86.0, 1.8))
    turned = rotated(mirrored - 24.0, y + 1.0, 16.0)
    lentiform = ellipsoid(*turned, z_mm - 65.0, (7.0, 18.0, 12.0))
    thalamus = ellipsoid(*rotated(mirrored - 11.0, y - 15.0, -24.0), z_mm - 68.0, (8.0, 14.0, 12.0))
    for shape in (caudate, tail, lentiform, thalamus):
        paint(hu, inside(shape, 1.6), GREY_HU + 0.5)


def _paint_fluid(hu: Field, x: Field, mirrored: Field, y: Field, z_mm: float, lumps: Field) -> None:
    """Paint ventricles, choroid plexus and the pineal gland."""
    for start, end in _VENTRICLES:
        reach = max(start[3], end[3]) + 2.0
        if min(start[2], end[2]) - reach < z_mm < max(start[2], end[2]) + reach:
            paint(hu, inside(capsule(mirrored, y, z_mm, start, end) + 0.5 * lumps, 1.4), CSF_HU)
    if 48.0 < z_mm < 74.0:
        third = np.maximum(ellipse(x, y - 6.0, 2.1, 15.0), abs(z_mm - 61.0) - 9.0)
        paint(hu, inside(third, 1.4), CSF_HU)
    plexus = ellipsoid(mirrored - 23.0, y - 36.0, z_mm - 72.0, (2.6, 4.0, 4.0))
    paint(hu, inside(plexus, 1.5), 190.0)
    pineal = ellipsoid(x, y - 27.0, z_mm - 62.0, (2.2, 2.6, 3.0))
    paint(hu, inside(pineal, 1.5), 160.0)
    if 44.0 < z_mm < 64.0:  # quadrigeminal and ambient cisterns around the midbrain
        ring = np.maximum(np.abs(ellipse(x, y - 14.0, 18.5, 17.0)) - 1.5, 4.0 - y)
        paint(hu, inside(ring + max(0.0, (z_mm - 58.0) * 0.5), 1.4), CSF_HU)
        wing = ellipse(mirrored - 9.0, y - 32.0 - 0.15 * mirrored, 10.0, 3.2)
        paint(hu, inside(wing + abs(z_mm - 56.0) * 0.3, 1.4), CSF_HU)


def _paint_hindbrain(hu: Field, mirrored: Field, y: Field, z_mm: float, cavity: Field, lumps: Field) -> None:
    """Paint cerebellum, brain stem and the cisterns around them, below the tentorium."""
    if z_mm > 58.0:
        return
    rise = float(np.clip((z_mm - 30.0) / 26.0, 0.0, 1.0))
    tent = np.maximum(mirrored * 0.62 + 18.0 + 34.0 * rise - y, -60.0)
    below = np.maximum(tent, cavity + 1.8)
    if 2.0 < z_mm < 46.0:
        leaves = 33.5 + 2.2 * np.sin((np.hypot(mirrored, (y - 20.0) * 1.3) + 2.0 * lumps) * 1.55)
        fossa = np.maximum(ellipsoid(mirrored, y - 40.0, z_mm - 34.0, (52.0, 38.0, 38.0)) + 1.8, cavity + 1.8)
        if z_mm < 36.0:
            below = np.minimum(below, fossa)
        paint(hu, inside(below - 1.8, 1.4), CSF_HU)
        paint(hu, inside(below, 1.4), leaves)
        paint(hu, inside(ellipsoid(mirrored - 17.0, y - 42.0, z_mm - 26.0, (11.0, 8.0, 12.0)), 6.0), WHITE_HU + 1.0)
        vermis = np.maximum(ellipse(mirrored, y - 54.0, 5.0, 20.0), below)
        paint(hu, inside(vermis, 2.0), GREY_HU)
    if z_mm < 16.0:
        stem, cistern = ellipse(mirrored, y - 26.0, 8.5, 7.0), ellipse(mirrored, y - 24.0, 15.0, 11.0)
    elif z_mm < 43.0:
        stem, cistern = ellipse(mirrored, y - 17.5, 16.0, 12.0), ellipse(mirrored, y - 12.0, 21.0, 15.0)
        cistern = np.maximum(cistern, y - 19.0)
    else:
        stem = join(ellipse(mirrored, y - 17.0, 13.0, 9.0), ellipse(mirrored - 8.0, y - 7.0, 6.0, 8.0), 3.0)
        cistern = ellipse(mirrored, y - 12.0, 18.0, 17.0)
    if z_mm < 54.0:
        paint(hu, inside(np.maximum(cistern, cavity + 0.5), 1.6), CSF_HU + 2.0)
        paint(hu, inside(stem, 1.6), 31.5)
    if 36.0 < z_mm < 52.0:  # the star-shaped suprasellar cistern
        star = ellipse(mirrored, y + 8.0, 11.0, 10.0) - 4.0 * np.cos(5.0 * np.arctan2(mirrored, -(y + 8.0)))
        paint(hu, inside(star + abs(z_mm - 44.0) * 0.6, 1.6), CSF_HU)
    if 16.0 < z_mm < 38.0:
        fourth = ellipsoid(mirrored, y - 34.0, z_mm - 27.0, (7.5, 4.5, 11.0))
        paint(hu, inside(fourth, 1.6), CSF_HU)


def _paint_membranes(
    hu: Field,
    straight: Field,
    x: Field,
    mirrored: Field,
    y: Field,
    z_mm: float,
    cavity: Field,
) -> None:
    """Paint falx, tentorium and the venous sinuses: slightly denser than the brain."""
    if z_mm > 52.0:
        front = y + 30.0 if z_mm < 92.0 else np.full_like(y, -1.0)
        behind = 44.0 - y if z_mm < 92.0 else np.full_like(y, -1.0)
        falx = np.maximum(np.abs(x) - 0.7, np.minimum(front, behind))
        paint(hu, 0.75 * inside(np.maximum(falx, cavity), 1.0), DURA_HU + 6.0)
    if z_mm > 40.0:
        sinus = ellipse(straight, y - float(_back_of(y, cavity, straight)) + 4.0, 5.0, 4.5)
        paint(hu, inside(np.maximum(sinus, cavity), 1.2), DURA_HU)
    if 34.0 < z_mm < 60.0:
        rise = float(np.clip((z_mm - 30.0) / 26.0, 0.0, 1.0))
        tent = np.abs(mirrored * 0.62 + 18.0 + 34.0 * rise - y) - 0.6
        tent = np.maximum(np.maximum(tent, cavity), 12.0 - mirrored)
        paint(hu, 0.6 * inside(tent, 1.2), DURA_HU)


def _back_of(y: Field, cavity: Field, x: Field) -> float:
    """Return how far back the cavity reaches in the midline."""
    column = int(np.argmin(np.abs(x[0])))
    rows = np.flatnonzero(cavity[:, column] < 0.0)
    return float(y[rows[-1], column]) if rows.size else 0.0


def _paint_bleed(hu: Field, x: Field, y: Field, z_mm: float, bleed: Bleed, lumps: Field) -> None:
    dz = z_mm - bleed.z_mm
    if abs(dz) > bleed.radii_mm[2] + 12.0:
        return
    turned = rotated(x - bleed.x_mm, y - bleed.y_mm, -14.0)
    shape = ellipsoid(*turned, dz, bleed.radii_mm)
    lobe = ellipsoid(turned[0] + 3.0, turned[1] - 12.0, dz + 2.0, (8.0, 10.0, 9.0))
    ripple = np.sin(turned[1] * 0.3 + 1.0) * np.cos(turned[0] * 0.36 + dz * 0.2)
    blood = join(shape, lobe, 6.0) + 1.6 * ripple + 1.0 * lumps
    paint(hu, 0.9 * inside(blood - 5.5, 4.0), OEDEMA_HU)
    paint(hu, inside(blood, 1.8), BLOOD_HU + 2.5 * np.sin(turned[0] * 0.35 + turned[1] * 0.23))
