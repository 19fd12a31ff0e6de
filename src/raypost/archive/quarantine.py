"""What could not be used: kept apart with the reason, for a person."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from raypost.archive import events
from raypost.archive.database import Transaction
from raypost.archive.keys import new_short_key
from raypost.archive.spool import Spool
from raypost.archive.tables import QuarantineRow, TransferRow
from raypost.errors import RaypostError, SecurityError
from raypost.model.audit import EventKind, Level


def put(
    tx: Transaction,
    spool: Spool,
    file: Path | None,
    error: RaypostError,
    *,
    source: str,
    origin: str,
    now: datetime,
    transfer: TransferRow | None = None,
    kind: EventKind = EventKind.QUARANTINED,
) -> str:
    """Put a file into quarantine and note why; return the key by which a person finds it.

    The file stays where it is, too: the caller removes it when this is committed.

    Args:
        file: None when there is nothing to keep, as with a mail that was too large to fetch.
        source: dicom or mail.
        origin: AE title and host, or relay; never patient data.
    """
    name, size_bytes = "", 0
    if file is not None and file.exists():
        size_bytes = file.stat().st_size
        name = spool.keep_also(file, "quarantine")
    row = QuarantineRow(
        quarantine_key=new_short_key(),
        source=source,
        code=error.code,
        what=error.what,
        origin=origin,
        quarantine_file=name,
        size_bytes=size_bytes,
        put_at=now,
        transfer_id=transfer.id if transfer is not None else None,
    )
    tx.add(row)
    level = Level.ALARM if isinstance(error, SecurityError) else Level.NOTICE
    events.record(
        tx,
        now,
        kind,
        level=level,
        transfer=transfer,
        source=source,
        code=error.code,
        what=error.what,
        origin=origin,
        quarantine=row.quarantine_key,
    )
    return row.quarantine_key
