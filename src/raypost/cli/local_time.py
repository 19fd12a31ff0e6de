"""Instants as people read them: in the site's time zone. JSON keeps UTC."""

from __future__ import annotations

from datetime import datetime, tzinfo


def local_text(instant: str | datetime | None, zone: tzinfo, *, absent: str = "") -> str:
    """Write an instant with its day and the zone's short name: 2026-11-24 04:00:07 CET.

    Args:
        instant: With a time zone; as a text in ISO 8601.
        absent: What is written for None.
    """
    return absent if instant is None else f"{_local(instant, zone):%Y-%m-%d %H:%M:%S %Z}"


def minute_text(instant: str | datetime, zone: tzinfo) -> str:
    """Write an instant to the minute, for lists: 2026-11-24 04:00."""
    return f"{_local(instant, zone):%Y-%m-%d %H:%M}"


def day_text(instant: str | datetime, zone: tzinfo) -> str:
    """Write the day alone: 2026-11-24."""
    return f"{_local(instant, zone):%Y-%m-%d}"


def clock_text(instant: str | datetime | None, zone: tzinfo) -> str:
    """Write the time of day to a tenth of a second, as an emergency is measured in seconds: 04:00:07.2."""
    if instant is None:
        return ""
    at = _local(instant, zone)
    return f"{at:%H:%M:%S}.{at.microsecond // 100_000}"


def zone_text(instant: str | datetime, zone: tzinfo) -> str:
    """Write the short name of the zone as it is at an instant: CET, or CEST in summer."""
    return f"{_local(instant, zone):%Z}"


def _local(instant: str | datetime, zone: tzinfo) -> datetime:
    at = datetime.fromisoformat(instant) if isinstance(instant, str) else instant
    return at.astimezone(zone)
