"""When each modality last sent something: a scanner that fell silent is found before a patient needs it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from raypost.archive import events
from raypost.archive.database import Transaction
from raypost.archive.tables import ScannerRow
from raypost.model.audit import EventKind, Level


def note_image(tx: Transaction, ae_title: str, host: str, now: datetime) -> None:
    """Note that a modality sent an image; a silence that was told is over."""
    values = {"host": host, "last_image_at": now, "told_at": None}
    tx.execute(
        insert(ScannerRow)
        .values(ae_title=ae_title, **values)
        .on_conflict_do_update(index_elements=["ae_title"], set_=values)
    )


def tell_silent(tx: Transaction, silent_after_s: Mapping[str, float], now: datetime) -> list[str]:
    """Record an event for each modality that has sent nothing for longer than it usually does; each silence once.

    Args:
        silent_after_s: By AE title, as the settings say; modalities that are not named may be silent.

    Returns:
        The AE titles that were told.
    """
    told = []
    for row in tx.scalars(sa.select(ScannerRow).order_by(ScannerRow.ae_title).with_for_update()):
        limit_s = silent_after_s.get(row.ae_title)
        if limit_s is None or row.told_at is not None or now - row.last_image_at < timedelta(seconds=limit_s):
            continue
        row.told_at = now
        last = row.last_image_at.isoformat(timespec="seconds")
        events.record(tx, now, EventKind.SCANNER_SILENT, level=Level.NOTICE, calling=row.ae_title, last_image_at=last)
        told.append(row.ae_title)
    return told


def all_scanners(tx: Transaction) -> list[dict[str, Any]]:
    """Return every modality that ever sent something, with the time of its last image."""
    return [
        {
            "ae_title": row.ae_title,
            "host": row.host,
            "last_image_at": row.last_image_at.isoformat(timespec="seconds"),
            "silent": row.told_at is not None,
        }
        for row in tx.scalars(sa.select(ScannerRow).order_by(ScannerRow.ae_title))
    ]
