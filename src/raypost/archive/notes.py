"""Small messages of the other side, taken in once each: announce, recall, redirect, correct, opened, take, taken."""

from __future__ import annotations

from datetime import datetime

from raypost.archive import corrections, events, openings, recalls, receipted
from raypost.archive.database import Transaction
from raypost.archive.tables import TransferRow
from raypost.model.audit import EventKind, Level
from raypost.model.transfer import TO_RECEIVER
from raypost.transfer import receiver
from raypost.transfer.control import (
    Announce,
    Correct,
    Opened,
    Recall,
    Recalled,
    Redirect,
    Take,
    Taken,
)
from raypost.transfer.receiver import ReceiverEvent, ReceiverState
from raypost.transfer.wire import identity_json

NoteMessage = Announce | Recall | Redirect | Correct | Opened | Take | Taken | Recalled


def take(tx: Transaction, transfer: TransferRow, message: NoteMessage, now: datetime) -> bool:
    """Take in a small message; False for one that came before: it is answered again and changes nothing."""
    is_new = receipted.note_known(tx, transfer, message.head.kind, message.head.number, now)
    if message.head.kind in TO_RECEIVER:
        transfer.news += 1  # the next receipt says that it was heard
    elif not is_new:
        openings.answer(tx, transfer, now)
    if not is_new:
        return False
    match message:
        case Announce():
            _announced(transfer, message)
        case Redirect():
            _redirected(tx, transfer, message, now)
        case Recall():
            recalls.take_recall(tx, transfer, message, now)
        case Recalled():
            recalls.take_answer(tx, transfer, message, now)
        case Correct():
            corrections.take_correction(tx, transfer, message, now)
        case Opened():
            openings.take_opened(tx, transfer, message, now)
        case Take():
            openings.take_request(tx, transfer, message, now)
        case Taken():
            receipted.note_heard(tx, transfer, message.heard, now)
            openings.take_answer(tx, transfer, message, now)
    return True


def _announced(transfer: TransferRow, message: Announce) -> None:
    """Keep what the latest announcement says."""
    if message.head.number >= int((transfer.announced or {}).get("number", 0)):
        transfer.announced = (transfer.announced or {}) | {
            "number": message.head.number,
            "identity": identity_json(message.identity),
            "study_description": message.study_description,
            "modality": message.modality,
            "body_part": message.body_part,
            "instances": message.instances,
        }


def _redirected(tx: Transaction, transfer: TransferRow, message: Redirect, now: datetime) -> None:
    transfer.state = receiver.fire(ReceiverState(transfer.state), ReceiverEvent.REDIRECTED).value
    transfer.why = message.why
    events.record(tx, now, EventKind.TRANSFER_REDIRECTED, level=Level.NOTICE, transfer=transfer, to=message.to_name)
