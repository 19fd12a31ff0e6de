"""The Storage SCU: asks a node whether it is there, and sends it instances in a form it accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from raypost.dicom.part10 import META_SIZE_MAX_BYTES, split_meta
from raypost.dicom.requesting import CONTEXTS_MAX, DicomNode, RequestedAssociation
from raypost.dicom.transfer_syntaxes import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    LOSSLESS,
    NATIVE,
    transfer_syntax_name,
)
from raypost.errors import BadInputError, RefusedError, TransientError

__all__ = ["DicomNode", "StoreItem", "StoreResult", "echo", "store"]

VERIFICATION = "1.2.840.10008.1.1"
WARNING_MIN, WARNING_MAX = 0xB000, 0xBFFF
SUCCESS = 0x0000

_OFFERED = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
_CONVERTIBLE = LOSSLESS | NATIVE


@dataclass(frozen=True, slots=True)
class StoreItem:
    """One instance to be sent: a Part 10 file and what stands in its meta group."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True)
class StoreResult:
    """What became of one instance.

    Attributes:
        dimse_status: The peer's answer (PS3.4, B.2.3); None when it was not sent.
        transfer_syntax_uid: In which it was sent; '' when it was not.
        problem: Why it was not sent, naming the presentation context the peer refused; '' otherwise.
    """

    item: StoreItem
    dimse_status: int | None
    transfer_syntax_uid: str = ""
    problem: str = ""

    @property
    def is_stored(self) -> bool:
        """Whether the peer has it: success, or one of the warnings, which say that it changed something."""
        found = self.dimse_status
        return found is not None and (found == SUCCESS or WARNING_MIN <= found <= WARNING_MAX)


Convert = Callable[[StoreItem, str], Path]
"""Makes the file of an item in a native transfer syntax and returns its path; the SCU removes it after sending."""


def echo(node: DicomNode) -> None:
    """Send a C-ECHO.

    Raises:
        UnreachableError: The node does not answer.
        RefusedError: It rejects us, or C-ECHO, or answers with a failure.
    """
    with RequestedAssociation(node, [(VERIFICATION, IMPLICIT_VR_LITTLE_ENDIAN)]) as association:
        context_id = association.accepted.get((VERIFICATION, IMPLICIT_VR_LITTLE_ENDIAN))
        if context_id is None:
            raise RefusedError(f"{node.name} does not support C-ECHO")
        dimse_status = association.echo(context_id, VERIFICATION)
        if dimse_status != SUCCESS:
            raise RefusedError(f"{node.name} answers C-ECHO with {dimse_status:04X}H", peer_code=dimse_status)


def store(node: DicomNode, files: Sequence[StoreItem], convert: Convert) -> Iterator[StoreResult]:
    """Send instances and yield what became of each, in order of their SOP classes.

    One association, or several one after the other when more than 128 presentation contexts are needed. For each SOP
    class the syntaxes of its files and both native ones are proposed in contexts of their own, so that the peer says
    of each whether it takes it. A file goes as it is when its syntax was accepted, else converted.

    Args:
        node: Where to.
        files: What.
        convert: See `Convert`; a `BadInputError` of it becomes the item's problem.

    Raises:
        UnreachableError: The node does not answer (any more); what was yielded before stands, the rest was not stored
            or may have been: it is sent again.
        RefusedError: The node rejects the association for good.
    """
    for items, proposals in _associations(files):
        with RequestedAssociation(node, proposals) as association:
            for item in items:
                yield _store_one(association, item, convert)


def _associations(files: Sequence[StoreItem]) -> Iterator[tuple[list[StoreItem], list[tuple[str, str]]]]:
    """Yield as many items as fit into one association, with the contexts to propose for them."""
    items: list[StoreItem] = []
    proposals: list[tuple[str, str]] = []
    for sop_class_uid in dict.fromkeys(item.sop_class_uid for item in files):
        of_class = [item for item in files if item.sop_class_uid == sop_class_uid]
        own = dict.fromkeys(item.transfer_syntax_uid for item in of_class)
        syntaxes = [*dict.fromkeys([*own, *_OFFERED])]
        syntaxes = [one for one in syntaxes if one != DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN]
        wanted = [(sop_class_uid, syntax) for syntax in syntaxes]
        if items and len(proposals) + len(wanted) > CONTEXTS_MAX:
            yield items, proposals
            items, proposals = [], []
        items += of_class
        proposals += wanted
    if items:
        yield items, proposals


def _store_one(association: RequestedAssociation, item: StoreItem, convert: Convert) -> StoreResult:
    candidates = [item.transfer_syntax_uid]
    if item.transfer_syntax_uid in _CONVERTIBLE:
        candidates += _OFFERED
    for syntax in candidates:
        context_id = association.accepted.get((item.sop_class_uid, syntax))
        if context_id is not None:
            break
    else:
        names = ", ".join(transfer_syntax_name(one) for one in dict.fromkeys(candidates))
        return StoreResult(item, None, problem=f"no presentation context accepted for this SOP class in {names}")
    path = item.path
    try:
        if syntax != item.transfer_syntax_uid:
            path = convert(item, syntax)
        offset = _data_set_offset(path, syntax)
        dimse_status = association.store(context_id, item.sop_class_uid, item.sop_instance_uid, path, offset)
    except BadInputError as error:
        return StoreResult(item, None, problem=error.what)
    finally:
        if path != item.path:
            path.unlink(missing_ok=True)
    return StoreResult(item, dimse_status, syntax)


def _data_set_offset(path: Path, transfer_syntax_uid: str) -> int:
    try:
        with path.open("rb") as file:
            head = file.read(2 * META_SIZE_MAX_BYTES)
    except OSError as error:
        raise TransientError(f"a file to be sent cannot be read: {error.strerror}") from error
    meta = split_meta(head)
    if meta.transfer_syntax_uid != transfer_syntax_uid:
        raise BadInputError("the file is not in the transfer syntax it is said to be in")
    return meta.data_set_offset
