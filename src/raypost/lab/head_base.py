"""The base of the skull and the face of the head phantom; below it what a scout shows."""

from __future__ import annotations

import numpy as np

from raypost.lab.head_shapes import Field, capsule, ellipse, ellipsoid, inside, paint, rotated

_AIR, _FAT, _SOFT, _BONE = -1000.0, -95.0, 52.0, 1150.0


def paint_base(hu: Field, x: Field, y: Field, z_mm: float, cavity: Field, skin: Field, grain: Field) -> None:
    """Paint everything outside the brain that is not vault or scalp, in place.

    Args:
        cavity: Signed distance to the inner table.
        skin: Signed distance to the skin.
        grain: Noise for the fine trabeculae and air cells.
    """
    mirrored = np.abs(x)
    if z_mm < 64.0:
        outside = inside(-cavity)
        if z_mm > -6.0:
            _paint_soft(hu, mirrored, y, z_mm, outside * inside(skin + 6.0, 2.0))
            _paint_middle(hu, mirrored, y, z_mm, outside, grain)
            _paint_orbits(hu, mirrored, y, z_mm, outside)
        _paint_nose(hu, x, mirrored, y, z_mm, grain, outside)
    if z_mm < 8.0:
        _paint_jaw_and_neck(hu, x, mirrored, y, z_mm)


def _wall(hu: Field, shape: Field, outside: Field, content: float, thickness_mm: float, bone: float = _BONE) -> None:
    """Paint a hollow with a thin wall of bone."""
    paint(hu, inside(shape - thickness_mm, 0.9) * outside, bone)
    paint(hu, inside(shape, 0.9) * outside, content)


def _paint_middle(hu: Field, mirrored: Field, y: Field, z_mm: float, outside: Field, grain: Field) -> None:
    """Paint petrous pyramids with their air cells, clivus, sphenoid wings, temporal muscle and cheek bone."""
    if z_mm < 42.0:
        away = abs(z_mm - 22.0)
        petrous = capsule(mirrored, y, z_mm, (60.0, 27.0, 20.0, 13.0), (15.0, 2.0, 25.0, 6.5))
        paint(hu, inside(petrous, 1.2), 1000.0 + 260.0 * np.clip(grain, -1.5, 1.5))
        cells = ellipsoid(mirrored - 60.0, y - 31.0, z_mm - 17.0, (9.0, 12.0, 17.0))
        airy = inside(cells, 2.0) * (grain > -0.25)
        paint(hu, airy, -650.0)
        meatus = capsule(mirrored, y, z_mm, (84.0, 16.0, 18.0, 3.4), (56.0, 14.0, 20.0, 3.0))
        paint(hu, inside(meatus, 1.0), _AIR)
        cochlea = ellipsoid(mirrored - 37.0, y - 12.0, z_mm - 22.0, (3.0, 4.0, 3.0))
        paint(hu, inside(cochlea, 1.2), 250.0)
        if away < 12.0:
            clivus = ellipse(mirrored, y - 4.0 + 0.25 * (z_mm - 22.0), 12.0, 6.0)
            paint(hu, inside(clivus, 1.2) * outside, 620.0 + 120.0 * np.clip(grain, -1.0, 1.0))
    if 10.0 < z_mm < 48.0:  # greater wing: from the orbit's tip backwards and outwards
        wing = capsule(mirrored, y, z_mm, (16.0, -26.0, 34.0, 3.2), (56.0, -44.0, 30.0, 3.0))
        paint(hu, inside(wing, 1.2) * outside, _BONE)
        dorsum = ellipsoid(mirrored, y + 1.0, z_mm - 36.0, (9.0, 2.5, 7.0))
        paint(hu, inside(dorsum, 1.2), 800.0)
    if -6.0 < z_mm < 30.0:
        cheek = capsule(mirrored, y, z_mm, (50.0, -70.0, 8.0, 4.5), (66.0, -40.0, 4.0, 3.0))
        arch = capsule(mirrored, y, z_mm, (66.0, -40.0, 4.0, 3.0), (70.0, -4.0, 8.0, 2.6))
        paint(hu, inside(np.minimum(cheek, arch), 1.2), _BONE)
        condyle = ellipsoid(mirrored - 50.0, y + 2.0, z_mm - 2.0, (9.0, 5.0, 10.0))
        paint(hu, inside(condyle, 1.2), 900.0)


def _paint_soft(hu: Field, mirrored: Field, y: Field, z_mm: float, within: Field) -> None:
    """Paint muscles with the fat between them, where there is no bone yet."""
    soft = within * (hu < 250.0)
    paint(hu, soft * inside(np.maximum(24.0 - mirrored, y - 12.0), 6.0), _FAT + 25.0)
    temporal = ellipsoid(mirrored - 60.0, y + 30.0, z_mm - 36.0, (11.0, 25.0, 36.0))
    masseter = ellipsoid(mirrored - 60.0, y + 34.0, z_mm + 14.0, (8.0, 18.0, 30.0))
    pterygoid = ellipsoid(*rotated(mirrored - 38.0, y + 22.0, 30.0), z_mm + 8.0, (9.0, 18.0, 20.0))
    for muscle in (temporal, masseter, pterygoid):
        paint(hu, soft * inside(muscle, 2.0), 58.0)
    if z_mm < 14.0:  # the nape: layers of muscle
        layer = np.abs(np.mod(np.hypot(mirrored * 0.8, y - 10.0), 15.0) - 7.5) - 1.2
        paint(hu, soft * inside(np.maximum(np.maximum(layer, 40.0 - y), mirrored - 46.0), 1.5), _FAT + 40.0)
        paint(hu, soft * inside(np.maximum(mirrored - 1.0, 50.0 - y), 1.5), _FAT + 40.0)


def _paint_orbits(hu: Field, mirrored: Field, y: Field, z_mm: float, outside: Field) -> None:
    """Paint the orbits: fat, globe with lens, optic nerve and muscles, and the bone around them."""
    if not 2.0 < z_mm < 47.0:
        return
    dz = z_mm - 24.0
    open_angle = 24.0
    u, v = rotated(mirrored - 30.0, y + 56.0, open_angle)
    cone = ellipsoid(u, v, dz, (15.5, 33.0, 19.5))
    cone = np.maximum(cone, -(y + 88.0 - 0.12 * mirrored))
    paint(hu, inside(cone - 2.4, 1.0) * outside, _BONE)
    paint(hu, inside(cone, 1.2) * outside, _FAT)
    eye_x, eye_y = 31.5, -73.0
    for start, end in (((20.0, -70.0), (13.0, -31.0)), ((42.0, -64.0), (20.0, -30.0))):
        muscle = capsule(mirrored, y, z_mm, (*start, 24.0, 1.6), (*end, 25.0, 1.8))
        paint(hu, inside(muscle, 1.2), _SOFT)
    for height in (33.5, 14.5):
        muscle = capsule(mirrored, y, z_mm, (30.0, -68.0, height, 2.4), (16.0, -32.0, 26.0, 2.0))
        paint(hu, inside(muscle, 1.4), _SOFT)
    nerve = capsule(mirrored, y, z_mm, (30.0, -61.0, 24.0, 2.0), (15.0, -28.0, 27.0, 2.2))
    paint(hu, inside(nerve, 1.2), 34.0)
    globe = ellipsoid(mirrored - eye_x, y - eye_y, dz, (12.2, 12.4, 12.2))
    paint(hu, inside(globe, 1.0), 50.0)
    paint(hu, inside(globe + 1.4, 1.0), 9.0)
    lens = ellipsoid(mirrored - eye_x - 0.5, y - eye_y + 8.6, dz, (4.6, 2.0, 4.6))
    paint(hu, inside(lens, 1.0), 82.0)


def _paint_nose(hu: Field, x: Field, mirrored: Field, y: Field, z_mm: float, grain: Field, outside: Field) -> None:
    """Paint the air-filled spaces: ethmoid cells, sphenoid, frontal and maxillary sinuses, nasal cavity, pharynx."""
    if 6.0 < z_mm < 42.0:
        cells = np.maximum(ellipse(mirrored, y + 58.0, 11.0 - 0.10 * abs(z_mm - 24.0), 25.0), abs(z_mm - 23.0) - 15.0)
        _wall(hu, cells, outside, _AIR, 1.2, 700.0)
        septa = np.minimum(np.abs(np.mod(y + 3.0 * grain, 9.0) - 4.5), np.abs(mirrored - 5.5 - 0.6 * grain)) - 0.35
        paint(hu, inside(np.maximum(cells, septa), 0.9) * outside, 250.0)
        paint(hu, inside(np.maximum(cells, mirrored - 0.6), 0.8) * outside, 500.0)
    sphenoid = ellipsoid(mirrored - 6.5, y + 17.0, z_mm - 22.0, (9.0, 12.0, 11.0))
    sphenoid = np.maximum(sphenoid, 0.7 - mirrored)
    _wall(hu, sphenoid, outside, _AIR, 1.8, 900.0)
    if 34.0 < z_mm < 63.0:
        height = (z_mm - 40.0) / 18.0
        wide = 19.0 * float(np.sqrt(max(0.0, 1.0 - max(height, -0.4) ** 2)))
        if wide > 3.0:
            frontal = ellipse(x - 2.0, y + 82.5 - 6.0 * max(0.0, height) ** 2, wide, 3.6)
            frontal = np.maximum(frontal, 0.5 - np.abs(x - 2.0))
            _wall(hu, frontal, outside, _AIR, 1.6, 1100.0)
    if z_mm < 10.0:
        antrum = ellipsoid(mirrored - 29.0, y + 58.0, z_mm + 12.0, (14.0, 18.0, 20.0))
        _wall(hu, antrum, outside, _AIR, 1.5, 850.0)
        if z_mm > -32.0:
            cavity = ellipse(mirrored, y + 62.0, 13.0, 28.0)
            _wall(hu, cavity, outside, _AIR, 1.2, 600.0)
            turbinate = ellipse(mirrored - 8.5, y + 60.0, 3.2, 17.0)
            paint(hu, inside(turbinate, 1.0), 45.0)
            paint(hu, inside(np.maximum(cavity, mirrored - 1.0), 0.9), 300.0)
    if z_mm < 4.0:
        pharynx = ellipse(x, y + 18.0, 12.0 - 0.03 * abs(z_mm), 8.0)
        paint(hu, inside(pharynx, 1.2), _AIR)


def _paint_jaw_and_neck(hu: Field, x: Field, mirrored: Field, y: Field, z_mm: float) -> None:
    """Paint mandible, palate, teeth and the cervical spine: seen on the scout only."""
    if z_mm < -2.0:
        ramus = capsule(mirrored, y, z_mm, (50.0, -4.0, 0.0, 5.0), (44.0, -22.0, -62.0, 6.0))
        paint(hu, inside(ramus, 1.4), _BONE)
    if -40.0 < z_mm < -28.0:
        palate = np.maximum(ellipse(x, y + 56.0, 24.0, 28.0), abs(z_mm + 33.0) - 2.0)
        paint(hu, inside(palate, 1.4), 900.0)
    if -58.0 < z_mm < -34.0:
        arch = np.maximum(np.abs(ellipse(x, y + 54.0, 26.0, 30.0)) - 3.5, y + 40.0)
        gap = 0.25 * np.abs(np.sin(np.arctan2(x, -(y + 44.0)) * 9.0))
        paint(hu, inside(arch, 1.4) * (1.0 - gap), 1700.0)
    if -80.0 < z_mm < -58.0:
        body = np.maximum(np.abs(ellipse(x, y + 42.0, 40.0, 40.0)) - 5.0, y + 20.0)
        paint(hu, inside(body, 1.4), 1300.0)
    if z_mm < -2.0:
        level = (-z_mm - 2.0) % 19.0
        curve = 8.0 * float(np.sin((-z_mm) / 60.0))
        if level < 15.0:
            vertebra = ellipse(x, y - 8.0 + curve, 12.0, 9.0)
            paint(hu, inside(vertebra, 1.4), 450.0 if 2.0 < level < 13.0 else 900.0)
            reach_mm = 12.0 if 3.0 < level < 11.0 else 4.0
            spine = ellipse(x, y - 42.0 - reach_mm + curve, 3.0, reach_mm)
            ring = np.abs(ellipse(x, y - 30.0 + curve, 14.0, 15.0)) - 2.0
            paint(hu, inside(np.minimum(spine, ring), 1.4), 800.0)
