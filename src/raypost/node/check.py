"""`raypost check`: tests a site end to end, piece by piece, and names the fault."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from raypost.archive import collected, partners, queue, search
from raypost.dicom.scu import DicomNode, echo
from raypost.errors import RaypostError, RefusedError, UnreachableError, UnsafeSettingsError, UsageError
from raypost.lab.sample_studies import tiny_ct, write_study
from raypost.mail.imap import ImapMailbox
from raypost.mail.smtp import SmtpSession
from raypost.model.site import Partner
from raypost.model.transfer import Priority
from raypost.model.units import duration_text, size_text
from raypost.node import start_checks
from raypost.node.accounts import imap_account, smtp_account
from raypost.node.ae_titles import partner_with_title
from raypost.node.dicom_process import make_intake, port_in_use
from raypost.node.site import Site, opened_site, read_password
from raypost.node.worker_process import make_route
from raypost.settings import Settings

EXPIRES_SOON = timedelta(days=30)
CLOCK_TOLERANCE_S = 60.0
LOOK_S = 0.2
CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tested."""

    name: str
    is_good: bool
    what: str
    do: str = ""
    code: str = ""

    def as_json(self) -> dict[str, object]:
        """Return the shape that --json prints."""
        return {"name": self.name, "good": self.is_good, "what": self.what, "do": self.do, "code": self.code}


def run(settings: Settings, partner_name: str | None, timeout_s: float, file: Path | None = None) -> Iterator[Finding]:
    """Test everything in the order in which it depends on each other.

    Args:
        partner_name: Also send a test transfer there.
        timeout_s: Patience with each test transfer.
        file: The raypost.toml of the settings: whether `raypost serve` would find everything safe.
    """
    if file is not None:
        yield from _safety(file, settings)
    for relay, it in settings.relay.items():
        yield _try(f"password of {relay}", lambda file=it.password_file: f"{len(read_password(file))} characters")  # type: ignore[misc]
    for relay in settings.relay:
        yield _try(f"SMTP {relay}", lambda name=relay: _smtp(settings, name))  # type: ignore[misc]
        yield _try(f"IMAP {relay}", lambda name=relay: _imap(settings, name))  # type: ignore[misc]
    try:
        with opened_site(settings) as site:
            yield Finding("database", True, "answers, schema is up to date")
            yield _disk(site)
            yield from _certificates(site, partner_name)
            yield from _ways(site, partner_name)
            yield _ae_titles(site)
            yield _serving(site)
            yield _try("DICOM port", lambda: _dicom(settings))
            yield from _transfers(site, partner_name, timeout_s)
    except RaypostError as error:
        yield _failed("database", error)


def _safety(file: Path, settings: Settings) -> Iterator[Finding]:
    found = start_checks.unsafe(file, settings)
    for one in found:
        yield Finding("safe to start", False, one.what, one.do, UnsafeSettingsError.code)
    if not found:
        yield Finding("safe to start", True, "secrets, keys and images are closed to others, connections protected")


def _try(name: str, test: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, test())
    except RaypostError as error:
        return _failed(name, error)


def _failed(name: str, error: RaypostError) -> Finding:
    what = error.what
    if isinstance(error, RefusedError) and error.peer_text and error.peer_text not in what:
        what = f"{what}: {error.peer_code or ''} {error.peer_text}"
    return Finding(name, False, what, error.do, error.code)


def _smtp(settings: Settings, relay: str) -> str:
    with SmtpSession(smtp_account(settings, relay)) as session:
        limit = session.size_max_bytes
    return f"log-in accepted, mails up to {size_text(limit)}" if limit else "log-in accepted, no size limit named"


def _imap(settings: Settings, relay: str) -> str:
    with ImapMailbox(imap_account(settings, relay)) as mailbox:
        return f"log-in accepted, {len(mailbox.list_messages())} mails waiting"


def _disk(site: Site) -> Finding:
    free = site.archive.blobs.free_bytes()
    floor = site.settings.limits.disk_free_min_bytes
    if free < floor:
        return Finding(
            "disk",
            False,
            f"nearly full: {size_text(free)} free, nothing is taken in below {size_text(floor)}",
            "Make room on the disk of the data folder.",
        )
    return Finding("disk", True, f"{size_text(free)} free")


def _ae_titles(site: Site) -> Finding:
    own = site.settings.dicom.ae_title
    with site.archive.database.transaction() as tx:
        other = partner_with_title(own, partners.all_partners(tx))
    if other is None:
        return Finding("AE titles", True, f"{own} is this site's alone")
    return Finding(
        "AE titles",
        False,
        f"{own} is this site's own title and one of {other.name}: what modalities send here goes there",
        "Change [dicom] ae_title in raypost.toml, and tell the modalities.",
        UsageError.code,
    )


def _certificates(site: Site, partner_name: str | None) -> Iterator[Finding]:
    with site.archive.database.transaction() as tx:
        known = partners.all_partners(tx)
    for one in known:
        if one.is_self or partner_name in (None, one.name):
            yield _certificate(site, one)


def _certificate(site: Site, one: Partner) -> Finding:
    name = "own certificate" if one.is_self else f"certificate of {one.name}"
    now = site.clock.now()
    try:
        facts = site.keyring.facts(one.fingerprint)
    except RaypostError as error:
        return _failed(name, error)
    whose = "Make a new one" if one.is_self else "Ask the partner for a new card"
    if reason := facts.unusable_reason_at(now):
        return Finding(name, False, f"{reason}: nothing can be sealed or opened with it", f"{whose} now.", "RP-500")
    until = facts.usable_until  # of the keys that sign and encrypt, too: they end before the certificate does
    if until is not None and until - now < EXPIRES_SOON:
        return Finding(name, True, f"expires soon, on {until:%Y-%m-%d}", f"{whose} before that day.")
    return Finding(name, True, f"valid until {until:%Y-%m-%d}" if until else "valid without end")


def _ways(site: Site, partner_name: str | None) -> Iterator[Finding]:
    """Say by which relays each partner is reached: those on which both sides have a mailbox."""
    ours = list(site.settings.relay)
    with site.archive.database.transaction() as tx:
        known = partners.all_partners(tx)
    for one in known:
        if one.is_self or partner_name not in (None, one.name):
            continue
        theirs = {mailbox.relay or ours[0] for mailbox in one.mailboxes}
        common = [name for name in ours if name in theirs]
        said, do = f"reached by {', '.join(common)}", ""
        if not common:
            said = f"has no mailbox on a relay of this name: reached only if {ours[0]} delivers to other providers"
            do = "Compare the names in [relay.NAME] with those on the partner's card."
        elif len(common) == 1 and len(ours) > 1:
            said += " alone: when that relay is away, nothing goes there"
            do = "Ask the partner for a mailbox on a second relay, and for its new card."
        yield Finding(f"relays of {one.name}", True, said, do)


def _serving(site: Site) -> Finding:
    with site.archive.database.transaction() as tx:
        count = queue.workers_alive(tx)
    if not count:
        return Finding(
            "serve",
            False,
            "`raypost serve` does not run: nothing is received, sent or fetched",
            "Start it: systemctl start raypost",
        )
    return Finding("serve", True, "`raypost serve` runs")


def _dicom(settings: Settings) -> str:
    calling = settings.dicom.calling[0].ae_title if settings.dicom.calling else "RAYPOST-CHECK"
    host = "127.0.0.1" if settings.dicom.host in ("0.0.0.0", "::") else settings.dicom.host
    node = DicomNode(
        name="the DICOM port",
        ae_title=settings.dicom.ae_title,
        host=host,
        port=port_in_use(settings),
        calling_ae_title=calling,
    )
    try:
        echo(node)
    except RefusedError:
        return "answers, and turns away who is not on its list"
    except UnreachableError:
        if not _is_listening(node.host, node.port):
            raise
        return "listens, and lets this machine itself not in: it is not on the list of who may send"
    return "answers C-ECHO"


def _is_listening(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _transfers(site: Site, partner_name: str | None, timeout_s: float) -> Iterator[Finding]:
    with site.archive.database.transaction() as tx:
        if not queue.workers_alive(tx):
            return
        own = partners.own_site(tx).name
    yield _test_transfer(site, own, "test transfer to oneself", timeout_s)
    yield _relay_clock(site)
    if partner_name is not None:
        yield _test_transfer(site, partner_name, f"test transfer to {partner_name}", timeout_s)


def _test_transfer(site: Site, partner_name: str, name: str, timeout_s: float) -> Finding:
    """Send the smallest study there is, flagged as a test inside the seal, and wait for the receipt."""
    try:
        transfer_key = _send_test(site, partner_name)
    except RaypostError as error:
        return _failed(name, error)
    pause, begin = threading.Event(), site.clock.now()
    while True:
        with site.archive.database.transaction() as tx:
            found = search.transfer(tx, transfer_key)
        took_s = (site.clock.now() - begin).total_seconds()
        if found["state"] == "delivered":
            return Finding(name, True, f"delivered and receipted in {duration_text(took_s)}")
        if found["state"] == "unconfirmed" or took_s > timeout_s:
            return Finding(
                name, False, _where_it_stands(found, took_s), f"`raypost transfer show {transfer_key}` has all of it."
            )
        pause.wait(LOOK_S)


def _where_it_stands(found: search.Shape, took_s: float) -> str:
    steps = {one["kind"] for one in found["events"]}
    said = next((one["said"] for one in found["messages"] if one["said"]), "")
    for kind, words in (
        ("receipted", "a receipt came, but not the final one"),
        ("sent", "the relay took it, but no receipt came: is the partner's Raypost running, and are you its partner?"),
        ("sealed", "sealed, but the relay did not take it"),
        ("transfer opened", "not even sealed"),
    ):
        if kind in steps:
            return f"{words} ({duration_text(took_s)})" + (f": {said}" if said else "")
    return f"nothing happened in {duration_text(took_s)}"


def _send_test(site: Site, partner_name: str) -> str:
    with site.archive.database.transaction() as tx:
        partners.partner_named(tx, partner_name)
    with tempfile.TemporaryDirectory(dir=site.archive.spool.temporary) as folder:
        files = write_study(tiny_ct(site.clock.now(), seed=int(site.clock.now().timestamp() * 1000)), Path(folder))
        filed = [make_intake(site).take_file(file, is_test=True) for file in files]
    return make_route(site).send_instances(
        filed[0].case_id, [one.instance_id for one in filed], partner_name, Priority.ROUTINE, "raypost check"
    )


def _relay_clock(site: Site) -> Finding:
    """Compare this machine's clock with the relay's, by the instant at which it says it took the latest mail."""
    with site.archive.database.transaction() as tx:
        offset_s = collected.latest_clock_offset_s(tx)
    if offset_s is None:
        return Finding("clock", True, "not measured: no mail came")
    if abs(offset_s) > CLOCK_TOLERANCE_S:
        way = "behind" if offset_s > 0 else "ahead of"
        return Finding(
            "clock",
            False,
            f"this machine is {duration_text(abs(offset_s))} {way} the relay's clock",
            "Set up time synchronisation (chrony or systemd-timesyncd) on the machine that is wrong.",
        )
    return Finding("clock", True, "agrees with the relay's to within a minute")
