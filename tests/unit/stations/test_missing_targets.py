"""A partner or node that goes away takes nothing with it unnoticed: what waits is sent to its successor or told."""

import dataclasses

import pytest
import sqlalchemy as sa
from pynetdicom import AE, evt

from raypost.archive import dicom_nodes, forwards, partners, rules
from raypost.archive.dicom_nodes import Node
from raypost.archive.tables import DicomNodeRow, RuleRow
from raypost.errors import UsageError
from raypost.model.audit import EventKind
from raypost.model.rules import Rule, RuleAction
from raypost.model.transfer import Priority
from raypost.stations.forward import Forward

PACS = Node(0, "pacs", "PACS", "127.0.0.1", 9)
FORWARDS = "select n.port, f.state, f.said from rp_forward f join rp_dicom_node n on n.id = f.node_id order by f.id"


def add_pacs(site, port: int = 9) -> Node:
    with site.archive.database.transaction() as tx:
        return dicom_nodes.add_node(tx, dataclasses.replace(PACS, port=port), now=site.clock.now(), who="anna")


def remove_pacs(site) -> None:
    with site.archive.database.transaction() as tx:
        dicom_nodes.remove_node(tx, "pacs", now=site.clock.now(), who="anna")


def order(site, node: Node) -> None:
    """Order that everything here goes to a node."""
    with site.archive.database.transaction() as tx:
        for instance_id in tx.scalars(sa.text("select id from rp_instance order by id")).all():
            forwards.order(tx, instance_id, node, site.clock.now())


def forward(site, node_id: int) -> None:
    Forward(site.archive, site.sandbox, site.clock, "RAYPOST").forward(node_id)


def alarms(site, kind: str) -> list[dict]:
    return [row[0] for row in site.rows("select fields from rp_event where kind = :k and level = 'alarm'", k=kind)]


@pytest.fixture
def three(neustadt, head):
    for file in head[:3]:
        assert neustadt.receive(file, called="RAYPOST") == 0
    return neustadt


@pytest.fixture
def pacs_port():
    """A PACS that takes everything."""
    taken = []

    def take(event: evt.Event) -> int:
        taken.append(event.request.AffectedSOPInstanceUID)
        return 0

    application = AE("PACS")
    for context in ("1.2.840.10008.5.1.4.1.1.2",):
        application.add_supported_context(
            context, ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"]
        )
    server = application.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, take)])
    yield server.socket.getsockname()[1], taken
    server.shutdown()


def test_what_waits_for_a_replaced_node_goes_to_the_new_one(three, pacs_port) -> None:
    port, taken = pacs_port
    old = add_pacs(three)
    order(three, old)
    forward(three, old.node_id)  # nobody listens at port 9: it waits
    assert {row.state for row in three.rows(FORWARDS)} == {"waiting"}
    new = add_pacs(three, port)
    assert {(row.port, row.state) for row in three.rows(FORWARDS)} == {(port, "waiting")}
    assert three.scalar("select count(*) from procrastinate_jobs where args->>'node_id' = :n", n=str(new.node_id)) == 1
    forward(three, new.node_id)
    assert {(row.port, row.state) for row in three.rows(FORWARDS)} == {(port, "sent")}
    assert len(taken) == 3
    assert not alarms(three, "forward refused")


def test_one_that_the_new_node_has_already_is_not_sent_twice(three) -> None:
    old = add_pacs(three)
    order(three, old)
    with three.archive.database.transaction() as tx:  # as if ordered between the change and the moving
        tx.execute(sa.text("update rp_dicom_node set retired_at = now()"))
        row = DicomNodeRow(name="pacs", ae_title="PACS", host="h", port=10, added_at=three.clock.now(), added_by="x")
        tx.add(row)
        tx.flush()
        new = Node(row.id, "pacs", "PACS", "h", 10)
        forwards.order(tx, 1, new, three.clock.now())
    forward(three, old.node_id)
    assert [(row.port, row.state) for row in three.rows(FORWARDS)] == [
        (9, "refused"),
        (10, "waiting"),
        (10, "waiting"),
        (10, "waiting"),
    ]
    assert not alarms(three, "forward refused"), "nothing is lost by it"


def test_what_waits_for_a_removed_node_is_refused_and_told_once(three) -> None:
    order(three, add_pacs(three))
    remove_pacs(three)
    assert {(row.state, row.said) for row in three.rows(FORWARDS)} == {("refused", "pacs was removed")}
    (told,) = alarms(three, "forward refused")
    assert told["node"] == "pacs" and told["instances"] == 3
    assert three.scalar("select count(*) from rp_forward where due is not null") == 0


def test_what_was_ordered_in_the_moment_of_the_removal_is_told_too(three) -> None:
    """And what an older version left behind."""
    node = add_pacs(three)
    remove_pacs(three)
    order(three, node)
    three.clock.pass_time(61)
    three.settle.sweep()
    assert three.scalar("select count(*) from procrastinate_jobs where task_name = 'forward'") >= 1
    forward(three, node.node_id)
    assert {row.state for row in three.rows(FORWARDS)} == {"refused"}
    assert len(alarms(three, "forward refused")) == 1


def test_a_word_of_the_old_node_does_not_count_for_the_new_one(three) -> None:
    old = add_pacs(three)
    order(three, old)
    new = add_pacs(three, 10)
    with three.archive.database.transaction() as tx:  # what an association that was open meanwhile brings
        assert not forwards.note_refused(tx, 1, old.node_id, "no room")
        forwards.note_deferred(tx, 2, old.node_id, "busy", three.clock.now())
        forwards.note_sent(tx, 3, old.node_id, three.clock.now())
    assert three.rows("select node_id, state, tries from rp_forward") == [(new.node_id, "waiting", 0)] * 3


def test_what_a_rule_names_is_not_removed(neustadt) -> None:
    add_pacs(neustadt)
    with neustadt.archive.database.transaction() as tx:
        for rule in (
            Rule("night", RuleAction.SEND, "ludwigshafen", Priority.URGENT),
            Rule("home", RuleAction.FORWARD, "pacs", Priority.ROUTINE),
        ):
            rules.add_rule(tx, rule, now=neustadt.clock.now(), who="anna")
    with pytest.raises(UsageError, match="night"), neustadt.archive.database.transaction() as tx:
        partners.remove_partner(tx, "ludwigshafen", now=neustadt.clock.now(), who="anna")
    with pytest.raises(UsageError, match="home"), neustadt.archive.database.transaction() as tx:
        dicom_nodes.remove_node(tx, "pacs", now=neustadt.clock.now(), who="anna")
    with neustadt.archive.database.transaction() as tx:
        for name in ("night", "home"):
            rules.remove_rule(tx, name, now=neustadt.clock.now(), who="anna")
        partners.remove_partner(tx, "ludwigshafen", now=neustadt.clock.now(), who="anna")
        dicom_nodes.remove_node(tx, "pacs", now=neustadt.clock.now(), who="anna")


def test_rules_that_lead_nowhere_ring_once_a_case(neustadt, head) -> None:
    with neustadt.archive.database.transaction() as tx:
        for name, action in (("old-send", "send"), ("old-forward", "forward"), ("other", "send")):
            words = dict.fromkeys(
                ("origin", "calling_ae_title", "called_ae_title", "modality", "study_description", "body_part"), ""
            )
            if action == "forward":
                words["origin"] = "neustadt"
            if name == "other":
                words["modality"] = "MR"
            tx.add(
                RuleRow(
                    rule_key=name,
                    action=action,
                    target="gone",
                    priority="routine",
                    added_at=neustadt.clock.now(),
                    added_by="import",
                    **words,
                )
            )
    for file in head:
        neustadt.receive(file, called="RAYPOST")
        neustadt.work()
    told = alarms(neustadt, EventKind.RULE_WITHOUT_TARGET.value)
    assert sorted(one["because"] for one in told) == ["rule:old-forward", "rule:old-send"]
    assert {one["target"] for one in told} == {"gone"}
    assert neustadt.scalar("select count(*) from rp_event where kind = 'rule without target' and case_id is null") == 0


def test_an_image_for_a_partner_that_was_removed_meanwhile(neustadt, head) -> None:
    """Its association was open when the partner was removed; a new one is turned away."""
    neustadt.receive(head[0], called="LUDWIGSHAFEN_N")
    with neustadt.archive.database.transaction() as tx:
        partners.remove_partner(tx, "ludwigshafen", now=neustadt.clock.now(), who="anna")
    neustadt.work()
    neustadt.receive(head[1], called="LUDWIGSHAFEN_N")
    neustadt.receive(head[2], called="RAYPOST")
    neustadt.work()
    assert neustadt.scalar("select count(*) from rp_transfer") == 0
    (told,) = alarms(neustadt, EventKind.RULE_WITHOUT_TARGET.value)
    assert told == {"because": "ae:LUDWIGSHAFEN_N", "target": "ludwigshafen"}
