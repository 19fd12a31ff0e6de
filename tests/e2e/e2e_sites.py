"""What the end-to-end tests do with a site: ask its database, call its commands, send to it, kill its processes."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psutil
import pydicom
import sqlalchemy as sa

from raypost.archive import overdue as overdue_rows
from raypost.archive.blobs import BlobStore
from raypost.archive.spool import Spool
from raypost.errors import RaypostError
from raypost.lab.sample_studies import HeadCtSpec, head_ct, write_study
from raypost.lab.scanner import scan
from raypost.node.demo_network import CENTRE, REFERRER, SCANNER_AE_TITLE, DemoNetwork, DemoSite, serve

ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}
LOOK_S = 0.1
OVERDUE_S = 45
QUICK = (
    "receipt_timeout_s = 6.0",
    "quiet_s = 4.0",
    "first_parcel_max_bytes = 40_000",
    "parcel_max_bytes = 150_000",
)
"""Many small parcels and little patience: a study is many mails, and what was lost is asked for soon."""

TO_CENTRE = "LUDWIGSHAFEN_N"
STATES_OPEN = "('planned', 'queued', 'sending', 'verified')"


def until(what: str, look: Callable[[], Any], timeout_s: float = 90.0) -> Any:
    """Look until something true is found."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not in {timeout_s:.0f} s: {what}"
        time.sleep(LOOK_S)


def soon(check: Callable[[], None], timeout_s: float = 60.0) -> None:
    """Repeat a check until it holds."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOOK_S)


class House:
    """One site of a running network."""

    def __init__(self, site: DemoSite) -> None:
        self.site = site
        self.name = site.name
        self.database = site.database()
        self.blobs = BlobStore(site.folder / "data" / "blobs")
        self.spool = Spool(site.folder / "data" / "spool")

    def rows(self, sql: str, **words: Any) -> list[Any]:
        """Ask the database; one that is being restarted is waited for."""
        deadline = time.monotonic() + 60
        while True:
            try:
                with self.database.transaction() as tx:
                    return list(tx.execute(sa.text(sql), words))
            except RaypostError:
                assert time.monotonic() < deadline, "the database stays away"
                time.sleep(LOOK_S)

    def one(self, sql: str, **words: Any) -> Any:
        return self.rows(sql, **words)[0][0]

    def cli(self, *arguments: object, exit_code: int = 0) -> Any:
        """Run a command with --json and return its answer."""
        return raypost(*arguments, "--json", config=self.site.config, exit_code=exit_code)

    def processes(self, name: str) -> list[psutil.Process]:
        """Return living processes of the site: dicom, worker, collector, sandbox, supervisor or all."""
        assert self.site.process is not None
        supervisor = psutil.Process(self.site.process.pid)
        if name == "supervisor":
            return [supervisor]
        found = []
        for one in [supervisor, *supervisor.children(recursive=True)] if name == "all" else supervisor.children(True):
            with contextlib.suppress(psutil.Error, OSError):
                said = pathlib.Path(f"/proc/{one.pid}/comm").read_text().strip()
                is_sandbox = "raypost.sandbox.worker" in one.cmdline()
                if name == "all" or (name == "sandbox" and is_sandbox) or said.startswith(f"raypost {name}"[:15]):
                    found.append(one)
        return found

    def kill(self, name: str) -> int:
        """Kill with -9; return how many died. Of the sandboxes those that do the work, not their mothers."""
        dead = 0
        for one in self.processes(name):
            with contextlib.suppress(psutil.Error):
                if name != "sandbox" or not one.children():
                    one.send_signal(signal.SIGKILL)
                    dead += 1
        return dead

    def serve_again(self) -> None:
        """Start the site anew after its supervisor ended."""
        assert self.site.process is not None
        self.site.process.wait(30)
        serve(self.site)

    def quarantine(self) -> list[Any]:
        return self.rows("select quarantine_key, source, code, what from rp_quarantine order by id")

    def events(self, kind: str) -> list[Any]:
        return self.rows("select level, fields from rp_event where kind = :kind order by id", kind=kind)

    def blob(self, sop_instance_uid: str) -> pathlib.Path:
        sha256 = self.one("select sha256 from rp_instance where sop_instance_uid = :one", one=sop_instance_uid)
        return self.blobs.path(sha256)


def lives(process: psutil.Process) -> bool:
    """Say whether a process runs; in a container nobody may collect a dead one."""
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@dataclass
class Pair:
    """The two sites of a network."""

    network: DemoNetwork
    referrer: House
    centre: House

    @classmethod
    def of(cls, network: DemoNetwork) -> "Pair":
        return cls(network, House(network.sites[REFERRER]), House(network.sites[CENTRE]))

    @property
    def houses(self) -> tuple[House, House]:
        return self.referrer, self.centre


def raypost(*arguments: object, config: pathlib.Path | None = None, exit_code: int = 0) -> Any:
    """Run `raypost …` as a person does; JSON is read."""
    command = [sys.executable, "-m", "raypost", *map(str, arguments), *(["-c", str(config)] if config else [])]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=180, check=False)
    assert done.returncode == exit_code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    if "--json" not in arguments:
        return done.stdout
    return json.JSONDecoder().raw_decode(done.stdout.lstrip())[0]


@dataclass(frozen=True)
class Study:
    """Files of one study."""

    files: list[pathlib.Path]
    study_instance_uid: str

    @property
    def sop_instance_uids(self) -> list[str]:
        return [str(pydicom.dcmread(one, stop_before_pixels=True).SOPInstanceUID) for one in self.files]


def make_study(folder: pathlib.Path, seed: int, slices: int, size_px: int = 64) -> Study:
    """Make a small CT; the same seed gives other UIDs in every run."""
    spec = HeadCtSpec(datetime.now(UTC), seed=seed, slices=slices, size_px=size_px, has_localizer=False)
    files = write_study(head_ct(spec), folder)
    return Study(files, str(pydicom.dcmread(files[0], stop_before_pixels=True).StudyInstanceUID))


def send(house: House, study: Study, called: str = TO_CENTRE, pace_s: float = 0.0, timeout_s: float = 120.0) -> int:
    """Send as a modality that tries again what was not answered with success; return how often it had to begin."""
    left, begun, deadline = list(study.files), 0, time.monotonic() + timeout_s
    while left:
        assert time.monotonic() < deadline, f"{len(left)} of {len(study.files)} instances are not taken"
        begun += 1
        batch, stored = list(left), []
        with contextlib.suppress(RaypostError):
            scan(
                batch,
                "127.0.0.1",
                house.site.dicom_port,
                SCANNER_AE_TITLE,
                called,
                on_stored=lambda one, seen=stored: seen.append(one),
                pace_s=pace_s,
            )
        taken = {batch[one.number - 1] for one in stored if one.is_stored}
        left = [one for one in left if one not in taken]
        if left:
            time.sleep(LOOK_S)
    return begun


def wait_delivered(pair: Pair, study: Study, timeout_s: float = 120.0) -> None:
    """Wait until every instance of a study is delivered by the sender's own account."""

    def _is_delivered() -> bool:
        states = pair.referrer.rows(
            "select state from rp_transfer where direction = 'out' and study_instance_uid = :one",
            one=study.study_instance_uid,
        )
        unrouted = pair.referrer.one(
            "select count(*) from rp_instance i join rp_case c on c.id = i.case_id"
            " where c.study_instance_uid = :one and routed_at is null",
            one=study.study_instance_uid,
        )
        assert not any(row.state == "unconfirmed" for row in states), "unconfirmed"
        return bool(states) and not unrouted and all(row.state == "delivered" for row in states)

    until("delivered", _is_delivered, timeout_s)


def assert_filed_once(pair: Pair, study: Study) -> None:
    """Every instance that was stored with success is in both archives, at the partner exactly once."""
    wanted = sorted(study.sop_instance_uids)
    for house in pair.houses:
        rows = house.rows(
            "select sop_instance_uid, version, standing, sha256 from rp_instance i join rp_case c on c.id = i.case_id"
            " where c.study_instance_uid = :one",
            one=study.study_instance_uid,
        )
        assert sorted(row.sop_instance_uid for row in rows) == wanted, house.name
        assert {(row.version, row.standing) for row in rows} == {(1, "current")}
        for row in rows:
            house.blobs.verify(row.sha256)
    for file, sop_instance_uid in zip(study.files, study.sop_instance_uids, strict=True):
        assert_same_pixels(file, pair.centre.blob(sop_instance_uid))


def assert_same_pixels(sent: pathlib.Path, kept: pathlib.Path) -> None:
    assert np.array_equal(pydicom.dcmread(sent).pixel_array, pydicom.dcmread(kept, force=True).pixel_array)


def assert_at_rest(house: House, *, killed: bool = False) -> None:
    """Nothing is left in hand, nothing waits for ever, no file is left in the spool.

    Args:
        killed: Processes were killed: what they left unfinished lies there until it is a day old, and goes then.
    """

    def _check() -> None:
        stuck = house.rows(f"select kind, number, state, tries, said from rp_message where state in {STATES_OPEN}")
        assert not stuck, (house.name, stuck)
        assert not house.rows("select id, mail_file from rp_collected where state = 'fetched'"), house.name
        assert not house.rows("select id from rp_forward where state = 'waiting'"), house.name
        jobs = house.rows(
            "select task_name, status, attempts from procrastinate_jobs where status in ('doing', 'todo')"
            " and not (task_name = 'dispatch' and status = 'doing')"  # a session stays open some seconds for more
        )
        assert not jobs, (house.name, jobs)
        for table in ("rp_transfer", "rp_message", "rp_collected"):
            overdue = house.one(f"select count(*) from {table} where due < now() - make_interval(secs => {OVERDUE_S})")
            assert not overdue, (house.name, table)
        with house.database.transaction() as tx:
            named = overdue_rows.files_in_use(tx)
        assert not named, (house.name, named)
        left = {f"{one}/{file.name}" for one in ("mail", "sealed") for file in (house.spool.folder / one).iterdir()}
        if not killed:
            left |= {
                f"{one}/{file.name}"
                for one in ("temporary", "assembly")
                for file in (house.spool.folder / one).iterdir()
                if file.is_file()
            }
            assert not left, (house.name, left)

    soon(_check)
    if killed:
        house.spool.sweep_orphans(datetime.now(UTC) + timedelta(hours=25), set())
        for shelf in ("mail", "sealed", "assembly"):
            assert not list((house.spool.folder / shelf).iterdir())


def settle(pair: Pair, *studies: Study, killed: bool = False, timeout_s: float = 120.0) -> None:
    """Wait for delivery, then assert every invariant."""
    for study in studies:
        wait_delivered(pair, study, timeout_s)
    for study in studies:
        assert_filed_once(pair, study)
    for house in pair.houses:
        assert_at_rest(house, killed=killed)
