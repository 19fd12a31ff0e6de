"""10 DICOM on to workstations and archives in the house: in the form each node accepts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from raypost.archive import dicom_nodes, events, forwards
from raypost.archive.dicom_nodes import Node
from raypost.archive.forwards import ToForward
from raypost.archive.site import Archive
from raypost.dicom.jobs import NATIVE
from raypost.dicom.scu import DicomNode, StoreItem, StoreResult, store
from raypost.errors import RefusedError, TransientError
from raypost.model.audit import EventKind, Level
from raypost.model.clock import Clock
from raypost.sandbox.pool import Sandbox

RETRY_FIRST_S = 5.0
RETRY_MAX_S = 600.0
DIMSE_OUT_OF_RESOURCES = range(0xA700, 0xA800)
"""PS3.4, B.2.3: the node may take it later."""


@dataclass(frozen=True, slots=True)
class Forward:
    """Sends filed instances on by C-STORE."""

    archive: Archive
    sandbox: Sandbox
    clock: Clock
    calling_ae_title: str

    def forward(self, node_id: int) -> None:
        """Send everything that waits for a node; one association at a time to each."""
        is_left = True
        while is_left:
            with self.archive.database.exclusive(f"forward:{node_id}") as is_mine:
                if not is_mine:
                    return
                while self._forward_batch(node_id):
                    pass
            with self.archive.database.transaction() as tx:
                is_left = bool(forwards.waiting(tx, node_id, self.clock.now()))

    def _forward_batch(self, node_id: int) -> bool:
        """Send one batch; False when nothing waits or the node does not answer."""
        with self.archive.database.transaction() as tx:
            node = dicom_nodes.node_in_force(tx, node_id)
            if node is None:
                dicom_nodes.settle_retired(tx, node_id, self.clock.now())
            waiting = forwards.waiting(tx, node_id, self.clock.now())
        if node is None or not waiting:
            return False
        by_path = {self.archive.blobs.path(one.sha256): one for one in waiting}
        items = [
            StoreItem(path, one.sop_class_uid, one.sop_instance_uid, one.transfer_syntax_uid)
            for path, one in by_path.items()
        ]
        peer = DicomNode(
            name=node.name,
            ae_title=node.ae_title,
            host=node.host,
            port=node.port,
            calling_ae_title=self.calling_ae_title,
        )
        left = dict(by_path)
        try:
            for result in store(peer, items, self._convert):
                self._note(node, left.pop(result.item.path), result)
        except TransientError as error:
            self._defer(node, list(left.values()), error.what)
            return False
        except RefusedError as error:
            self._defer(node, list(left.values()), error.what, level=Level.ALARM)
            return False
        return True

    def _convert(self, item: StoreItem, transfer_syntax_uid: str) -> Path:
        target = self.archive.spool.new_file("dcm")
        self.sandbox.run(NATIVE, item.path, target, {"transfer_syntax_uid": transfer_syntax_uid})
        return target

    def _note(self, node: Node, one: ToForward, result: StoreResult) -> None:
        now = self.clock.now()
        if result.dimse_status is not None and result.dimse_status in DIMSE_OUT_OF_RESOURCES:
            self._defer(node, [one], f"{node.name} is out of resources ({result.dimse_status:04X}H)")
            return
        with self.archive.database.transaction() as tx:
            if result.is_stored:
                forwards.note_sent(tx, one.forward_id, node.node_id, now)
                events.record(tx, now, EventKind.FORWARDED, case_id=one.case_id, node=node.name)
                return
            said = result.problem or f"{node.name} answers C-STORE with {result.dimse_status or 0:04X}H"
            if not forwards.note_refused(tx, one.forward_id, node.node_id, said):
                return
            events.record(
                tx,
                now,
                EventKind.FORWARD_REFUSED,
                level=Level.ALARM,
                case_id=one.case_id,
                node=node.name,
                said=said[:200],
            )

    def _defer(self, node: Node, left: list[ToForward], said: str, level: Level = Level.NOTICE) -> None:
        now = self.clock.now()
        with self.archive.database.transaction() as tx:
            for one in left:
                wait_s = min(RETRY_FIRST_S * 2 ** min(one.tries, 16), RETRY_MAX_S)
                forwards.note_deferred(tx, one.forward_id, node.node_id, said, now + timedelta(seconds=wait_s))
            events.record(
                tx, now, EventKind.FORWARD_DEFERRED, level=level, node=node.name, instances=len(left), said=said[:200]
            )
