"""After a recall: nodes in the house that were sent the images get a rejection note."""

from __future__ import annotations

from dataclasses import dataclass

from raypost.archive import cases, dicom_nodes, forwards, partners, recalls
from raypost.archive.cases import Origin
from raypost.archive.site import Archive
from raypost.dicom.jobs import EXAMINE
from raypost.dicom.rejection_note import RejectedInstance, RejectedStudy, write_rejection_note
from raypost.model.clock import Clock
from raypost.model.study import InstanceFacts
from raypost.sandbox.pool import Sandbox


@dataclass(frozen=True, slots=True)
class Reject:
    """Writes rejection notes. A note is an object of this site: it never enters the study that a partner sent."""

    archive: Archive
    sandbox: Sandbox
    clock: Clock

    def reject(self, transfer_id: int) -> None:
        """Write the note for a recalled transfer, file it, and order that it is sent after the images.

        Done again after a crash it makes the same note.

        Raises:
            TransientError: Disk or database; the job comes again.
        """
        now = self.clock.now()
        with self.archive.database.transaction() as tx:
            found = recalls.to_reject(tx, transfer_id)
        if found is None:
            return
        study = RejectedStudy(**found.study, why=found.why)
        instances = [RejectedInstance(*one) for one in found.instances]
        note = self.archive.spool.new_file("dcm")
        try:
            write_rejection_note(note, study, instances, found.transfer_key, found.recalled_at)
            facts = InstanceFacts.from_json(self.sandbox.run(EXAMINE, note, None, {"compress": False}))
            self.archive.blobs.adopt(note, facts.file_sha256)
        finally:
            note.unlink(missing_ok=True)
        with self.archive.database.transaction() as tx:
            own = partners.own_site(tx)
            filed = cases.file_instance(tx, facts, Origin(own.site_id, is_test=found.is_test), now)
            cases.note_routed(tx, filed.instance_id, now)
            recalls.hide_note(tx, filed.case_id, now)
            in_force = {node.name: node for node in dicom_nodes.all_nodes(tx)}
            for name in found.nodes:
                if name in in_force:
                    forwards.order(tx, filed.instance_id, in_force[name], now)
