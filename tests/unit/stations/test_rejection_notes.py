"""After a recall, nodes in the house that were sent the images are told by a rejection note."""

import pydicom

from raypost.archive import dicom_nodes, forwards, recalls, search, transfers
from raypost.archive.dicom_nodes import Node
from raypost.archive.rearm import rearm
from raypost.dicom.rejection_note import KEY_OBJECT_SELECTION
from raypost.stations.reject import Reject


def test_a_node_that_was_sent_the_images_gets_the_note(neustadt, ludwigshafen, postman, head) -> None:
    for file in head:
        neustadt.receive(file)
    postman.run()
    postman.pass_time(60)
    now = ludwigshafen.clock.now()
    with ludwigshafen.archive.database.transaction() as tx:
        node = dicom_nodes.add_node(tx, Node(0, "pacs", "PACS", "127.0.0.1", 104), now=now, who="test")
    instances = [row[0] for row in ludwigshafen.rows("select id from rp_instance order by id")]
    with ludwigshafen.archive.database.transaction() as tx:
        for instance_id in instances:
            forwards.order(tx, instance_id, node, now)
        sent = forwards.waiting(tx, node.node_id, now)
        for one in sent[:4]:
            forwards.note_sent(tx, one.forward_id, node.node_id, now)
    with neustadt.archive.database.transaction() as tx:
        row = transfers.lock(tx, neustadt.scalar("select id from rp_transfer"))
        recalls.recall(tx, row, neustadt.clock.now(), who="test", why="wrong patient")
        rearm(tx, row, neustadt.limits, neustadt.clock.now())
    postman.run()
    postman.pass_time(30)
    states = dict(ludwigshafen.rows("select state, count(*) from rp_forward group by state"))
    assert states == {"sent": 4, "refused": 2}, "what waited is not sent on any more"

    station = Reject(ludwigshafen.archive, ludwigshafen.sandbox, ludwigshafen.clock)
    transfer_id = ludwigshafen.scalar(
        "select (args->>'transfer_id')::int from procrastinate_jobs where task_name = 'reject'"
    )
    for _ in range(2):  # done again after a crash it makes the same note
        station.reject(transfer_id)
    with ludwigshafen.archive.database.transaction() as tx:
        (waiting,) = forwards.waiting(tx, node.node_id, ludwigshafen.clock.now())
        assert search.studies(tx) == []
    assert waiting.sop_class_uid == KEY_OBJECT_SELECTION
    note = pydicom.dcmread(ludwigshafen.archive.blobs.path(waiting.sha256))
    assert note.ConceptNameCodeSequence[0].CodeValue == "113037"
    assert note.ContentSequence[0].TextValue == "wrong patient"
    original = pydicom.dcmread(head[0], stop_before_pixels=True)
    assert (note.StudyInstanceUID, note.PatientID) == (original.StudyInstanceUID, original.PatientID)
    evidence = note.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert len(evidence.ReferencedSOPSequence) == 4
    origins = ludwigshafen.rows("select s.name from rp_case c join rp_site s on s.id = c.origin_site_id order by c.id")
    assert [row.name for row in origins] == ["neustadt", "ludwigshafen"], "the note is ours, the study is theirs"
