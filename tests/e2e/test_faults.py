"""Faults while a study passes: processes killed with -9, the database and the relay gone for a while.

After each of them: nothing lost, nothing filed twice, nothing left lying, everything else went on.
"""

import os
import pathlib
import random
import signal
import threading
import time

import pytest
from e2e_sites import House, Pair, Study, lives, make_study, send, settle, until

pytestmark = pytest.mark.slow

SEEDS = range(int(os.environ.get("RAYPOST_FIRST_SEED", "1")), 1 + int(os.environ.get("RAYPOST_LAST_SEED", "3")))
SLICES = 40
PACE_S = 0.03
QUICK_MAX_S = 8
"""A small study takes one second; where every job waits for the next poll, seventeen."""


class Scanner(threading.Thread):
    """A modality that sends in the background and tries again what was not taken."""

    def __init__(self, house: House, study: Study) -> None:
        super().__init__(daemon=True)
        self._house, self._study = house, study
        self.failed: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            send(self._house, self._study, pace_s=PACE_S)
        except BaseException as error:  # noqa: BLE001  (raised again by the test)
            self.failed = error

    def finish(self) -> None:
        self.join(150)
        assert not self.is_alive()
        if self.failed:
            raise self.failed


def _begun(pair: Pair, study: Study) -> None:
    until(
        "the first images came",
        lambda: pair.referrer.one(
            "select count(*) from rp_instance i join rp_case c on c.id = i.case_id where study_instance_uid = :one",
            one=study.study_instance_uid,
        ),
    )


def _kill(house: House, name: str) -> None:
    until(f"{name} of {house.name} killed", lambda: house.kill(name), 30)


@pytest.mark.parametrize("seed", SEEDS)
def test_any_process_is_killed_at_any_time(pair: Pair, tmp_path: pathlib.Path, seed: int) -> None:
    chance = random.Random(seed)
    study = make_study(tmp_path, seed=100 + seed, slices=SLICES)
    set_aside = {house.name: house.quarantine() for house in pair.houses}
    victims = [(house, name) for house in pair.houses for name in ("dicom", "worker", "collector", "sandbox")]
    chance.shuffle(victims)
    scanner = Scanner(pair.referrer, study)
    _begun(pair, study)
    for house, name in victims:
        time.sleep(chance.uniform(0.05, 0.6))
        _kill(house, name)
    scanner.finish()
    settle(pair, study, killed=True)
    assert {house.name: house.quarantine() for house in pair.houses} == set_aside


def test_the_supervisor_is_killed_and_started_again(pair: Pair, tmp_path: pathlib.Path) -> None:
    study = make_study(tmp_path, seed=110, slices=SLICES)
    scanner = Scanner(pair.referrer, study)
    _begun(pair, study)
    orphans = pair.referrer.processes("all")
    pair.referrer.kill("supervisor")
    until("the site's other processes end, too", lambda: not any(map(lives, orphans)), 30)
    pair.referrer.serve_again()
    scanner.finish()
    settle(pair, study, killed=True)


def test_a_whole_site_is_killed_and_started_again(pair: Pair, tmp_path: pathlib.Path) -> None:
    study = make_study(tmp_path, seed=120, slices=SLICES)
    scanner = Scanner(pair.referrer, study)
    until(
        "something is filed",
        lambda: pair.centre.rows("select 1 from rp_case where study_instance_uid = :one", one=study.study_instance_uid),
    )
    pair.centre.kill("all")
    scanner.finish()
    pair.centre.serve_again()
    settle(pair, study, killed=True)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "restarted"])
def test_the_database_goes_away(pair: Pair, tmp_path: pathlib.Path, how: signal.Signals) -> None:
    """SIGINT to the postmaster is PostgreSQL's fast shutdown; the supervisors start it again."""
    study = make_study(tmp_path, seed=130 + how, slices=SLICES)
    scanner = Scanner(pair.referrer, study)
    _begun(pair, study)
    postmaster = pathlib.Path(pair.network._server.data) / "postmaster.pid"
    pid = int(postmaster.read_text().split("\n")[0])
    os.kill(pid, how)
    until("a new postmaster", lambda: postmaster.exists() and int(postmaster.read_text().split("\n")[0] or 0) != pid)
    scanner.finish()
    settle(pair, study, killed=True)
    after = make_study(tmp_path / "after", seed=230 + how, slices=3)  # and it is as quick as before: jobs wake workers
    send(pair.referrer, after)
    settle(pair, after, killed=True)
    took = "select extract(epoch from finished_at - opened_at) from rp_transfer where study_instance_uid = :one"
    assert pair.referrer.one(took, one=after.study_instance_uid) < QUICK_MAX_S


def test_the_relay_falls_silent_for_a_while(pair: Pair, tmp_path: pathlib.Path) -> None:
    study = make_study(tmp_path, seed=140, slices=SLICES)
    relay = pair.network.relays["main"].process
    assert relay is not None
    scanner = Scanner(pair.referrer, study)
    _begun(pair, study)
    relay.send_signal(signal.SIGSTOP)
    try:
        scanner.finish()  # the modality does not notice
    finally:
        relay.send_signal(signal.SIGCONT)
    settle(pair, study)


@pytest.mark.interop
def test_the_relay_is_down_while_sending_and_while_collecting(
    real_pair: Pair, real_relay: object, tmp_path: pathlib.Path
) -> None:
    study = make_study(tmp_path, seed=150, slices=SLICES)
    scanner = Scanner(real_pair.referrer, study)
    sent = "select count(*) from rp_message m join rp_transfer t on t.id = m.transfer_id where accepted_at is not null"
    sent += " and study_instance_uid = :one"
    until("the first parcel is sent", lambda: real_pair.referrer.one(sent, one=study.study_instance_uid))
    real_relay.stop()
    unreachable = len(real_pair.referrer.events("relay unreachable"))
    scanner.finish()
    until("it is noticed", lambda: len(real_pair.referrer.events("relay unreachable")) >= max(1, unreachable))
    real_relay.start()
    before = real_pair.centre.one("select count(*) from rp_collected")
    until("collecting goes on", lambda: real_pair.centre.one("select count(*) from rp_collected") > before)
    real_relay.stop()
    time.sleep(1)
    real_relay.start()
    settle(real_pair, study)
    assert real_pair.referrer.events("relay reached")
