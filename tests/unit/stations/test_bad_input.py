"""What comes from outside and is not in order: each has one defined outcome, and nothing else stops."""

import dataclasses
import re
from datetime import UTC, datetime

import pytest

from raypost.archive.keys import new_boundary, new_message_id, new_transfer_key
from raypost.mail.mime_message import OuterHeaders, write_message
from raypost.mail.parcels import EntityItem, write_entity
from raypost.model.manifest import ManifestEntry, ParcelEntry
from raypost.model.transfer import MessageKind, Priority
from raypost.transfer.control import Head, Manifest, Parcel, Receipt
from raypost.transfer.wire import encode

SPAM = b"From: a@b.example\r\nTo: ludwigshafen@raypost.test\r\nSubject: win\r\n\r\nClick here\r\n"


def control(neustadt, ludwigshafen, message=MessageKind.PARCEL, **changes) -> Head:
    head = Head(
        new_transfer_key(),
        message,
        1,
        neustadt.partner.fingerprint,
        ludwigshafen.partner.fingerprint,
        Priority.ROUTINE,
        False,
        datetime(2026, 11, 24, 3, 0, tzinfo=UTC),
    )
    return dataclasses.replace(head, **changes)


def sealed_mail(site, recipient, body: bytes, items=(), keyring=None, signer=None) -> bytes:
    """Seal any body as a site would."""
    spool = site.archive.spool
    entity, sealed, mail = (spool.new_file(ending) for ending in ("entity", "asc", "eml"))
    write_entity(body, items, new_boundary(), entity)
    (keyring or site.keyring).seal(entity, sealed, signer or site.partner.fingerprint, [recipient.partner.fingerprint])
    headers = OuterHeaders(
        site.partner.address,
        recipient.partner.address,
        site.clock.now(),
        new_message_id("raypost.test"),
        new_transfer_key(),
        "parcel",
        1,
    )
    write_message(headers, sealed, new_boundary(), mail)
    try:
        return mail.read_bytes()
    finally:
        for file in (entity, sealed, mail):
            file.unlink(missing_ok=True)


def assert_quarantined(site, code: str, *, level: str | None = None) -> None:
    rows = site.rows("select code, source, quarantine_file from rp_quarantine")
    assert [row[0] for row in rows] == [code]
    assert site.archive.spool.path(rows[0][2]).is_file(), "the bytes are kept"
    assert site.scalar("select count(*) from rp_instance") == 0
    assert site.scalar("select count(*) from rp_message where direction = 'out'") == 0, "nobody is answered"
    if level:
        assert site.scalar("select level from rp_event where kind = 'quarantined'") == level


@pytest.fixture
def genuine(neustadt, ludwigshafen, head) -> bytes:
    """A parcel as neustadt seals it, not yet delivered."""
    for file in head[:2]:
        assert neustadt.receive(file) == 0
    neustadt.work()
    name = neustadt.scalar("select message_file from rp_message where kind = 'parcel'")
    return neustadt.archive.spool.path(name).read_bytes()


def test_spam_is_set_aside_unanswered(ludwigshafen, postman) -> None:
    postman.deliver(ludwigshafen, SPAM)
    ludwigshafen.work()
    assert_quarantined(ludwigshafen, "RP-302")
    assert ludwigshafen.scalar("select state from rp_collected") == "ignored"


@pytest.mark.parametrize(
    "mail",
    [
        b"",
        b"\0" * 1000,
        b"no mail at all",
        b"From: x\r\nFrom: y\r\nTo: z\r\n\r\nbody",
        SPAM.replace(b"\r\n\r\n", b"\r\nContent-Type: multipart/encrypted; boundary=a\r\n\r\n"),
    ],
)
def test_rubbish_is_set_aside(ludwigshafen, postman, mail) -> None:
    postman.deliver(ludwigshafen, mail)
    ludwigshafen.work()
    assert ludwigshafen.scalar("select count(*) from rp_quarantine") == 1
    assert ludwigshafen.scalar("select count(*) from rp_collected where state = 'fetched'") == 0


def test_tampered_ciphertext(ludwigshafen, postman, genuine) -> None:
    lines = genuine.split(b"\r\n")
    at = next(i for i, line in enumerate(lines) if re.fullmatch(rb"[A-Za-z0-9+/]{64}", line)) + 20
    lines[at] = lines[at][:10] + (b"A" if lines[at][10:11] != b"A" else b"B") + lines[at][11:]
    postman.deliver(ludwigshafen, b"\r\n".join(lines))
    ludwigshafen.work()
    assert_quarantined(ludwigshafen, "RP-501", level="alarm")


def test_unsigned_mail(neustadt, ludwigshafen, postman, genuine, tmp_path) -> None:
    import subprocess

    body = tmp_path / "body"
    body.write_bytes(b"Content-Type: text/plain\r\n\r\nhello")
    home = neustadt.keyring._home
    armour = subprocess.run(
        [
            "gpg",
            "--homedir",
            str(home),
            "--batch",
            "--trust-model",
            "always",
            "--armor",
            "--encrypt",
            "-r",
            ludwigshafen.partner.fingerprint,
            "-o",
            "-",
            str(body),
        ],
        capture_output=True,
        check=True,
    ).stdout
    ciphertext, mail = tmp_path / "c.asc", tmp_path / "mail"
    ciphertext.write_bytes(armour)
    headers = OuterHeaders(
        neustadt.partner.address,
        ludwigshafen.partner.address,
        neustadt.clock.now(),
        new_message_id("raypost.test"),
        new_transfer_key(),
        "parcel",
        1,
    )
    write_message(headers, ciphertext, new_boundary(), mail)
    postman.deliver(ludwigshafen, mail.read_bytes())
    ludwigshafen.work()
    assert_quarantined(ludwigshafen, "RP-501", level="alarm")


def test_unknown_signer(neustadt, ludwigshafen, postman, keyrings) -> None:
    ring, fingerprint = keyrings["stranger"]
    body = encode(Receipt(control(neustadt, ludwigshafen, MessageKind.RECEIPT), frozenset(), frozenset(), 0))
    postman.deliver(ludwigshafen, sealed_mail(neustadt, ludwigshafen, body, keyring=ring, signer=fingerprint))
    ludwigshafen.work()
    assert_quarantined(ludwigshafen, "RP-501", level="alarm")


def test_a_removed_partner_is_a_stranger(neustadt, ludwigshafen, postman, genuine) -> None:
    from raypost.archive import partners

    with ludwigshafen.archive.database.transaction() as tx:
        partners.remove_partner(tx, "neustadt", now=ludwigshafen.clock.now(), who="test")
    postman.deliver(ludwigshafen, genuine)
    ludwigshafen.work()
    assert_quarantined(ludwigshafen, "RP-501", level="alarm")


def test_meant_for_another_site(neustadt, ludwigshafen, postman) -> None:
    head = control(neustadt, ludwigshafen, MessageKind.RECEIPT, recipient="A" * 40)
    body = encode(Receipt(head, frozenset(), frozenset(), 0))
    postman.deliver(ludwigshafen, sealed_mail(neustadt, ludwigshafen, body))
    ludwigshafen.work()
    assert_quarantined(ludwigshafen, "RP-500", level="alarm")


def test_names_another_sender_than_it_was_signed_by(neustadt, ludwigshafen, postman) -> None:
    head = control(neustadt, ludwigshafen, MessageKind.RECEIPT, sender=ludwigshafen.partner.fingerprint)
    postman.deliver(
        ludwigshafen, sealed_mail(neustadt, ludwigshafen, encode(Receipt(head, frozenset(), frozenset(), 0)))
    )
    ludwigshafen.work()
    assert_quarantined(ludwigshafen, "RP-500", level="alarm")


def test_a_receipt_for_nothing(neustadt, ludwigshafen, postman) -> None:
    head = control(neustadt, ludwigshafen, MessageKind.RECEIPT)
    postman.deliver(
        ludwigshafen, sealed_mail(neustadt, ludwigshafen, encode(Receipt(head, frozenset(), frozenset(), 0)))
    )
    ludwigshafen.work()
    assert_quarantined(ludwigshafen, "RP-600")


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"raypost":1,"kind":"announce"}'])
def test_what_is_no_message_of_the_protocol(neustadt, ludwigshafen, postman, body) -> None:
    postman.deliver(ludwigshafen, sealed_mail(neustadt, ludwigshafen, body))
    ludwigshafen.work()
    assert ludwigshafen.scalar("select count(*) from rp_quarantine") == 1
    assert ludwigshafen.scalar("select count(*) from rp_transfer") == 0


def test_a_message_of_a_newer_version_is_noted_and_harms_nobody(neustadt, ludwigshafen, postman) -> None:
    postman.deliver(ludwigshafen, sealed_mail(neustadt, ludwigshafen, b'{"raypost":2}'))
    ludwigshafen.work()
    assert ludwigshafen.scalar("select count(*) from rp_quarantine") == 0
    assert "unknown message" in ludwigshafen.kinds()


def test_an_instance_without_the_listed_hash(neustadt, ludwigshafen, postman, head, tmp_path) -> None:
    file = tmp_path / "x.dcm"
    file.write_bytes(head[0].read_bytes())
    size = file.stat().st_size
    entry = ParcelEntry(ManifestEntry("0" * 64, size, "1.2.3"), 0, size)
    parcel = Parcel(control(neustadt, ludwigshafen), "1.2.3.4", 0, (entry,))
    items = [EntityItem(file, 0, size, "000001.dcm")]
    postman.deliver(ludwigshafen, sealed_mail(neustadt, ludwigshafen, encode(parcel), items))
    ludwigshafen.work()
    assert_quarantined(ludwigshafen, "RP-400")
    assert not [one for one in ludwigshafen.archive.blobs.folder.rglob("*") if one.is_file()]


def test_something_that_is_no_dicom_under_a_good_signature(neustadt, ludwigshafen, postman, tmp_path) -> None:
    """Verified and hashed, but not DICOM: the receiver refuses it by hash, and the sender is told, not left waiting."""
    import hashlib

    file = tmp_path / "x.dcm"
    file.write_bytes(b"this is no DICOM file " * 50)
    sha256, size = hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_size
    entry = ManifestEntry(sha256, size, "1.2.3")
    transfer = new_transfer_key()
    parcel = Parcel(
        control(neustadt, ludwigshafen, transfer_key=transfer), "1.2.3.4", 0, (ParcelEntry(entry, 0, size),)
    )
    manifest = Manifest(
        control(neustadt, ludwigshafen, MessageKind.MANIFEST, transfer_key=transfer), "1.2.3.4", 0, 1, (entry,)
    )
    items = [EntityItem(file, 0, size, "000001.dcm")]
    postman.deliver(ludwigshafen, sealed_mail(neustadt, ludwigshafen, encode(parcel), items))
    postman.deliver(ludwigshafen, sealed_mail(neustadt, ludwigshafen, encode(manifest)))
    ludwigshafen.work()
    assert ludwigshafen.transfer("in").state == "complete"
    assert ludwigshafen.scalar("select state from rp_transfer_item") == "refused"
    assert ludwigshafen.scalar("select count(*) from rp_instance") == 0
    assert ludwigshafen.scalar("select code from rp_quarantine") == "RP-300"


def test_manifest_before_its_parcels(neustadt, ludwigshafen, postman, genuine) -> None:
    postman.lose = lambda kind, number: kind == "parcel"
    postman.run()
    postman.pass_time(36)
    assert ludwigshafen.scalar("select manifest_instances from rp_transfer") == 2
    assert ludwigshafen.transfer("in").state == "arriving"
    postman.deliver(ludwigshafen, genuine)
    postman.run()
    assert ludwigshafen.transfer("in").state == "complete"
    assert neustadt.transfer("out").state == "delivered"


def test_a_good_mail_behind_bad_ones_arrives(neustadt, ludwigshafen, postman, genuine) -> None:
    for mail in (SPAM, b"\0", genuine[:-2000], genuine):
        postman.deliver(ludwigshafen, mail)
    ludwigshafen.work()
    assert ludwigshafen.scalar("select count(*) from rp_instance") == 2
    assert ludwigshafen.scalar("select count(*) from rp_quarantine") == 3


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("not DICOM", lambda raw: b"GIF89a" + b"\0" * 500),
        ("empty", lambda raw: b""),
        ("truncated", lambda raw: raw[: len(raw) // 2]),
        ("no UID", lambda raw: raw.replace(b"2.25.", b"../..", 8)),
    ],
)
def test_a_bad_instance_from_a_modality(neustadt, ludwigshafen, postman, head, tmp_path, name, spoil) -> None:
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(spoil(head[0].read_bytes()))
    assert neustadt.receive(head[1]) == 0
    assert neustadt.receive(bad) == 0xC000
    assert neustadt.receive(head[2]) == 0
    postman.run()
    postman.pass_time(40)
    assert neustadt.scalar("select count(*) from rp_quarantine where source = 'dicom'") == 1
    assert ludwigshafen.scalar("select count(*) from rp_instance") == 2
    assert neustadt.transfer("out").state == "delivered"


def test_undecodable_pixels_are_kept_as_they_came(neustadt, ludwigshafen, postman, tmp_path, head) -> None:
    import pydicom
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGLSLossless

    dataset = pydicom.dcmread(head[0])
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    dataset.PixelData = encapsulate([b"\xff\xd8 this is no JPEG-LS stream \xff\xd9"])
    dataset["PixelData"].is_undefined_length = True
    bad = tmp_path / "bad.dcm"
    dataset.save_as(bad, enforce_file_format=True)
    assert neustadt.receive(bad) == 0
    postman.run()
    postman.pass_time(40)
    assert "cannot be decoded" in neustadt.scalar("select kept_because from rp_instance")
    assert neustadt.transfer("out").state == "delivered"


def test_same_pixels_other_patient_is_a_new_version(neustadt, tmp_path, head) -> None:
    import pydicom

    dataset = pydicom.dcmread(head[0])
    dataset.PatientID = "TST999"
    corrected = tmp_path / "c.dcm"
    dataset.save_as(corrected)
    assert neustadt.receive(head[0]) == neustadt.receive(corrected) == 0
    assert neustadt.rows("select version, standing from rp_instance order by version") == [
        (1, "superseded"),
        (2, "current"),
    ]
    assert neustadt.scalar("select level from rp_event where kind = 'new version'") == "notice"


def test_other_pixels_under_the_same_uid_is_a_conflict(neustadt, tmp_path, head) -> None:
    import pydicom

    dataset = pydicom.dcmread(head[0])
    dataset.PixelData = dataset.PixelData[:-2] + b"\x01\x00"
    other = tmp_path / "c.dcm"
    dataset.save_as(other)
    assert neustadt.receive(head[0]) == neustadt.receive(other) == 0
    assert neustadt.rows("select version, standing from rp_instance order by version") == [
        (1, "conflict"),
        (2, "conflict"),
    ]
    assert neustadt.scalar("select level from rp_event where kind = 'conflict'") == "alarm"


def test_the_same_study_uid_from_another_site_is_another_case(neustadt, ludwigshafen, postman, head) -> None:
    for site in (neustadt, ludwigshafen):
        assert site.receive(head[0], called="NOBODY") == 0
    assert neustadt.receive(head[1]) == 0
    postman.run()
    postman.pass_time(40)
    assert ludwigshafen.scalar("select count(*) from rp_case") == 2
    assert ludwigshafen.scalar("select count(distinct issuing_site_id) from rp_patient") == 2


def test_a_second_address_waits_until_the_first_is_routed(neustadt, head) -> None:
    """The modality keeps the instance and tries again; neither order is lost."""
    assert neustadt.receive(head[0], called="LUDWIGSHAFEN_N") == 0
    assert neustadt.receive(head[0], called="OTHER") == 0xA700
    neustadt.work()
    assert neustadt.receive(head[0], called="OTHER") == 0
    assert neustadt.scalar("select count(*) from rp_transfer") == 1


def test_patients_without_a_number_stay_apart(neustadt, tmp_path, head) -> None:
    import pydicom

    for number, name in enumerate(("Eins^A", "Zwei^B")):
        dataset = pydicom.dcmread(head[number])
        dataset.PatientID, dataset.PatientName, dataset.StudyInstanceUID = "", name, f"1.2.{number}"
        file = tmp_path / f"{number}.dcm"
        dataset.save_as(file)
        assert neustadt.receive(file) == 0
    found = neustadt.rows(
        "select c.study_instance_uid, p.patient_name from rp_case c join rp_patient p on p.id = c.patient_id order by 1"
    )
    assert [tuple(row) for row in found] == [("1.2.0", "Eins^A"), ("1.2.1", "Zwei^B")]
