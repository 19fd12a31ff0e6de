"""Sizes and durations for people's eyes; inside, everything is bytes and seconds."""

from __future__ import annotations


def size_text(count_bytes: int) -> str:
    """Write a size with the decimal prefixes of ISO 80000: 525 kB, 21.0 MB."""
    if count_bytes < 1000:
        return f"{count_bytes} B"
    value, unit = float(count_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"


def duration_text(seconds: float) -> str:
    """Write a duration: 0.4 s, 12 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
