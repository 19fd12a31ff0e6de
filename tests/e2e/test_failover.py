"""Two relays at different places, each Postfix and Dovecot: one stops, fills up, refuses, cuts, hangs or swallows.

Each time the study is delivered all the same, without waiting for the relay that is not well.
"""

import contextlib
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
from e2e_sites import QUICK, Pair, Study, make_study, send, settle, until

from raypost.node.demo_network import CENTRE, DOMAIN, PROVIDERS, REFERRER, DemoNetwork, RelayAddress
from raypost.node.demo_site import DemoSite
from tests.peers.cutting_proxy import CuttingProxy

pytestmark = [pytest.mark.slow, pytest.mark.interop]

MAIN, RESERVE = PROVIDERS
SLICES = 16
SIZE_MAX_BYTES = 30_000_000
DELIVERED_MAX_S = 90
"""Generous: it takes some ten seconds where nothing else runs; waiting for a dead relay would take minutes."""
QUICK_RELAYS = (*QUICK, "relay_retry_max_s = 5.0", "relay_suspect_s = 8.0", "swallowed_after_s = 4.0")


@dataclass
class Relays:
    """Two sites with accounts on two real relays; the main one's SMTP passes through a proxy."""

    pair: Pair
    real: dict[str, Any]
    proxy: CuttingProxy

    @property
    def main(self) -> Any:
        return self.real[MAIN]

    def parcels_by(self, relay: str, study: Study) -> int:
        """Count the parcels of a study that went by a relay in the end."""
        return self.pair.referrer.one(
            "select count(*) from rp_message m join rp_transfer t on t.id = m.transfer_id where m.direction = 'out'"
            " and m.kind = 'parcel' and m.copy = 0 and m.state = 'filed' and m.relay = :relay"
            " and t.study_instance_uid = :one",
            relay=relay,
            one=study.study_instance_uid,
        )

    def wait_well(self) -> None:
        """Wait until both sites use both relays again."""
        for house in self.pair.houses:
            until(
                f"all relays of {house.name} are well",
                lambda house=house: not house.rows("select name from rp_relay where state <> 'well'"),
                90,
            )

    def alarms(self) -> int:
        return self.pair.referrer.one("select count(*) from rp_event where level = 'alarm'")


class TwoRealRelays(DemoNetwork):
    """A network whose relays run already."""

    addresses: dict[str, RelayAddress]

    def _start_relays(self, site_names: list[str]) -> dict[str, RelayAddress]:
        return self.addresses

    def _make(self, name: str, relays: dict[str, RelayAddress]) -> DemoSite:
        site = super()._make(name, relays)
        text = site.config.read_text()
        site.config.write_text(text.replace("# mail_size_max_bytes", "stall_timeout_s = 3.0\n# mail_size_max_bytes"))
        return site


@pytest.fixture(scope="module")
def relays(mailserver: ModuleType, open_folder: pathlib.Path) -> Iterator[Relays]:
    folders, real = [], {}
    with contextlib.ExitStack() as stack:
        for name, domain in PROVIDERS.items():
            folders.append(mailserver.open_folder())
            one = stack.enter_context(mailserver.RealRelay(folders[-1], domain, SIZE_MAX_BYTES))
            one.passwords = {f"{site}@{domain}": f"secret of {site}" for site in (REFERRER, CENTRE)}
            for address, password in one.passwords.items():
                one.add_user(address, password)
            real[name] = one
        proxy = stack.enter_context(CuttingProxy(real[MAIN].smtp_port))
        folder = open_folder / "two-relays"
        folder.mkdir()
        network = TwoRealRelays(folder, settle_after_release_s=0.5, transfer_lines=QUICK_RELAYS)
        network.addresses = {
            name: RelayAddress(
                "localhost",
                proxy.port if name == MAIN else one.smtp_port,
                one.imap_port,
                one.ca_file,
                one.passwords,
            )
            for name, one in real.items()
        }
        with network:
            yield Relays(Pair.of(network), real, proxy)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def well_again(relays: Relays) -> Iterator[None]:
    yield
    relays.proxy.cut_after_bytes, relays.proxy.is_hanging = None, False
    relays.wait_well()


@contextlib.contextmanager
def configured(relay: Any, **lines: str) -> Iterator[None]:
    """Run the main relay's Postfix with other settings for a while."""
    file = relay.folder / "postfix" / "main.cf"
    before = file.read_text()
    file.write_text(before + "".join(f"\n{name} = {value}\n" for name, value in lines.items()))
    relay._reload()
    try:
        yield
    finally:
        file.write_text(before)
        relay._reload()


def deliver(relays: Relays, study: Study, meanwhile: Callable[[], None] = lambda: None, called: str = "") -> float:
    """Send a study, wait until it is delivered and everything rests; return how long the delivery took."""
    begin = time.monotonic()
    send(relays.pair.referrer, study, **({"called": called} if called else {}))
    meanwhile()
    settle(relays.pair, study, timeout_s=DELIVERED_MAX_S)
    took = "select extract(epoch from finished_at - opened_at) from rp_transfer where study_instance_uid = :one"
    print(f"delivered in {relays.pair.referrer.one(took, one=study.study_instance_uid):.1f} s")
    return time.monotonic() - begin


def test_one_of_two_relays_is_stopped(relays: Relays, tmp_path: pathlib.Path) -> None:
    relays.main.stop()
    try:
        study = make_study(tmp_path, seed=301, slices=SLICES)
        deliver(relays, study)
        assert not relays.parcels_by(MAIN, study)
        alarm_after = relays.pair.centre.one(
            "select extract(epoch from e.at - t.opened_at) from rp_event e join rp_transfer t on t.id = e.transfer_id"
            " where e.kind = 'announced' and t.study_instance_uid = :one",
            one=study.study_instance_uid,
        )
        assert alarm_after < 10
    finally:
        relays.main.start()
    relays.wait_well()
    back = make_study(tmp_path / "back", seed=302, slices=4)
    deliver(relays, back, called="LUDWIGSHAFEN_R")
    assert relays.parcels_by(MAIN, back), "the preferred relay is used again"


def test_a_relay_is_killed_and_started_again_in_the_middle(relays: Relays, tmp_path: pathlib.Path) -> None:
    study = make_study(tmp_path, seed=303, slices=SLICES, size_px=128)

    def meanwhile() -> None:
        relays.main.stop()
        time.sleep(2)
        relays.main.start()

    deliver(relays, study, meanwhile)


def test_a_relay_swallows(relays: Relays, tmp_path: pathlib.Path) -> None:
    with configured(relays.main, virtual_transport="discard:on purpose"):
        study = make_study(tmp_path, seed=304, slices=SLICES)
        deliver(relays, study, called="LUDWIGSHAFEN_R")
        assert not relays.parcels_by(MAIN, study)
        assert relays.pair.referrer.events("relay suspected")


def test_a_mailbox_is_full(relays: Relays, tmp_path: pathlib.Path) -> None:
    address, password = f"{CENTRE}@{DOMAIN}", relays.main.passwords[f"{CENTRE}@{DOMAIN}"]
    relays.main.add_user(address, password, quota="1K")
    time.sleep(2)  # Dovecot looks at the file once a second
    alarms = relays.alarms()
    try:
        study = make_study(tmp_path, seed=305, slices=SLICES)
        deliver(relays, study)
        assert not relays.parcels_by(MAIN, study)
        assert any("5.2.2" in (one.fields.get("said") or "") for one in relays.pair.referrer.events("sending deferred"))
        learned = "select learned_size_max_bytes from rp_relay where name = :name"
        assert relays.pair.referrer.one(learned, name=MAIN) is None
        assert relays.alarms() == alarms
    finally:
        relays.main.add_user(address, password, quota="4G")


def test_mails_are_too_big_for_a_relay(relays: Relays, tmp_path: pathlib.Path) -> None:
    with configured(relays.main, message_size_limit="60000"):
        time.sleep(4)  # a session that is open knows the old limit
        study = make_study(tmp_path, seed=306, slices=SLICES, size_px=128)
        deliver(relays, study)
        largest = "select max(size_bytes) from rp_message where relay = :name and state = 'filed' and kind = 'parcel'"
        largest += " and transfer_id = (select max(id) from rp_transfer where direction = 'out')"
        assert relays.pair.referrer.one(largest, name=MAIN) <= 60_000


def test_the_connection_is_cut_inside_every_parcel(relays: Relays, tmp_path: pathlib.Path) -> None:
    relays.proxy.cut_after_bytes, relays.proxy.cuts = 12_000, 0  # less than one image of these
    study = make_study(tmp_path, seed=307, slices=SLICES, size_px=256)
    deliver(relays, study)
    taken = "select m.relay, count(*) from rp_message m join rp_transfer t on t.id = m.transfer_id"
    taken += " where m.kind = 'parcel' and m.accepted_at is not null and study_instance_uid = :one group by 1"
    by_relay = {relay: count for relay, count in relays.pair.referrer.rows(taken, one=study.study_instance_uid)}
    assert relays.proxy.cuts and by_relay[RESERVE], "copies of the first one count, too"


def test_a_relay_hangs_in_the_middle(relays: Relays, tmp_path: pathlib.Path) -> None:
    study = make_study(tmp_path, seed=308, slices=SLICES, size_px=128)
    sent = "select count(*) from rp_message m join rp_transfer t on t.id = m.transfer_id where accepted_at is not null"
    sent += " and study_instance_uid = :one and kind = 'parcel'"

    def meanwhile() -> None:
        until("a parcel is sent", lambda: relays.pair.referrer.one(sent, one=study.study_instance_uid))
        relays.proxy.is_hanging = True

    deliver(relays, study, meanwhile, called="LUDWIGSHAFEN_R")


def test_what_bounces_after_the_relay_took_it_goes_by_the_other(relays: Relays, tmp_path: pathlib.Path) -> None:
    """The mailbox is gone, and Postfix learns of it from Dovecot only after its 250."""
    users = relays.main.folder / "sites" / "users"
    before = users.read_text()
    address = f"{CENTRE}@{DOMAIN}"
    users.write_text("".join(line for line in before.splitlines(True) if not line.startswith(address)))
    time.sleep(2)
    try:
        study = make_study(tmp_path, seed=309, slices=SLICES)
        deliver(relays, study, called="LUDWIGSHAFEN_R")
        assert not relays.parcels_by(MAIN, study)
        bounced = relays.pair.referrer.events("bounced")
        assert any(one.fields["done"] == "sent by another relay" for one in bounced), bounced
    finally:
        users.write_text(before)
