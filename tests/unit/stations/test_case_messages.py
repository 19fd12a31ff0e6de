"""What people say about a study on its way: announce, opened, take, recall, correct, reroute; each told to the other side."""

import dataclasses

import pytest
import sqlalchemy as sa

from raypost.archive import corrections, openings, partners, recalls, rerouting, rules, search, transfers
from raypost.archive.rearm import order_again, rearm
from raypost.archive.tables import CaseRow, RuleRow, TransferRow
from raypost.errors import UsageError
from raypost.model.rules import Rule, RuleAction
from raypost.model.transfer import Priority

RINGS = "select count(*) from rp_event where kind = 'announced' and level = 'alarm'"
UNHEARD = (
    "select count(*) from rp_message where direction = 'out' and state <> 'filed' and kind not in ('receipt', 'hello')"
)


def send_head(site, head, called: str = "LUDWIGSHAFEN_N") -> None:
    for file in head:
        assert site.receive(file, called) == 0


def case_of(site, tx) -> CaseRow:
    return tx.scalars(sa.select(CaseRow)).one()


def outgoing(site, tx) -> TransferRow:
    row = tx.scalars(sa.select(TransferRow).where(TransferRow.direction == "out").order_by(TransferRow.id)).first()
    return transfers.lock(tx, row.id)


def order(site, function, *args, **kwargs):
    """Do what a command does: with the transfer locked, then rearmed."""
    with site.archive.database.transaction() as tx:
        row = outgoing(site, tx)
        made = function(tx, row, *args, site.clock.now(), **kwargs)
        rearm(tx, row, site.limits, site.clock.now())
        if isinstance(made, TransferRow):
            rearm(tx, made, site.limits, site.clock.now())
        return made


def test_the_announcement_comes_first_and_rings_once(neustadt, ludwigshafen, postman, head) -> None:
    send_head(neustadt, head)
    postman.run()
    assert [kind for name, kind, _ in postman.carried if name == "neustadt"][0] == "announce"
    assert ludwigshafen.scalar(RINGS) == 1
    announced = ludwigshafen.transfer("in").announced
    assert announced["identity"]["patient_name"] and announced["modality"] == "CT"
    postman.pass_time(120)
    assert ludwigshafen.scalar(RINGS) == 1
    assert neustadt.scalar(UNHEARD) == 0


def test_a_parcel_that_overtakes_a_lost_announcement_rings(neustadt, ludwigshafen, postman, head) -> None:
    postman.lose = lambda kind, number: kind == "announce"
    send_head(neustadt, head)
    postman.run()
    assert ludwigshafen.scalar(RINGS) == 1
    assert ludwigshafen.transfer("in").state in ("arriving", "complete")


def test_an_announcement_without_images_tells_a_person(neustadt, ludwigshafen, postman, head) -> None:
    postman.lose = lambda kind, number: kind in ("parcel", "manifest")
    send_head(neustadt, head)
    postman.run()
    assert ludwigshafen.transfer("in").state == "expected"
    postman.pass_time(130)
    assert ludwigshafen.kinds().count("announced only") == 1


@pytest.mark.parametrize("called", ["LUDWIGSHAFEN_R", "LUDWIGSHAFEN_U"])
def test_what_is_no_emergency_does_not_ring(neustadt, ludwigshafen, postman, head, called) -> None:
    send_head(neustadt, head, called)
    postman.run()
    assert ludwigshafen.scalar(RINGS) == 0
    assert "announced" in ludwigshafen.kinds()


def delivered(neustadt, ludwigshafen, postman, head) -> None:
    send_head(neustadt, head)
    postman.run()
    postman.pass_time(60)
    assert neustadt.transfer("out").state == "delivered"


def test_opened_and_take_are_answered(neustadt, ludwigshafen, postman, head) -> None:
    delivered(neustadt, ludwigshafen, postman, head)
    with ludwigshafen.archive.database.transaction() as tx:
        case = case_of(ludwigshafen, tx)
        assert openings.open_case(tx, case, ludwigshafen.clock.now(), "Dr. Keller")
        assert openings.ask_to_take(tx, case, ludwigshafen.clock.now(), "Dr. Keller") is None
    postman.run()
    postman.pass_time(30)
    with neustadt.archive.database.transaction() as tx:
        shape = search.study(tx, case_of(neustadt, tx).study_key)
        assert shape["responsible"] == "ludwigshafen"
        assert [one["who"] for one in shape["opened_by"]] == ["Dr. Keller"]
    with ludwigshafen.archive.database.transaction() as tx:
        case = case_of(ludwigshafen, tx)
        assert search.study(tx, case.study_key)["responsible"] == "ludwigshafen"
        assert openings.ask_to_take(tx, case, ludwigshafen.clock.now(), "Dr. Weber") == "ludwigshafen"
    for site in (neustadt, ludwigshafen):
        assert site.scalar(UNHEARD) == 0, "everything small was heard"


@pytest.mark.parametrize("lost", ["take", "taken", "opened"])
def test_a_lost_small_message_is_repeated(neustadt, ludwigshafen, postman, head, lost) -> None:
    delivered(neustadt, ludwigshafen, postman, head)
    gone = []
    postman.lose = lambda kind, number: kind == lost and len(gone) < 2 and not gone.append(number)
    with ludwigshafen.archive.database.transaction() as tx:
        case = case_of(ludwigshafen, tx)
        openings.open_case(tx, case, ludwigshafen.clock.now(), "Dr. Keller")
        openings.ask_to_take(tx, case, ludwigshafen.clock.now(), "Dr. Keller")
    postman.run()
    postman.pass_time(120)
    assert gone
    for site in (neustadt, ludwigshafen):
        assert site.scalar("select responsible_site_id from rp_case") is not None
        assert site.scalar(UNHEARD) == 0
    assert neustadt.scalar("select count(*) from rp_opening") == 1


def test_recall_before_filing_drops_what_still_comes(neustadt, ludwigshafen, postman, head) -> None:
    held = []
    postman.hold = held
    send_head(neustadt, head)
    neustadt.work()
    order(neustadt, recalls.recall, who="test", why="wrong patient")
    postman.run()
    postman.pass_time(120)
    assert neustadt.transfer("out").state == "recalled"
    assert ludwigshafen.transfer("in").state == "withdrawn"
    assert ludwigshafen.scalar("select count(*) from rp_instance") == 0
    assert "recall answered" in neustadt.kinds()
    assert neustadt.scalar(UNHEARD + " and state <> 'replaced'") == 0


def test_recall_after_filing_hides_and_says_who_opened(neustadt, ludwigshafen, postman, head) -> None:
    delivered(neustadt, ludwigshafen, postman, head)
    with ludwigshafen.archive.database.transaction() as tx:
        openings.open_case(tx, case_of(ludwigshafen, tx), ludwigshafen.clock.now(), "Dr. Keller")
    postman.run()
    order(neustadt, recalls.recall, who="test", why="wrong patient")
    postman.run()
    postman.pass_time(60)
    with ludwigshafen.archive.database.transaction() as tx:
        assert search.studies(tx) == []
        assert [one["hidden_because"] for one in search.studies(tx, with_withdrawn=True)] == ["wrong patient"]
    assert ludwigshafen.scalar("select count(*) from rp_instance") == 6, "never erased"
    answer = neustadt.rows("select fields from rp_event where kind = 'recall answered'")[0][0]
    assert answer["opened_by"] == "Dr. Keller" and answer["instances"] == 6
    with pytest.raises(UsageError):
        order(neustadt, recalls.recall, who="test", why="again")
    with pytest.raises(UsageError), neustadt.archive.database.transaction() as tx:
        order_again(tx, outgoing(neustadt, tx), neustadt.limits, neustadt.clock.now(), "test")


def test_what_was_recalled_and_is_sent_anew_is_shown_again(neustadt, ludwigshafen, postman, head) -> None:
    delivered(neustadt, ludwigshafen, postman, head)
    order(neustadt, recalls.recall, who="test", why="wrong patient")
    postman.run()
    with neustadt.archive.database.transaction() as tx:
        study_key = case_of(neustadt, tx).study_key
    neustadt.route.send_study(study_key, "ludwigshafen", Priority.URGENT, "test")
    postman.run()
    postman.pass_time(60)
    with ludwigshafen.archive.database.transaction() as tx:
        assert len(search.studies(tx)) == 1


def test_a_correction_is_shown_old_and_new_at_both_sites(neustadt, ludwigshafen, postman, head) -> None:
    delivered(neustadt, ludwigshafen, postman, head)
    with neustadt.archive.database.transaction() as tx:
        told = corrections.correct(
            tx, case_of(neustadt, tx), {"patient_id": "4711"}, neustadt.clock.now(), who="test", why="mistyped"
        )
    assert told == ["ludwigshafen"]
    postman.run()
    postman.pass_time(60)
    for site in (neustadt, ludwigshafen):
        with site.archive.database.transaction() as tx:
            shape = search.study(tx, case_of(site, tx).study_key)
        assert shape["patient_id"] == "4711"
        assert [(one["after"]["patient_id"], one["why"]) for one in shape["corrections"]] == [("4711", "mistyped")]
        assert shape["corrections"][0]["before"]["patient_id"] != "4711"


def test_a_correction_that_overtakes_the_images_waits_for_them(neustadt, ludwigshafen, postman, head) -> None:
    postman.lose = lambda kind, number: kind == "parcel"
    send_head(neustadt, head)
    postman.run()
    with neustadt.archive.database.transaction() as tx:
        corrections.correct(
            tx, case_of(neustadt, tx), {"patient_id": "4711"}, neustadt.clock.now(), who="test", why="mistyped"
        )
    postman.run()
    postman.lose = lambda kind, number: False
    postman.pass_time(120)
    assert neustadt.transfer("out").state == "delivered"
    with ludwigshafen.archive.database.transaction() as tx:
        assert search.study(tx, case_of(ludwigshafen, tx).study_key)["patient_id"] == "4711"


@pytest.fixture
def mannheim(neustadt, keyrings):
    """A second centre in the address book of the sender."""
    partner = dataclasses.replace(
        neustadt.partner,
        name="mannheim",
        display_name="Mannheim",
        ae_stem="MANNHEIM",
        address="mannheim@raypost.test",
        fingerprint=keyrings["ludwigshafen"][1][::-1],
        is_self=False,
    )
    with neustadt.archive.database.transaction() as tx:
        return partners.add_partner(tx, partner, "cert", now=neustadt.clock.now(), who="test")


def test_a_silent_centre_is_left_by_rule_and_told(neustadt, ludwigshafen, postman, head, mannheim) -> None:
    with neustadt.archive.database.transaction() as tx:
        rule = Rule("next", RuleAction.REROUTE, "mannheim", partner="ludwigshafen", deadline_s=40.0)
        rules.add_rule(tx, rule, now=neustadt.clock.now(), who="test")
    postman.lose = lambda kind, number: True
    send_head(neustadt, head)
    postman.run()
    for _ in range(50):
        neustadt.clock.pass_time(1)
        neustadt.work()
    states = neustadt.rows("select partner_id, state, ordered_by from rp_transfer order by id")
    assert [row.state for row in states][0] == "rerouted"
    assert states[1].partner_id == mannheim.site_id and states[1].ordered_by.startswith("reroute:")
    assert neustadt.scalar("select count(*) from rp_transfer_item") == 12
    assert neustadt.rows("select body from rp_message where kind = 'redirect'")[0][0]["to_name"] == "Mannheim"


def test_sealed_mails_of_a_study_that_goes_elsewhere_are_not_kept(neustadt, postman, head, mannheim) -> None:
    with neustadt.archive.database.transaction() as tx:
        rule = Rule("next", RuleAction.REROUTE, "mannheim", partner="ludwigshafen", deadline_s=40.0)
        rules.add_rule(tx, rule, now=neustadt.clock.now(), who="test")
    send_head(neustadt, head)
    neustadt.work()  # sealed, and no relay takes them
    silent = neustadt.transfer("out")
    named = "select message_file from rp_message where kind in ('parcel', 'manifest') and message_file <> ''"
    files = [neustadt.archive.spool.path(row.message_file) for row in neustadt.rows(named)]
    assert files and all(file.exists() for file in files)
    neustadt.clock.pass_time(41)
    neustadt.settle.check(silent.id)
    assert neustadt.rows("select state from rp_transfer order by id")[0].state == "rerouted"
    assert not any(file.exists() for file in files)


LOST = "select fields from rp_event where kind = 'rule without target' and level = 'alarm' order by id"


@pytest.fixture
def lost_rule(neustadt) -> None:
    """A rule for a silent centre that names a site which is gone, as an import may bring it."""
    with neustadt.archive.database.transaction() as tx:
        tx.add(
            RuleRow(
                rule_key="gone-first",
                action="reroute",
                target="gone",
                priority="routine",
                partner="ludwigshafen",
                deadline_s=40.0,
                added_at=neustadt.clock.now(),
                added_by="import",
                **dict.fromkeys(
                    ("origin", "calling_ae_title", "called_ae_title", "modality", "study_description", "body_part"), ""
                ),
            )
        )


def work_for(neustadt, seconds: int) -> None:
    for _ in range(seconds):
        neustadt.clock.pass_time(1)
        neustadt.work()


def test_a_rule_for_a_silent_centre_whose_target_is_gone_is_told_and_the_next_one_counts(
    neustadt, postman, head, mannheim, lost_rule
) -> None:
    with neustadt.archive.database.transaction() as tx:
        rule = Rule("next", RuleAction.REROUTE, "mannheim", partner="ludwigshafen", deadline_s=60.0)
        rules.add_rule(tx, rule, now=neustadt.clock.now(), who="test")
    send_head(neustadt, head)
    work_for(neustadt, 35)
    assert not neustadt.rows(LOST)
    work_for(neustadt, 15)
    assert [row.fields for row in neustadt.rows(LOST)] == [{"because": "rule:gone-first", "target": "gone"}]
    assert neustadt.transfer("out").state == "closed", "the other rule has more patience"
    work_for(neustadt, 30)
    states = neustadt.rows("select partner_id, state from rp_transfer order by id")
    assert [row.state for row in states][0] == "rerouted" and states[1].partner_id == mannheim.site_id
    assert len(neustadt.rows(LOST)) == 1


def test_the_only_rule_for_a_silent_centre_leads_nowhere(neustadt, postman, head, lost_rule) -> None:
    """It rings once, and everything else of the transfer goes on: it is repeated, and a person is told."""
    send_head(neustadt, head)
    postman.lose = lambda kind, number: True
    for _ in range(170):
        neustadt.clock.pass_time(1)
        neustadt.work()
        postman.carry()
    assert len(neustadt.rows(LOST)) == 1
    assert neustadt.transfer("out").state == "closed" and neustadt.transfer("out").rounds > 0
    assert "transfer silent" in neustadt.kinds()


def test_a_rule_that_names_this_site_itself_breaks_nothing(neustadt, postman, head, lost_rule) -> None:
    neustadt.rows("update rp_rule set target = 'neustadt' returning id")
    send_head(neustadt, head)
    work_for(neustadt, 45)
    assert [row.fields["target"] for row in neustadt.rows(LOST)] == ["neustadt"]
    assert neustadt.transfer("out").state == "closed"


def test_a_late_receipt_of_the_first_centre_is_good_news(neustadt, ludwigshafen, postman, head, mannheim) -> None:
    send_head(neustadt, head)
    neustadt.work()
    postman.lose = lambda kind, number: kind == "receipt"
    neustadt.clock.pass_time(6)
    neustadt.work()
    postman.carry()
    order_reroute(neustadt, mannheim)
    postman.lose = lambda kind, number: False
    for _ in range(60):
        postman.carry()
        ludwigshafen.work()
        neustadt.clock.pass_time(2)
        neustadt.work()
    kinds = neustadt.kinds()
    assert "transfer rerouted" in kinds
    assert "late receipt" in kinds or ludwigshafen.transfer("in").state in ("redirected", "arriving")
    assert "transfer redirected" in ludwigshafen.kinds()


def order_reroute(neustadt, mannheim) -> None:
    with neustadt.archive.database.transaction() as tx:
        row = outgoing(neustadt, tx)
        rerouted = rerouting.reroute(tx, row, mannheim, neustadt.clock.now(), who="test", why="ordered")
        rearm(tx, rerouted.onward, neustadt.limits, neustadt.clock.now())
        rearm(tx, row, neustadt.limits, neustadt.clock.now())


def test_a_recall_from_the_responsible_centre_is_told_and_frees_the_case(neustadt, ludwigshafen, postman, head) -> None:
    delivered(neustadt, ludwigshafen, postman, head)
    with ludwigshafen.archive.database.transaction() as tx:
        openings.ask_to_take(tx, case_of(ludwigshafen, tx), ludwigshafen.clock.now(), "Dr. Keller")
    postman.run()
    assert neustadt.scalar("select responsible_site_id from rp_case") is not None
    order(neustadt, recalls.recall, who="test", why="wrong patient")
    postman.run()
    postman.pass_time(60)
    assert neustadt.scalar("select responsible_site_id from rp_case") is None
    assert ludwigshafen.scalar("select responsible_site_id from rp_case") is None


def test_an_older_correction_that_comes_late_does_not_win(neustadt, ludwigshafen, postman, head) -> None:
    delivered(neustadt, ludwigshafen, postman, head)
    postman.lose = lambda kind, number: kind == "correct" and number == 1
    for patient_id in ("4711", "4712"):
        with neustadt.archive.database.transaction() as tx:
            corrections.correct(
                tx, case_of(neustadt, tx), {"patient_id": patient_id}, neustadt.clock.now(), who="test", why="mistyped"
            )
        postman.run()
    postman.lose = lambda kind, number: False
    postman.pass_time(120)
    with ludwigshafen.archive.database.transaction() as tx:
        shape = search.study(tx, case_of(ludwigshafen, tx).study_key)
    assert shape["patient_id"] == "4712" and len(shape["corrections"]) == 2
