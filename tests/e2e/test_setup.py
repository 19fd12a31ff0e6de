"""Two sites set up by nothing but the command line, as two administrators do it; and a self-test that names faults."""

import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import psutil
import pytest
from e2e_sites import ENVIRONMENT, lives, raypost, until

from raypost.lab.free_port import free_port
from raypost.node import check
from raypost.node.clock import SystemClock
from raypost.node.demo_network import DOMAIN, DemoSite, serve
from raypost.sealing.openpgp import KeyRing
from raypost.settings import load

pytestmark = [pytest.mark.slow, pytest.mark.interop]
STOP_MAX_S = 15


@dataclass
class Machine:
    """One administrator's machine."""

    name: str
    folder: pathlib.Path
    fingerprint: str = ""
    others: dict[str, pathlib.Path] = field(default_factory=dict)

    @property
    def config(self) -> pathlib.Path:
        return self.folder / "raypost.toml"

    def variant(self, name: str, *changes: tuple[str, str]) -> pathlib.Path:
        """Return the configuration with one thing wrong."""
        text = self.config.read_text()
        for old, new in changes:
            assert re.search(old, text, re.M), old
            text = re.sub(old, new, text, flags=re.M)
        file = self.folder / f"{name}.toml"
        file.write_text(text)
        return file


def _init(machine: Machine, relay: object) -> None:
    said = raypost(
        "init",
        machine.folder,
        "--name",
        machine.name,
        "--address",
        f"{machine.name}@{DOMAIN}",
        "--relay",
        "localhost",
        "--calling",
        "CT1",
        "--json",
    )
    machine.fingerprint = said["fingerprint"]
    for old, new in (
        ("smtp_port = 465", f"smtp_port = {relay.smtp_port}"),
        ("imap_port = 993", f"imap_port = {relay.imap_port}"),
        ("port = 11112", f"port = {free_port()}"),
        ('# ca_file = "relay-ca.pem"', f'ca_file = "{relay.ca_file}"'),
        ("# settle_s = 30.0", "settle_s = 2.0"),
    ):
        text = machine.config.read_text()
        assert old in text
        machine.config.write_text(text.replace(old, new, 1))
    (machine.folder / "relay-password").write_text(f"secret of {machine.name}\n")


@pytest.fixture(scope="module")
def machines(open_folder: pathlib.Path, real_relay: object) -> Iterator[tuple[Machine, Machine]]:
    """Two sites after `raypost init` and the edits it tells of; they do not know each other."""
    found = [Machine(name, open_folder / f"machine-{name}") for name in ("speyer", "worms")]
    for one in found:
        real_relay.add_user(f"{one.name}@{DOMAIN}", f"secret of {one.name}")
    threads = [threading.Thread(target=_init, args=(one, real_relay)) for one in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(one.fingerprint for one in found)
    yield found[0], found[1]


def _findings(config: pathlib.Path, partner: str | None = None, timeout_s: float = 3.0) -> dict[str, check.Finding]:
    return {one.name: one for one in check.run(load(config), partner, timeout_s)}


def test_a_card_with_another_fingerprint_is_refused(machines: tuple[Machine, Machine]) -> None:
    speyer, worms = machines
    for one in machines:
        one.others["card"] = one.folder / f"{one.name}.card"
        one.others["card"].write_text(raypost("partner", "card", config=one.config))
        assert "PRIVATE" not in one.others["card"].read_text()
    card = worms.others["card"]
    for wrong in (speyer.fingerprint, worms.fingerprint[-16:]):
        said = raypost("partner", "add", card, "--fingerprint", wrong, "--json", config=speyer.config, exit_code=2)
        assert set(said["error"]) == {"code", "what", "meaning", "do"}
    known = raypost("partner", "list", "--json", config=speyer.config)
    assert [one["name"] for one in known] == ["speyer"]
    raypost("send", card, "--to", "worms", "--json", config=speyer.config, exit_code=2)
    spelled = " ".join(worms.fingerprint[at : at + 4] for at in range(0, 40, 4))
    added = raypost("partner", "add", card, "--fingerprint", spelled, "--json", config=speyer.config)
    assert set(added["ae_titles"]) == {"WORMS", "WORMS_N", "WORMS_U", "WORMS_R"}


def test_check_names_each_fault(machines: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    speyer, _ = machines
    (speyer.folder / "wrong-password").write_text("wrong\n")
    (speyer.folder / "wrong-password").chmod(0o600)
    found = _findings(speyer.variant("password", (r'"relay-password"', '"wrong-password"')))
    assert not found["SMTP main"].is_good and "535" in found["SMTP main"].what and found["SMTP main"].code == "RP-201"
    assert not found["IMAP main"].is_good and found["IMAP main"].do

    assert not found["serve"].is_good and "systemctl start" in found["serve"].do
    assert not found["DICOM port"].is_good

    found = _findings(speyer.variant("imap", (r"^imap_port = \d+", f"imap_port = {free_port()}")))
    assert found["SMTP main"].is_good
    assert not found["IMAP main"].is_good and "refused" in found["IMAP main"].what.lower()

    found = _findings(
        speyer.variant("disk", (r"^# disk_free_min_bytes = .*", "disk_free_min_bytes = 1_000_000_000_000_000"))
    )
    assert not found["disk"].is_good and "nearly full" in found["disk"].what

    (speyer.folder / "wrong-password").chmod(0o644)
    found = _findings(speyer.folder / "password.toml")
    assert not found["password of main"].is_good and "chmod" in found["password of main"].do

    end = KeyRing(load(speyer.config).keys_folder).facts(speyer.fingerprint).usable_until
    assert end is not None
    with monkeypatch.context() as later:
        later.setattr(SystemClock, "now", lambda _: end - timedelta(days=10))
        found = _findings(speyer.config)
        assert found["own certificate"].is_good and "expires soon" in found["own certificate"].what
        later.setattr(SystemClock, "now", lambda _: end + timedelta(days=2))
        found = _findings(speyer.config)
        assert not found["own certificate"].is_good and "expired" in found["own certificate"].what
        assert not found["certificate of worms"].is_good


@pytest.fixture(scope="module")
def serving(machines: tuple[Machine, Machine]) -> Iterator[tuple[DemoSite, DemoSite]]:
    """Both run `raypost serve`; worms does not know speyer yet."""
    sites = [DemoSite(one.name, one.folder, one.config) for one in machines]
    for site in sites:
        serve(site)
    yield sites[0], sites[1]
    for site in sites:
        if site.process is not None and site.process.poll() is None:
            site.process.kill()
            site.process.wait()


def test_check_tells_of_a_partner_that_does_not_answer(
    machines: tuple[Machine, Machine], serving: tuple[DemoSite, DemoSite]
) -> None:
    speyer, worms = machines
    found = _findings(speyer.config, "worms", 6.0)
    assert found["test transfer to oneself"].is_good
    assert not found["test transfer to worms"].is_good
    assert "are you its partner" in found["test transfer to worms"].what
    assert found["serve"].is_good and found["DICOM port"].is_good
    set_aside = raypost("quarantine", "list", "--json", config=worms.config)
    assert set_aside and all(one["code"].startswith("RP-5") for one in set_aside)


def test_check_is_content_with_a_whole_network(
    machines: tuple[Machine, Machine], serving: tuple[DemoSite, DemoSite]
) -> None:
    speyer, worms = machines
    card = speyer.others["card"]
    raypost("partner", "add", card, "--fingerprint", speyer.fingerprint, "--json", config=worms.config)
    said = raypost("check", "--partner", "worms", "--json", config=speyer.config)
    assert said["good"] and all(one["good"] for one in said["findings"]), said
    assert {
        "SMTP main",
        "IMAP main",
        "database",
        "disk",
        "own certificate",
        "certificate of worms",
        "serve",
        "DICOM port",
        "test transfer to oneself",
        "clock",
        "test transfer to worms",
    } <= {one["name"] for one in said["findings"]}
    assert raypost("study", "list", "--json", config=worms.config)[0]["test"] is True


def test_sigterm_stops_everything_in_time(
    machines: tuple[Machine, Machine], serving: tuple[DemoSite, DemoSite]
) -> None:
    processes = []
    for site in serving:
        assert site.process is not None
        processes += psutil.Process(site.process.pid).children(recursive=True)
    begin = time.monotonic()
    for site in serving:
        site.process.send_signal(signal.SIGTERM)
    for site in serving:
        assert site.process.wait(STOP_MAX_S) == 0
    assert time.monotonic() - begin < STOP_MAX_S
    assert not [one for one in processes if lives(one)]
    until("nothing of the sites runs any more", lambda: not _still_there(machines), 15)


def _still_there(machines: tuple[Machine, Machine]) -> list[tuple[int, list[str]]]:
    found = []
    for one in psutil.process_iter(["pid", "cmdline", "cwd", "status"]):
        said = " ".join(one.info["cmdline"] or []) + str(one.info["cwd"])
        if one.info["status"] != psutil.STATUS_ZOMBIE and any(str(machine.folder) in said for machine in machines):
            found.append((one.info["pid"], one.info["cmdline"]))
    return found


def test_serve_without_a_password_says_what_to_do(machines: tuple[Machine, Machine]) -> None:
    speyer, _ = machines
    config = speyer.variant("no-password", (r'"relay-password"', '"missing"'))
    done = subprocess.run(
        [sys.executable, "-m", "raypost", "serve", "-c", str(config)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2 and "missing" in done.stderr and "password" in done.stderr
