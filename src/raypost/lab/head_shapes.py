"""Shapes the head phantom is made of: soft-edged solids in millimetres, and seeded noise; numpy alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]
"""One value a pixel."""

EDGE_MM = 1.0
"""Over how much an edge runs from nothing to all; about the resolution of a soft kernel."""


def inside(distance_mm: Field, edge_mm: float = EDGE_MM) -> Field:
    """Turn a signed distance (negative within) into a coverage from 0 to 1 with a soft edge."""
    covered: Field = np.clip(0.5 - distance_mm / edge_mm, 0.0, 1.0)
    return covered


def paint(hu: Field, coverage: Field, value: float | Field) -> None:
    """Lay a tissue over what is there, in place."""
    hu += coverage * (value - hu)


def ellipse(x: Field, y: Field, radius_x_mm: float, radius_y_mm: float) -> Field:
    """Return the signed distance, nearly, to an ellipse around the origin."""
    u, v = x / radius_x_mm, y / radius_y_mm
    k0 = np.sqrt(u * u + v * v)
    k1 = np.sqrt((u / radius_x_mm) ** 2 + (v / radius_y_mm) ** 2)
    distance: Field = k0 * (k0 - 1.0) / np.maximum(k1, 1e-4)
    return distance


def ellipsoid(x: Field, y: Field, z_mm: float, radii_mm: tuple[float, float, float]) -> Field:
    """Return the signed distance, nearly, to an ellipsoid around the origin, in the plane z."""
    u, v, w = x / radii_mm[0], y / radii_mm[1], z_mm / radii_mm[2]
    k0 = np.sqrt(u * u + v * v + w * w)
    k1 = np.sqrt((u / radii_mm[0]) ** 2 + (v / radii_mm[1]) ** 2 + (w / radii_mm[2]) ** 2)
    distance: Field = k0 * (k0 - 1.0) / np.maximum(k1, 1e-4)
    return distance


def capsule(
    x: Field,
    y: Field,
    z_mm: float,
    start: tuple[float, float, float, float],
    end: tuple[float, float, float, float],
) -> Field:
    """Return the signed distance to a rod with round ends; each end is x, y, z and radius."""
    dx, dy, dz = (b - a for a, b in zip(start[:3], end[:3], strict=True))
    px, py, pz = x - start[0], y - start[1], z_mm - start[2]
    along = np.clip((px * dx + py * dy + pz * dz) / (dx * dx + dy * dy + dz * dz), 0.0, 1.0)
    off = np.sqrt((px - along * dx) ** 2 + (py - along * dy) ** 2 + (pz - along * dz) ** 2)
    distance: Field = off - (start[3] + along * (end[3] - start[3]))
    return distance


def rotated(x: Field, y: Field, degrees: float) -> tuple[Field, Field]:
    """Return the coordinates in a frame turned by an angle."""
    c, s = float(np.cos(np.radians(degrees))), float(np.sin(np.radians(degrees)))
    return x * c + y * s, y * c - x * s


def join(first: Field, second: Field, smooth_mm: float) -> Field:
    """Unite two solids with a rounded seam."""
    blend = np.clip(0.5 + 0.5 * (second - first) / smooth_mm, 0.0, 1.0)
    joined: Field = second + (first - second) * blend - smooth_mm * blend * (1.0 - blend)
    return joined


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], lengths: tuple[float, ...]) -> Field:
    """Return Gaussian noise of variance 1 whose correlation length along each axis is given in samples; periodic."""
    spectrum = np.fft.rfftn(rng.standard_normal(shape, dtype=np.float32))
    for axis, (count, length) in enumerate(zip(shape, lengths, strict=True)):
        frequencies = np.fft.rfftfreq(count) if axis == len(shape) - 1 else np.fft.fftfreq(count)
        line = np.exp(-2.0 * (np.pi * frequencies * length) ** 2)
        spectrum *= line.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    noise = np.fft.irfftn(spectrum, s=shape, axes=tuple(range(len(shape)))).astype(np.float32)
    scaled: Field = noise / noise.std()
    return scaled


def sample(lattice: Field, rows: Field, columns: Field) -> Field:
    """Read a two-dimensional lattice between its points (bilinear); rows wrap around, columns end."""
    height, width = lattice.shape
    columns = np.clip(columns, 0.0, width - 1.001)
    row, column = np.floor(rows).astype(np.int32), columns.astype(np.int32)
    down, right = rows - row, columns - column
    above, below = (row % height) * width + column, ((row + 1) % height) * width + column
    flat = lattice.ravel()
    upper = flat[above] * (1.0 - right) + flat[above + 1] * right
    lower = flat[below] * (1.0 - right) + flat[below + 1] * right
    read: Field = (upper * (1.0 - down) + lower * down).astype(np.float32)
    return read


def resampling(target_mm: Field, source_mm: Field, sigma_mm: float) -> Field:
    """Return the matrix that reads samples at one set of places from another, smoothed by a Gaussian."""
    weights = np.exp(-0.5 * ((target_mm[:, None] - source_mm[None, :]) / sigma_mm) ** 2)
    normalised: Field = (weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)).astype(np.float32)
    return normalised
