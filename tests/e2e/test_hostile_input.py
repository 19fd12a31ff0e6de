"""Bad input from both sides: mails that must not be believed, and what is no image; good work beside it goes on."""

import pathlib
import signal
import struct
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pydicom
import pytest
from e2e_sites import House, Pair, Study, assert_at_rest, assert_filed_once, make_study, send, settle, until

from raypost.archive.keys import new_boundary, new_message_id, new_transfer_key
from raypost.errors import RaypostError
from raypost.lab.scanner import scan
from raypost.mail.imap import ImapMailbox
from raypost.mail.mime_message import OuterHeaders, write_message
from raypost.mail.parcels import EntityItem, write_entity
from raypost.mail.smtp import Accepted, SmtpSession
from raypost.model.manifest import ManifestEntry, ParcelEntry
from raypost.model.transfer import MessageKind, Priority
from raypost.node.accounts import imap_account, smtp_account
from raypost.sealing.openpgp import KeyRing
from raypost.settings import load
from raypost.transfer.control import Head, Parcel
from raypost.transfer.wire import encode

sys.path.append(str(pathlib.Path(__file__).parents[1] / "attacks"))
import dicom_probes as probes

pytestmark = pytest.mark.slow


def submit(pair: Pair, mail: pathlib.Path) -> None:
    """Send a mail to the centre by the referrer's account: what the relay lets through is what an attacker may send."""
    account = smtp_account(load(pair.referrer.site.config), "main")
    with SmtpSession(account) as session:
        outcome = session.submit(load(pair.centre.site.config).site.address, mail)
    assert isinstance(outcome, Accepted), outcome


def aside(house: House, before: int, count: int = 1) -> list[object]:
    """Wait for new rows in quarantine and return them; the command line names them, too."""
    until("in quarantine", lambda: len(house.quarantine()) >= before + count, 40)
    found = house.quarantine()[before:]
    assert len(found) == count, found
    return found


@dataclass
class Forger:
    """Seals whatever a test wants to be believed."""

    pair: Pair
    folder: pathlib.Path
    keyring: KeyRing
    signer: str

    def mail(self, *, sender: str, recipient: str, encrypt_to: str, file: pathlib.Path, study_uid: str) -> pathlib.Path:
        content = file.read_bytes()
        import hashlib

        entry = ManifestEntry(
            hashlib.sha256(content).hexdigest(), len(content), str(pydicom.dcmread(file).SOPInstanceUID)
        )
        head = Head(
            new_transfer_key(), MessageKind.PARCEL, 1, sender, recipient, Priority.EMERGENCY, False, datetime.now(UTC)
        )
        control = encode(Parcel(head, study_uid, 0, (ParcelEntry(entry, 0, len(content)),)))
        entity, sealed, mail = (self.folder / f"{new_transfer_key()}.{one}" for one in ("entity", "asc", "eml"))
        write_entity(control, [EntityItem(file, 0, len(content), "000001.dcm")], new_boundary(), entity)
        self.keyring.seal(entity, sealed, self.signer, [encrypt_to])
        headers = OuterHeaders(
            load(self.pair.referrer.site.config).site.address,
            load(self.pair.centre.site.config).site.address,
            datetime.now(UTC),
            new_message_id("demo.raypost.test"),
            head.transfer_key,
            "parcel",
            1,
        )
        write_message(headers, sealed, new_boundary(), mail)
        return mail


def fingerprint(house: House) -> str:
    return house.one(
        "select fingerprint from rp_partner p join rp_site s on s.id = p.site_id where is_self and retired_at is null"
    )


@pytest.fixture
def stranger(pair: Pair, tmp_path: pathlib.Path) -> Iterator[Forger]:
    """A valid key that nobody added, with the centre's certificate at hand."""
    with tempfile.TemporaryDirectory(prefix="rp-", dir="/tmp") as home:
        keyring = KeyRing(pathlib.Path(home))
        mine = keyring.make_site_key("neustadt", "neustadt@demo.raypost.test", 30, 30)
        own = KeyRing(load(pair.centre.site.config).keys_folder)
        keyring.import_certificate(own.export_certificate(fingerprint(pair.centre)), fingerprint(pair.centre))
        yield Forger(pair, tmp_path, keyring, mine)
        keyring.close()


@pytest.fixture
def insider(pair: Pair, tmp_path: pathlib.Path) -> Forger:
    """The referrer's own key, in wrong hands."""
    return Forger(pair, tmp_path, KeyRing(load(pair.referrer.site.config).keys_folder), fingerprint(pair.referrer))


@dataclass
class Captured:
    study: Study
    mails: list[pathlib.Path]


@pytest.fixture(scope="module")
def captured(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Captured:
    """A delivered study and its mails, copied from the relay while the centre's collector was stopped."""
    folder = tmp_path_factory.mktemp("captured")
    study = make_study(folder / "ct", seed=200, slices=6)
    (collector,) = pair.centre.processes("collector")
    collector.send_signal(signal.SIGSTOP)
    mails = []
    try:
        send(pair.referrer, study)
        accepted = "select count(*) from rp_message m join rp_transfer t on t.id = m.transfer_id where m.state ="
        accepted += " 'accepted' and study_instance_uid = :one and kind = 'manifest'"
        until("all is sent", lambda: pair.referrer.one(accepted, one=study.study_instance_uid))
        with ImapMailbox(imap_account(load(pair.centre.site.config), "main")) as mailbox:
            for one in mailbox.list_messages():
                mail = folder / f"{one.imap_uid}.eml"
                mailbox.fetch(one.imap_uid, mail, 10_000_000)
                if one.token is not None and one.token.kind == "parcel":
                    mails.append(mail)
    finally:
        collector.send_signal(signal.SIGCONT)
    settle(pair, study)
    assert mails
    return Captured(study, mails)


def test_a_parcel_that_comes_twice_is_filed_once_and_answered(pair: Pair, captured: Captured) -> None:
    before = len(pair.centre.quarantine())
    doubles, receipts = len(pair.centre.events("duplicate")), len(pair.referrer.events("receipted"))
    submit(pair, captured.mails[0])
    until("recognised", lambda: len(pair.centre.events("duplicate")) == doubles + 1)
    until("answered", lambda: len(pair.referrer.events("receipted")) > receipts)
    assert_filed_once(pair, captured.study)
    assert len(pair.centre.quarantine()) == before
    assert_at_rest(pair.centre)


def test_a_tampered_mail_shows_nothing_and_is_asked_for_by_nobody(pair: Pair, captured: Captured) -> None:
    """One bit of the ciphertext flipped."""
    before, mail = len(pair.centre.quarantine()), captured.mails[0]
    lines = mail.read_bytes().split(b"\r\n")
    middle = len(lines) // 2
    lines[middle] = bytes([lines[middle][0] ^ 1]) + lines[middle][1:]
    changed = mail.with_suffix(".changed")
    changed.write_bytes(b"\r\n".join(lines))
    submit(pair, changed)
    (row,) = aside(pair.centre, before)
    assert row.source == "mail" and row.code in ("RP-500", "RP-501", "RP-300"), row
    assert_filed_once(pair, captured.study)
    named = pair.centre.cli("quarantine", "list")
    assert named[0]["quarantine_key"] == row.quarantine_key and named[0]["what"] == row.what


def test_a_valid_signature_of_a_stranger_is_not_believed(pair: Pair, stranger: Forger, tmp_path: pathlib.Path) -> None:
    before, study = len(pair.centre.quarantine()), make_study(tmp_path / "ct", seed=201, slices=1)
    centre = fingerprint(pair.centre)
    for sender in (stranger.signer, fingerprint(pair.referrer)):
        submit(
            pair,
            stranger.mail(
                sender=sender,
                recipient=centre,
                encrypt_to=centre,
                file=study.files[0],
                study_uid=study.study_instance_uid,
            ),
        )
    rows = aside(pair.centre, before, 2)
    assert {row.source for row in rows} == {"mail"} and all(row.code.startswith("RP-5") for row in rows), rows
    assert not pair.centre.rows("select 1 from rp_case where study_instance_uid = :one", one=study.study_instance_uid)
    assert pair.centre.events("quarantined")[-1].level == "alarm"
    shown = pair.centre.cli("quarantine", "show", rows[0].quarantine_key)
    assert pathlib.Path(shown["file"]).exists()


def test_a_mail_meant_for_another_site_is_not_taken(pair: Pair, insider: Forger, tmp_path: pathlib.Path) -> None:
    """Signed by a partner, encrypted to us, but the signed part names another recipient: passed on by somebody."""
    before, study = len(pair.centre.quarantine()), make_study(tmp_path / "ct", seed=202, slices=1)
    submit(
        pair,
        insider.mail(
            sender=insider.signer,
            recipient="A" * 40,
            encrypt_to=fingerprint(pair.centre),
            file=study.files[0],
            study_uid=study.study_instance_uid,
        ),
    )
    (row,) = aside(pair.centre, before)
    assert "another site" in row.what
    assert not pair.centre.rows("select 1 from rp_case where study_instance_uid = :one", one=study.study_instance_uid)


def test_spam_and_unsigned_images_are_set_aside(pair: Pair, tmp_path: pathlib.Path) -> None:
    before = len(pair.centre.quarantine())
    (file,) = make_study(tmp_path / "ct", seed=203, slices=1).files
    import base64

    body = base64.encodebytes(file.read_bytes()).replace(b"\n", b"\r\n")
    mails = {
        "spam": b"Subject: Viagra\r\nFrom: x@y.example\r\nMessage-ID: <1@y.example>\r\n\r\nBuy now\r\n",
        "unsigned": b"Subject: CT\r\nMIME-Version: 1.0\r\nContent-Type: application/dicom\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n" + body,
        "broken": b"Content-Type: multipart/encrypted; boundary=x\r\n\r\n--x\r\n--x--",
    }
    for name, content in mails.items():
        (tmp_path / name).write_bytes(content)
        submit(pair, tmp_path / name)
    rows = aside(pair.centre, before, len(mails))
    assert sum(row.code == "RP-302" for row in rows) >= 2, rows
    states = pair.centre.rows("select state, count(*) from rp_collected where state <> 'opened' group by 1")
    assert states
    with ImapMailbox(imap_account(load(pair.centre.site.config), "main")) as mailbox:
        until("the mailbox is empty", lambda: not mailbox.list_messages())


def _send_raw(port: int, content: bytes, dicom_uid: bytes = b"2.25.77", called: str = "LUDWIGSHAFEN_N") -> int:
    """Store bytes, whatever they are; return the DIMSE status, -1 when the connection was closed."""
    peer = probes.connect(port)
    with peer:
        request = probes.associate_rq("CT1")
        peer.sendall(request.replace(b"RAYPOST".ljust(16), called.encode().ljust(16), 1))
        assert probes.read_pdu(peer)[0] == 2
        peer.sendall(probes.store_rq(dicom_uid))
        step = 16_000
        for at in range(0, len(content), step):
            peer.sendall(probes.fragment(content[at : at + step], 2 if at + step >= len(content) else 0))
        return probes.dimse_status(probes.read_pdu(peer)[1])


def _dataset_bytes(file: pathlib.Path, **changes: object) -> bytes:
    one = pydicom.dcmread(file)
    for name, value in changes.items():
        setattr(one, name, value)
    raw = pydicom.filebase.DicomBytesIO()
    raw.is_little_endian, raw.is_implicit_VR = True, False
    pydicom.filewriter.write_dataset(raw, one)
    return raw.getvalue()


def test_what_is_no_image_is_refused_while_a_good_study_passes(pair: Pair, tmp_path: pathlib.Path) -> None:
    house = pair.referrer
    before = len(house.quarantine())
    good, bad = make_study(tmp_path / "good", seed=210, slices=20), make_study(tmp_path / "bad", seed=211, slices=1)
    (file,) = bad.files
    port = house.site.dicom_port
    pixels = _dataset_bytes(file)
    scanner = threading.Thread(target=send, args=(house, good), kwargs={"pace_s": 0.15})
    scanner.start()
    begun = "select count(*) from rp_instance i join rp_case c on c.id = i.case_id where study_instance_uid = :one"
    until("the good study comes", lambda: house.one(begun, one=good.study_instance_uid))

    answers = {
        "not DICOM": _send_raw(port, b"%PDF-1.7 not a data set at all" * 50),
        "truncated": _send_raw(port, pixels[: len(pixels) - 3000]),
        "hostile UID": _send_raw(port, _dataset_bytes(file, SOPInstanceUID="../../x"), b"../../x "),
        "undecodable": _send_raw(port, _dataset_bytes(file, Rows=4000, Columns=4000)),
    }
    assert all(status & 0xF000 in (0xC000, 0xA000) for status in answers.values()), answers
    rows = aside(house, before, len(answers))
    assert {row.source for row in rows} == {"dicom"} and {row.code for row in rows} <= {"RP-300", "RP-301"}, rows
    named = house.cli("quarantine", "list")
    assert {row.what for row in rows} <= {one["what"] for one in named}
    assert "../" not in str([one["file"] for one in named]), "a name from outside became a path"

    with probes.connect(port) as peer:  # a PDU that claims 4 GB: closed, nothing allocated
        peer.sendall(struct.pack(">BBI", 1, 0, 0xFFFFFFF0) + b"\0" * 1000)
        assert probes.read_pdu(peer)[0] in (0, 3, 7)
    (dicom,) = house.processes("dicom")
    assert dicom.memory_info().rss < 600e6
    refused = len(house.events("association refused"))
    for calling, called in (("STRANGER", "RAYPOST"), ("CT1", "NOBODY")):
        with pytest.raises(RaypostError):
            scan([file], "127.0.0.1", port, calling, called)
    until("noted", lambda: len(house.events("association refused")) >= refused + 2)
    scanner.join(60)
    assert not scanner.is_alive()
    settle(pair, good)
    assert not house.rows("select 1 from rp_instance where sop_instance_uid like '%..%'")


def test_a_partner_that_sends_another_image_under_the_same_uid_is_noticed(pair: Pair, tmp_path: pathlib.Path) -> None:
    """Both are kept; the alarm is written at both sites."""
    study = make_study(tmp_path / "one", seed=220, slices=1)
    send(pair.referrer, study)
    settle(pair, study)
    other = pydicom.dcmread(study.files[0])
    changed = bytearray(other.PixelData)
    changed[100] ^= 1
    other.PixelData = bytes(changed)
    (tmp_path / "two").mkdir()
    other.save_as(tmp_path / "two" / "1.dcm", enforce_file_format=True)
    send(pair.referrer, Study([tmp_path / "two" / "1.dcm"], study.study_instance_uid))
    for house in pair.houses:
        until(
            "both kept",
            lambda house=house: (
                house.one(
                    "select count(*) from rp_instance i join rp_case c on c.id = i.case_id"
                    " where study_instance_uid = :one and standing = 'conflict'",
                    one=study.study_instance_uid,
                )
                == 2
            ),
        )
        assert house.events("conflict")[-1].level == "alarm"
    supplement = "select max(supplement) from rp_transfer where study_instance_uid = :one"
    assert pair.referrer.one(supplement, one=study.study_instance_uid) == 1


def test_a_mail_that_is_too_large_is_noted_and_removed(pair: Pair, tmp_path: pathlib.Path) -> None:
    """Last of this module: the centre is stopped by its administrator, who lowers the limit and starts it again."""
    centre, site = pair.centre, pair.centre.site
    site.process.terminate()
    assert site.process.wait(15) == 0
    site.config.write_text(
        site.config.read_text().replace("[transfer]", "collect_size_max_bytes = 1_000_000\n\n[transfer]", 1)
    )
    mail = tmp_path / "large.eml"
    mail.write_bytes(b"Subject: large\r\n\r\n" + (b"x" * 78 + b"\r\n") * 16_000)
    submit(pair, mail)
    before, study = len(centre.quarantine()), make_study(tmp_path / "ct", seed=230, slices=3)
    send(pair.referrer, study)
    centre.serve_again()
    (row,) = aside(centre, before)
    assert "larger than allowed" in row.what
    settle(pair, study)
    with ImapMailbox(imap_account(load(site.config), "main")) as mailbox:
        until("the mailbox is empty", lambda: not mailbox.list_messages())
