"""Two relays at different places: what one does not take, or swallows, goes by the other; in the end all is delivered.

Real stations, tables and SMTP sessions; the relays are scripted servers whose mails the test carries on.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from raypost.archive import greetings, moving, outbox, partners, planning, relays, transfers
from raypost.archive.rearm import order_again
from raypost.mail.smtp import SmtpAccount
from raypost.model.site import Mailbox
from raypost.relay.certificates import make_test_authority
from raypost.stations.dispatch import Dispatch
from raypost.stations.outcomes import Outcomes
from raypost.transfer.pacing import PacingLimits
from tests.peers.scripted_relay import ScriptedRelay
from tests.unit.conftest import Postman, TestSite

MAIN, RESERVE = "main", "reserve"
SMALL_PARCELS = PacingLimits(first_parcel_max_bytes=12_000, parcel_min_bytes=1_000, parcel_max_bytes=12_000)
DELIVERED_MAX_S = 60


class Network(Postman):
    """Both sites with accounts on both relays."""

    def __init__(self, sites: dict[str, TestSite], relays_by_name: dict[str, ScriptedRelay], ca_file) -> None:
        super().__init__(sites)
        self.relays = relays_by_name
        self.swallowing: set[str] = set()
        self.ca_file = ca_file
        self.by: list[tuple[str, str, str, int]] = []
        clock = next(iter(sites.values())).clock
        for site in sites.values():
            site.addresses[RESERVE] = f"{site.partner.name}@reserve.test"
            with site.archive.database.transaction() as tx:
                for one in partners.all_partners(tx):
                    boxes = (Mailbox(MAIN, one.address), Mailbox(RESERVE, f"{one.name}@reserve.test"))
                    partners.add_partner(
                        tx, dataclasses.replace(one, mailboxes=boxes), "cert", now=clock.now(), who="test"
                    )
                relays.declare(tx, [MAIN, RESERVE], clock.now())

    def dispatch(self, site: TestSite, slots: int = 1) -> Dispatch:
        accounts = {
            name: SmtpAccount(
                name,
                "localhost",
                relay.port,
                "tls",
                "u",
                "p",
                site.addresses[name],
                self.ca_file,
                timeout_s=20.0,
                connect_timeout_s=3.0,
                login_timeout_s=1.0,
                stall_timeout_s=0.5,
            )
            for name, relay in self.relays.items()
        }
        outcomes = Outcomes(site.archive, site.clock, site.limits, site.pacing)
        return Dispatch(site.archive, site.clock, site.limits, outcomes, accounts, slots, 0.0, lambda _: True)

    def carry(self) -> int:
        """Do every waiting job of dispatch, and take what the relays took to its mailbox."""
        count = 0
        for site in self.sites.values():
            station = self.dispatch(site)
            while (words := self._next_job(site)) is not None:
                station.dispatch(**words)
                count += 1
        for name, relay in self.relays.items():
            for recipient, mail in relay.take():
                site = next(one for one in self.sites.values() if recipient == one.addresses[name])
                token = mail.partition(b"Raypost-Token: ")[2].partition(b"\r\n")[0].decode()
                said = dict(one.split("=") for one in token.split("; ")[1:3])
                self.by.append((name, site.partner.name, said["kind"], int(said["number"])))
                if name not in self.swallowing:
                    self.deliver(site, mail, name)
        return count

    def _next_job(self, site: TestSite):
        with site.archive.database.transaction() as tx:
            row = tx.execute(
                sa.text(
                    "delete from procrastinate_jobs where id = (select id from procrastinate_jobs where status = 'todo'"
                    " and task_name = 'dispatch' order by priority desc, id limit 1) returning args"
                )
            ).first()
        return row.args if row else None

    def _next_due(self, site: TestSite):
        return site.scalar(
            "select least((select min(due) from rp_transfer), (select min(due) from rp_relay),"
            " (select min(due) from rp_message where state in ('planned', 'queued')),"
            " (select min(due) from rp_collected))"
        )

    def kinds_by(self, relay: str, to: str = "ludwigshafen") -> list[str]:
        """Return the kinds of mails that a relay took for a site."""
        return [kind for name, site, kind, _ in self.by if (name, site) == (relay, to)]


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return make_test_authority(tmp_path_factory.mktemp("tls"), ["localhost"], datetime.now(UTC))


@pytest.fixture
def network(sites, tls) -> Iterator[Network]:
    ca_file, certificate, secret_key = tls
    made = {name: ScriptedRelay(certificate, secret_key).start() for name in (MAIN, RESERVE)}
    yield Network(sites, made, ca_file)
    for one in made.values():
        one.stop()


@pytest.fixture
def main(network) -> ScriptedRelay:
    return network.relays[MAIN]


@pytest.fixture
def reserve(network) -> ScriptedRelay:
    return network.relays[RESERVE]


def send(site: TestSite, files, called: str = "LUDWIGSHAFEN_R", association: str = "a1") -> None:
    for file in files:
        assert site.receive(file, called=called, association=association) == 0


def alarms(site: TestSite) -> list[str]:
    return [kind for (kind,) in site.rows("select kind from rp_event where level = 'alarm' order by id")]


def assert_delivered(network: Network, neustadt: TestSite, count: int = 6, within_s: float = DELIVERED_MAX_S) -> None:
    begin = neustadt.clock.now()
    network.run()
    while neustadt.transfer().state != "delivered":
        assert (neustadt.clock.now() - begin).total_seconds() < within_s, neustadt.rows(
            "select kind, number, copy, state, relay, tries, attempt, said, due from rp_message order by id"
        )
        network.pass_time(1)
    ludwigshafen = network.sites["ludwigshafen"]
    assert ludwigshafen.scalar("select count(*) from rp_instance where standing = 'current' and version = 1") == count
    for site in network.sites.values():
        assert not site.scalar("select count(*) from rp_message where state in ('sending', 'verified', 'refused')")
        assert not list((site.archive.spool.folder / "sealed").iterdir()), site.rows(
            "select kind, number, copy, state, relay, message_file from rp_message order by id"
        )


def relay_row(site: TestSite, name: str = MAIN):
    return site.rows("select * from rp_relay where name = :name", name=name)[0]


def test_each_relay_gets_its_own_addresses(network, neustadt, main, reserve, head) -> None:
    main.stop()
    send(neustadt, head)
    network.run()
    mail = network.sites["ludwigshafen"].rows("select count(*) from rp_collected")[0][0]
    assert mail >= 1
    assert set(reserve.offered) == {"ludwigshafen@reserve.test", "neustadt@reserve.test"}
    assert_delivered(network, neustadt)


def test_a_relay_that_is_down_costs_nothing_and_comes_back(network, neustadt, ludwigshafen, main, head) -> None:
    main.stop()
    send(neustadt, head[:3])
    assert_delivered(network, neustadt, 3)
    assert not network.kinds_by(MAIN) and "relay unreachable" in neustadt.kinds()
    assert relay_row(neustadt).state == "away" and not alarms(neustadt)
    main.start()
    network.pass_time(70)
    assert relay_row(neustadt).state == "well" and "relay reached" in neustadt.kinds()
    network.by.clear()
    send(neustadt, head[3:])
    network.run()
    network.pass_time(60)
    assert "parcel" in network.kinds_by(MAIN) and not network.kinds_by(RESERVE)
    assert ludwigshafen.scalar("select count(*) from rp_instance") == 6


def test_a_relay_dies_in_the_middle_of_a_study(network, neustadt, main, reserve, head) -> None:
    neustadt.pacing = SMALL_PARCELS
    main.replies["."] = lambda _: None if len(main.offered) > 3 else "250 ok"
    main.replies["greeting"] = lambda _: "421 dying" if len(main.offered) > 3 else "220 test"
    send(neustadt, head)
    assert_delivered(network, neustadt)
    assert "parcel" in network.kinds_by(MAIN) and "parcel" in network.kinds_by(RESERVE)
    assert "message moved" in neustadt.kinds()


def test_both_relays_are_down_and_the_second_comes_back_first(network, neustadt, main, reserve, head) -> None:
    main.stop()
    reserve.stop()
    send(neustadt, head)
    network.run()
    network.pass_time(30)
    reserve.start()
    assert_delivered(network, neustadt, within_s=120)
    assert not network.kinds_by(MAIN)


def test_an_emergency_goes_by_all_at_once_and_a_dead_relay_costs_it_nothing(network, neustadt, main, head) -> None:
    send(neustadt, head, called="LUDWIGSHAFEN_N")
    network.run()
    for relay in (MAIN, RESERVE):
        assert {"announce", "parcel"} <= set(network.kinds_by(relay))
    assert_delivered(network, neustadt)
    assert network.sites["ludwigshafen"].kinds().count("announced") == 1


def test_a_relay_that_swallows_is_found_out(network, neustadt, main, head) -> None:
    network.swallowing = {MAIN}
    send(neustadt, head)
    assert_delivered(network, neustadt, within_s=90)
    assert "relay suspected" in neustadt.kinds()
    assert relay_row(neustadt).state == "suspect"


def test_of_an_emergency_nothing_waits_for_a_relay_that_swallows(network, neustadt, ludwigshafen, head) -> None:
    network.swallowing = {MAIN}
    send(neustadt, head, called="LUDWIGSHAFEN_N")
    network.run()
    assert "announced" in ludwigshafen.kinds() and ludwigshafen.scalar("select count(*) from rp_instance") >= 1
    assert_delivered(network, neustadt, within_s=90)


@pytest.mark.parametrize(
    ("command", "reply", "is_refusal"),
    [
        ("RCPT", "552 5.2.2 Mailbox is full", False),
        (".", "552 mailbox full", False),
        (".", "552 action aborted", False),
        ("RCPT", "450 4.2.0 Greylisted for 300 seconds", False),
        ("MAIL", "451 4.3.0 not now", False),
        ("RCPT", "550 5.1.1 unknown", True),
        ("MAIL", "553 5.7.1 not yours", True),
        (".", "554 5.6.0 a virus", True),
    ],
)
def test_what_one_relay_does_not_take_the_other_gets(network, neustadt, main, head, command, reply, is_refusal) -> None:
    main.replies[command] = reply
    send(neustadt, head)
    assert_delivered(network, neustadt)
    assert not network.kinds_by(MAIN) and "parcel" in network.kinds_by(RESERVE)
    assert relay_row(neustadt).learned_size_max_bytes is None, "a full mailbox says nothing about sizes"
    assert relay_row(neustadt).state == "suspect", "others are preferred for a while"
    is_for_person = is_refusal and "5.1.1" not in reply
    assert len(alarms(neustadt)) == is_for_person, alarms(neustadt)


def test_what_no_relay_takes_is_told_and_goes_when_a_person_orders_it(network, neustadt, main, reserve, head) -> None:
    main.replies["RCPT"] = reserve.replies["RCPT"] = "550 5.1.1 unknown"
    send(neustadt, head[:1])
    network.run()
    network.pass_time(40)
    assert "sending refused" in alarms(neustadt)
    assert neustadt.scalar("select count(*) from rp_message where state = 'refused'") >= 1
    assert len(main.offered) < 10 and len(reserve.offered) < 10, "nobody asks for ever"
    main.replies.clear(), reserve.replies.clear()
    with neustadt.archive.database.transaction() as tx:
        row = transfers.lock(tx, neustadt.transfer().id)
        order_again(tx, row, neustadt.limits, neustadt.clock.now(), "test")
    network.run()
    network.pass_time(30)
    assert neustadt.transfer().state == "delivered"


def test_a_password_that_is_refused_is_told_once_and_tried_seldom(network, neustadt, main, head) -> None:
    main.replies["AUTH"] = "535 5.7.8 bad password"
    send(neustadt, head)
    assert_delivered(network, neustadt)
    tried = main.sessions
    network.pass_time(200)
    assert main.sessions == tried and alarms(neustadt) == ["relay unreachable"]
    network.pass_time(400)
    assert tried < main.sessions <= tried + 2 and alarms(neustadt) == ["relay unreachable"]


@pytest.mark.parametrize("where", ["greeting", "MAIL", "."])
def test_a_relay_that_hangs_is_left_within_seconds(network, neustadt, main, head, where) -> None:
    main.replies[where] = "silence"
    send(neustadt, head)
    assert_delivered(network, neustadt)
    assert not network.kinds_by(MAIN) and relay_row(neustadt).state == "away"


def test_a_slow_relay_that_is_the_only_one_is_waited_for(network, neustadt, main, reserve, head) -> None:
    import time

    for site in network.sites.values():
        with site.archive.database.transaction() as tx:
            relays.declare(tx, [MAIN], site.clock.now())

    def slowly(_):
        time.sleep(1.3)
        return "250 ok"

    main.replies["."] = slowly
    send(neustadt, head[:1])
    assert_delivered(network, neustadt, 1)
    assert relay_row(neustadt).state == "well" and "relay unreachable" not in neustadt.kinds()
    assert len(main.offered) == len(set(network.by)), "nothing was sent twice"


def test_a_mail_that_breaks_the_connection_does_not_hold_up_the_others(network, neustadt, main, head) -> None:
    neustadt.pacing = PacingLimits(first_parcel_max_bytes=60_000)
    main.cut_after_bytes = 8_000
    send(neustadt, head)
    assert_delivered(network, neustadt)
    assert "announce" in network.kinds_by(MAIN) and "parcel" not in network.kinds_by(MAIN)
    assert relay_row(neustadt).state in ("well", "suspect")


def test_a_mail_that_every_relay_breaks_off_at_is_a_persons_matter(network, neustadt, main, reserve, head) -> None:
    main.cut_after_bytes = reserve.cut_after_bytes = 8_000
    send(neustadt, head)
    network.run()
    network.pass_time(240)
    assert "sending deferred" in alarms(neustadt)
    assert len(main.offered) + len(reserve.offered) < 60, "with growing pauses"
    main.cut_after_bytes = reserve.cut_after_bytes = None
    assert_delivered(network, neustadt, within_s=600)


def test_limits_that_leave_no_room_end_with_a_person_and_not_in_a_loop(network, neustadt, main, reserve, head) -> None:
    main.replies["."] = reserve.replies["."] = lambda _: "552 5.3.4 too big" if len(main.offered) < 200 else None
    main.replies["EHLO"] = reserve.replies["EHLO"] = "250-test\r\n250 AUTH PLAIN"
    send(neustadt, head)
    network.run()
    network.pass_time(30)
    assert "sending refused" in alarms(neustadt)
    assert len(main.offered) + len(reserve.offered) < 150
    assert relay_row(neustadt).learned_size_max_bytes >= relays.LEARNED_MIN_BYTES


def test_a_relay_with_a_small_limit_gets_small_parcels(network, neustadt, main, head) -> None:
    main.replies["EHLO"] = "250-test\r\n250-SIZE 70000\r\n250 AUTH PLAIN"
    neustadt.pacing = PacingLimits(instances_max=6)
    send(neustadt, head)
    assert_delivered(network, neustadt)
    assert "parcel" in network.kinds_by(MAIN) and not alarms(neustadt)


def test_a_relay_that_was_taken_out_of_the_file(network, neustadt, main, reserve, head) -> None:
    main.replies["MAIL"] = "451 4.3.0 not now"
    reserve.stop()
    send(neustadt, head)
    network.run()
    assert neustadt.scalar("select count(*) from rp_message where state = 'queued' and relay = 'main'") >= 1
    reserve.start()
    del network.relays[MAIN]
    for site in network.sites.values():
        with site.archive.database.transaction() as tx:
            relays.declare(tx, [RESERVE], site.clock.now())
            gone = moving.not_ours(tx)
        if site is neustadt:
            assert gone == [MAIN]
        for name in gone:
            network.dispatch(site).dispatch(name, 0)
    assert_delivered(network, neustadt)


def test_a_partner_whom_no_relay_reaches_is_told_once_and_nothing_is_lost(network, neustadt, head) -> None:
    with neustadt.archive.database.transaction() as tx:
        relays.declare(tx, [], neustadt.clock.now())
    send(neustadt, head)
    network.run()
    network.pass_time(100)
    assert alarms(neustadt) == ["transfer stalled"] and not network.by
    with neustadt.archive.database.transaction() as tx:
        relays.declare(tx, [MAIN, RESERVE], neustadt.clock.now())
    assert_delivered(network, neustadt)


def test_an_emergency_overtakes_queued_parcels(network, neustadt, main, head, tmp_path) -> None:
    """Of what waits, at most one parcel a slot is in the way: the one that is being sent."""
    from raypost.lab.sample_studies import HeadCtSpec, head_ct, write_study

    neustadt.pacing = dataclasses.replace(SMALL_PARCELS, in_hand_max=50)
    send(neustadt, head)
    neustadt.work()
    slots = 2
    with neustadt.archive.database.transaction() as tx:
        in_hand = [outbox.claim(tx, MAIN, f"main:{slot}", neustadt.clock.now()) for slot in range(slots)]
    assert all(in_hand)
    other = write_study(head_ct(HeadCtSpec(datetime(2026, 1, 2, tzinfo=UTC), seed=9, slices=2, size_px=64)), tmp_path)
    send(neustadt, other, called="LUDWIGSHAFEN_N", association="a2")
    neustadt.work()
    emergency = neustadt.scalar("select id from rp_transfer where priority = 'emergency'")
    with neustadt.archive.database.transaction() as tx:
        order = []
        for slot in itertools.count():
            message = outbox.claim(tx, MAIN, f"main:{slot % slots}", neustadt.clock.now())
            if message is None:
                break
            order.append(message.transfer_id == emergency)
    assert True in order and False in order and order == sorted(order, reverse=True), order


def test_copies_that_are_refused_are_nobodys_matter(network, neustadt, reserve, head) -> None:
    reserve.replies["RCPT"] = "550 5.1.1 unknown"
    send(neustadt, head, called="LUDWIGSHAFEN_N")
    assert_delivered(network, neustadt)
    assert not alarms(neustadt) and not network.kinds_by(RESERVE)
    assert neustadt.scalar("select count(*) from rp_message where copy > 0 and state = 'replaced'") >= 2


def test_a_second_session_that_the_relay_does_not_want_is_no_fault_of_the_relay(network, neustadt, main, head) -> None:
    neustadt.pacing = dataclasses.replace(SMALL_PARCELS, in_hand_max=50)
    send(neustadt, head)
    neustadt.work()
    with neustadt.archive.database.transaction() as tx:
        assert outbox.claim(tx, MAIN, "main:0", neustadt.clock.now())
    main.replies["greeting"] = "421 too many connections"
    network.dispatch(neustadt, 2).dispatch(MAIN, 1)
    assert relay_row(neustadt).state == "well" and main.sessions == 1
    main.replies.clear()
    with neustadt.archive.database.transaction() as tx:
        outbox.release_slot(tx, "main:0")
    assert_delivered(network, neustadt)


def test_images_of_a_transfer_that_went_elsewhere_are_not_sent_any_more(network, neustadt, main, reserve, head) -> None:
    send(neustadt, head)
    neustadt.work()
    with neustadt.archive.database.transaction() as tx:
        first = outbox.claim(tx, MAIN, "main:0", neustadt.clock.now())
        parcel = outbox.claim(tx, MAIN, "main:1", neustadt.clock.now())
    assert (first.kind.value, parcel.kind.value) == ("announce", "parcel")
    with neustadt.archive.database.transaction() as tx:
        transfer = transfers.lock(tx, parcel.transfer_id)
        transfer.state = "rerouted"
        planning.cancel(tx, transfer)
    with neustadt.archive.database.transaction() as tx:
        transfers.lock(tx, parcel.transfer_id)
        assert not outbox.note_deferred(tx, parcel, "main:1", "later", neustadt.clock.now())
    assert neustadt.scalar("select state from rp_message where kind = 'parcel' and copy = 0") == "replaced"
    with neustadt.archive.database.transaction() as tx:
        outbox.release_slot(tx, "main:0")
        row = transfers.lock(tx, neustadt.transfer().id)
        order_again(tx, row, neustadt.limits, neustadt.clock.now(), "test")  # a person wants it there after all
    neustadt.archive.spool.discard(parcel.message_file)
    network.run()
    network.pass_time(40)
    assert neustadt.transfer().state == "delivered"


def test_the_rate_of_a_link_is_measured_with_large_mails(network, neustadt, main, head) -> None:
    neustadt.pacing = PacingLimits(first_parcel_max_bytes=400_000)
    send(neustadt, head * 1)
    assert_delivered(network, neustadt)
    large = [size for (size,) in neustadt.rows("select size_bytes from rp_message where kind = 'parcel'")]
    assert (relay_row(neustadt).rate_bytes_per_s is not None) == (max(large) >= relays.RATE_MIN_BYTES)
    with neustadt.archive.database.transaction() as tx:
        now = neustadt.clock.now()
        relays.note_taken(tx, RESERVE, 1_000_000, 2.0, now)
        assert relays.rate_bytes_per_s(tx, RESERVE) == 500_000
        relays.note_taken(tx, RESERVE, 1_000_000, 1.0, now)
        assert 500_000 < relays.rate_bytes_per_s(tx, RESERVE) < 1_000_000
        relays.note_taken(tx, RESERVE, 99_999, 0.001, now)
        assert relays.rate_bytes_per_s(tx, RESERVE) < 1_000_000


@pytest.mark.parametrize(
    ("reply", "state"), [("450 later", "replaced"), ("550 5.1.1 no", "replaced"), ("250 ok", "filed")]
)
def test_signs_of_life_are_sent_once_or_not_at_all(network, neustadt, main, reply, state) -> None:
    main.replies["RCPT"] = network.relays[RESERVE].replies["RCPT"] = reply
    file = neustadt.archive.spool.new_file("eml")
    file.write_bytes(b"From: a\r\nRaypost-Token: abcdefghij; kind=hello; number=1\r\n\r\nx\r\n")
    with neustadt.archive.database.transaction() as tx:
        greetings.note_queued(
            tx,
            partners.partner_named(tx, "ludwigshafen"),
            1,
            0,
            relay=MAIN,
            message_file=neustadt.archive.spool.keep(file, "sealed"),
            message_id="<h@raypost.test>",
            size_bytes=60,
            now=neustadt.clock.now(),
        )
        outbox.wake_dispatch(tx, MAIN, 1)
    network.swallowing = {MAIN, RESERVE}
    network.carry()
    assert neustadt.rows("select state, tries from rp_message where kind = 'hello'") == [(state, 0)]
    assert not list((neustadt.archive.spool.folder / "sealed").iterdir()) and not alarms(neustadt)


BOUNCE = """\
From: MAILER-DAEMON@raypost.test
To: neustadt@raypost.test
Subject: Undelivered Mail Returned to Sender
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="q"

--q
Content-Type: text/plain

I'm sorry.

--q
Content-Type: message/delivery-status

Reporting-MTA: dns; localhost

Final-Recipient: rfc822; ludwigshafen@raypost.test
Action: {action}
Status: {enhanced}
Diagnostic-Code: smtp; 5{enhanced} {words}

--q
Content-Type: text/rfc822-headers

From: neustadt@raypost.test
Message-ID: {message_id}

--q--
"""


def bounce(network: Network, site: TestSite, kind: str, enhanced: str, action: str = "failed", words: str = "") -> None:
    """Let the bounce of the latest attempt of a message come."""
    [(message_id,)] = site.rows("select message_id from rp_message where kind = :kind and copy = 0 limit 1", kind=kind)
    text = BOUNCE.format(action=action, enhanced=enhanced, words=words, message_id=message_id)
    network.deliver(site, text.replace("\n", "\r\n").encode())


@pytest.fixture
def bounced(network, neustadt, head):
    """A study whose mails by the main relay are taken and not delivered."""
    network.swallowing = {MAIN}
    send(neustadt, head)
    network.run()
    return network


def parcel(site: TestSite):
    return site.rows("select * from rp_message where kind = 'parcel' and copy = 0 order by number limit 1")[0]


@pytest.mark.parametrize("enhanced", ["5.2.2", "5.1.1", "4.4.7", "5.7.1"])
def test_what_bounced_goes_by_the_other_relay_at_once(bounced, neustadt, enhanced) -> None:
    bounce(bounced, neustadt, "parcel", enhanced)
    bounced.run()
    assert (parcel(neustadt).relay, parcel(neustadt).attempt) == (RESERVE, 2)
    assert not alarms(neustadt) and relay_row(neustadt).state == "suspect"
    assert_delivered(bounced, neustadt)


def test_a_bounce_that_is_only_a_delay_changes_nothing(bounced, neustadt) -> None:
    bounce(bounced, neustadt, "parcel", "4.4.1", action="delayed")
    bounced.run()
    assert parcel(neustadt).attempt == 1 and "bounced" in neustadt.kinds()


def test_a_bounce_of_an_older_attempt_or_of_a_stranger_changes_nothing(bounced, neustadt) -> None:
    bounce(bounced, neustadt, "parcel", "5.2.2")
    [(old,)] = neustadt.rows("select message_id from rp_message where kind = 'parcel'")
    bounced.run()
    for message_id in (old, "<guess@raypost.test>"):
        text = BOUNCE.format(action="failed", enhanced="5.2.2", words="", message_id=message_id)
        bounced.deliver(neustadt, text.replace("\n", "\r\n").encode())
    bounced.run()
    assert parcel(neustadt).attempt == 2 and neustadt.kinds().count("mail ignored") == 2


def test_what_is_too_big_on_the_way_is_cut_smaller_and_never_without_end(bounced, neustadt) -> None:
    for _ in range(30):
        bounce(bounced, neustadt, "parcel", "5.3.4", words="message too big")
        bounced.run()
    count = neustadt.scalar("select count(*) from rp_message where kind = 'parcel' and copy = 0")
    assert count <= 20 and parcel(neustadt).attempt <= 5
    assert_delivered(bounced, neustadt, within_s=120)


def test_a_bounce_by_the_only_relay_is_told_once(bounced, neustadt) -> None:
    with neustadt.archive.database.transaction() as tx:
        relays.declare(tx, [MAIN], neustadt.clock.now())
    bounce(bounced, neustadt, "parcel", "5.1.1")
    bounce(bounced, neustadt, "parcel", "5.1.1")
    bounced.run()
    assert alarms(neustadt) == ["bounced"] and parcel(neustadt).attempt == 1


def test_bounces_of_one_message_end(bounced, neustadt) -> None:
    bounced.swallowing = {MAIN, RESERVE}
    for _ in range(8):
        bounce(bounced, neustadt, "parcel", "5.1.1")
        bounced.run()
    assert parcel(neustadt).attempt <= 5
