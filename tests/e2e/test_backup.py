"""A site is backed up while a study passes, destroyed, and made again elsewhere: the study arrives, once.

And a backup or a restore that is killed with -9 at any moment does no harm to the next one.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import psycopg
import pytest
from e2e_sites import ENVIRONMENT, QUICK, House, Pair, lives, make_study, raypost, send, settle, until

from raypost.node.demo_network import REFERRER, DemoNetwork
from raypost.node.demo_site import DemoSite, serve

pytestmark = pytest.mark.slow

SLICES = 24
KILLS = int(os.environ.get("RAYPOST_BACKUP_KILLS", "3"))
SENT = (
    "select count(*) from rp_message m join rp_transfer t on t.id = m.transfer_id"
    " where m.direction = 'out' and m.kind = 'parcel' and m.accepted_at is not null and study_instance_uid = :one"
)


@pytest.fixture
def pair(open_folder: pathlib.Path) -> Iterator[Pair]:
    """Two sites of our own, since one of them does not survive."""
    folder = open_folder / "backup"
    folder.mkdir()
    try:
        with DemoNetwork(folder, settle_after_release_s=0.5, transfer_lines=QUICK) as network:
            yield Pair.of(network)
    finally:
        for one in folder.glob("restored*"):
            DemoNetwork.remove_leftovers(one / "data")
        shutil.rmtree(folder, ignore_errors=True)


def destroy(pair: Pair) -> None:
    """Kill the referring site with -9 and remove everything of it: folder and database."""
    house = pair.referrer
    before = house.processes("all")
    house.kill("all")
    until("all its processes end", lambda: not any(map(lives, before)), 30)
    house.site.forget_keys()
    house.database.close()
    shutil.rmtree(house.site.folder)
    server = pair.network._server
    assert server is not None
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"drop database {house.name} with (force)")


def test_a_site_is_lost_and_restored_elsewhere_while_a_study_is_on_its_way(pair: Pair, tmp_path: pathlib.Path) -> None:
    old, relay = pair.referrer, pair.network.relays["main"].process
    assert relay is not None
    done = make_study(tmp_path / "done", seed=300, slices=3)
    send(old, done)
    settle(pair, done)
    study = make_study(tmp_path / "study", seed=301, slices=SLICES)
    send(old, study, pace_s=0.02)
    until("the first parcel is sent", lambda: old.one(SENT, one=study.study_instance_uid))
    relay.send_signal(signal.SIGSTOP)
    backups = pair.network.folder / "backups"
    try:
        made = old.cli("backup", backups)
        assert made["damaged"] == 0 and made["blobs"] >= SLICES
        assert old.one("select count(*) from rp_message where state in ('planned', 'queued', 'sending')") > 0
        sent = old.one(SENT, one=study.study_instance_uid)
    finally:
        relay.send_signal(signal.SIGCONT)
    with contextlib.suppress(AssertionError):  # it goes on: what is sent now the backup does not know
        until("more is sent", lambda: old.one(SENT, one=study.study_instance_uid) > sent, 5)
    destroy(pair)

    folder = pair.network.folder / "restored"
    found = raypost("restore", backups, folder, "--json")
    assert found["damaged"] == 0 and found["snapshot"] == made["snapshot"]
    changed = {one["setting"]: one["now"] for one in found["changed_settings"]}
    assert changed == {"database.embedded_folder": "data/postgresql"}, "the rest lay in the site's folder"
    site = DemoSite(REFERRER, folder, folder / "raypost.toml")
    pair.network.sites[REFERRER] = site
    pair.referrer = House(site)
    serve(site)
    settle(pair, done, study, killed=True)
    assert pair.referrer.one("select count(*) from rp_restore") == 1
    after = make_study(tmp_path / "after", seed=302, slices=3)
    send(pair.referrer, after)
    settle(pair, after, killed=True)
    assert not pair.referrer.quarantine() and not pair.centre.quarantine()
    again = pair.referrer.cli("backup", backups)
    assert again["snapshots"] == 2 and again["linked"] + again["copied"] == again["blobs"] - made["blobs"]


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "raypost", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def kill_after(process: subprocess.Popen[str], seconds: float) -> bool:
    """Kill a command with -9; True when it was still at work. What it started must end by itself."""
    time.sleep(seconds)
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGKILL)
    was_at_work = process.wait() == -signal.SIGKILL
    until("its programs end", lambda: not was_at_work or not any(map(_is_program, children)), 30)
    process.stderr.close()
    return was_at_work


def _is_program(one: psutil.Process) -> bool:
    """Say whether a process is one of PostgreSQL's programs, and lives."""
    with contextlib.suppress(psutil.Error):  # it may end at any moment
        return lives(one) and ("pg_" in one.name() or one.name() == "psql")
    return False


def took(process: subprocess.Popen[str]) -> float:
    begin = time.monotonic()
    said = process.communicate(timeout=180)[1]
    assert process.returncode == 0, said
    return time.monotonic() - begin


def test_backup_and_restore_are_killed_at_any_moment(pair: Pair, tmp_path: pathlib.Path) -> None:
    site = pair.referrer.site
    study = make_study(tmp_path / "study", seed=310, slices=SLICES)
    send(pair.referrer, study)
    settle(pair, study)
    whole_s = took(start("backup", pair.network.folder / "for-time", "-c", site.config))
    backups = pair.network.folder / "backups"
    killed = 0
    for number in range(KILLS):
        killed += kill_after(start("backup", backups, "-c", site.config), whole_s * (0.35 + 0.6 * number / KILLS))
        if (backups / "raypost-backup.json").exists() and list((backups / "snapshots").glob("*/manifest.json")):
            assert raypost("backup", "verify", backups, "--deep", "--json")["good"] is True
    assert killed >= KILLS // 2
    made = pair.referrer.cli("backup", backups)
    assert made["damaged"] == 0
    verified = raypost("backup", "verify", backups, "--deep", "--json")
    assert verified["good"] is True and len(verified["snapshots"]) == made["snapshots"]
    assert len(list((backups / "snapshots").iterdir())) == made["snapshots"], "what was half is gone"

    whole_s = took(start("restore", backups, pair.network.folder / "restored-for-time"))
    folder = pair.network.folder / "restored"
    killed = 0
    for number in range(KILLS):
        if (folder / "raypost.toml").exists():
            break
        killed += kill_after(start("restore", backups, folder), whole_s * (0.3 + 0.6 * number / KILLS))
    assert killed
    if not (folder / "raypost.toml").exists():
        raypost("restore", backups, folder, "--json")
    listed = raypost("study", "list", "--json", config=folder / "raypost.toml")
    assert [one["instances"] for one in listed] == [SLICES]
    events = json.dumps(raypost("events", "--json", config=folder / "raypost.toml"))
    assert events.count('"restored"') == 1, "restored once, however often it was tried"
