"""The entity inside the encryption: byte-exact through our reader and through Python's email."""

import base64
import email
import email.policy
import hashlib
import json
import os
import pathlib
import subprocess
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raypost.errors import BadInputError, IntegrityError
from raypost.mail.mime_message import OuterHeaders, write_message
from raypost.mail.parcels import (
    ARMOUR_LINE_BYTES,
    CONTROL_TYPE,
    ENTITY_OVERHEAD_BYTES,
    ITEM_OVERHEAD_BYTES,
    EntityItem,
    entity_size_max,
    payload_size_max,
    read_entity,
    write_entity,
)

BOUNDARY = "b0und4ry" * 4
CONTROL = b'{"kind": "parcel", "number": 3}'
NASTY = [
    b"",
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b"x\r",
    b"x\r\r",
    b"x\n\r",
    b"\r\n\r\n",
    b"--",
    b"\n--b0und4ry\r\n",
    b"\r\n--" + BOUNDARY[:-1].encode() + b"\r\n",
    b"Content-Type: text/plain\r\n\r\n",
    b"\xff" * 3,
    bytes(range(256)) * 40,
]


def written(folder, payloads, control=CONTROL):
    items = []
    for index, data in enumerate(payloads):
        (folder / f"blob{index}").write_bytes(b"before" + data + b"after")
        items.append(EntityItem(folder / f"blob{index}", 6, len(data), f"{index + 1:06}.dcm"))
    size_bytes = write_entity(control, items, BOUNDARY, folder / "entity")
    entity = (folder / "entity").read_bytes()
    assert size_bytes == len(entity)
    return entity


def check(entity, payloads, control=CONTROL):
    """Read it both ways."""
    found = read_entity(memoryview(entity), None)
    assert found["control"] == json.loads(control)
    assert [entity[one["offset_bytes"] :][: one["length_bytes"]] for one in found["items"]] == payloads
    assert [one["sha256"] for one in found["items"]] == [hashlib.sha256(data).hexdigest() for data in payloads]
    message = email.message_from_bytes(entity, policy=email.policy.default)
    first, *attachments = message.iter_attachments()
    assert first.get_content_type() == CONTROL_TYPE and first.get_filename() == "raypost.json"
    assert first.get_payload(decode=True) == control
    assert [one.get_content_type() for one in attachments] == ["application/dicom"] * len(payloads)
    assert [one.get_filename() for one in attachments] == [f"{index + 1:06}.dcm" for index in range(len(payloads))]
    assert [one.get_payload(decode=True) for one in attachments] == payloads


def test_awkward_bytes_come_back_exactly(tmp_path):
    payloads = [*NASTY, *(one + b"\r" for one in NASTY), os.urandom(3 << 20)]
    check(written(tmp_path, payloads), payloads)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=400),
            st.sampled_from(NASTY),
            st.lists(st.sampled_from([b"\r", b"\n", b"-", b"--", b"b0und4ry", b"\0", b"="])).map(b"".join),
        ),
        max_size=6,
    )
)
def test_any_bytes_come_back_exactly(tmp_path, payloads):
    check(written(tmp_path, payloads), payloads)


def test_without_items_there_is_only_the_control_message(tmp_path):
    check(written(tmp_path, []), [])


def test_sealed_by_plain_gpg_it_is_an_ordinary_mail(tmp_path):
    """Opened with gpg and Python's email alone, a parcel shows application/dicom attachments."""
    payloads = [os.urandom(200_000) + b"\r", b"--" + BOUNDARY.encode()[:9] + b"\r\n" + os.urandom(1000)]
    written(tmp_path, payloads)
    home = pathlib.Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "x"]
    try:
        subprocess.run(
            [
                *gpg,
                "--armor",
                "--compress-algo",
                "none",
                "--symmetric",
                "--output",
                tmp_path / "armour",
                tmp_path / "entity",
            ],
            check=True,
            capture_output=True,
        )
        from datetime import UTC, datetime

        headers = OuterHeaders(
            "a@x.test", "b@x.test", datetime(2026, 1, 1, tzinfo=UTC), "<1@x.test>", "abcdefghij", "parcel", 1
        )
        write_message(headers, tmp_path / "armour", "c" * 32, tmp_path / "mail")
        mail = email.message_from_bytes((tmp_path / "mail").read_bytes(), policy=email.policy.default)
        _, sealed = mail.iter_parts()
        opened = subprocess.run(
            [*gpg, "--decrypt"], input=sealed.get_payload(decode=True), check=True, capture_output=True
        )
        check(opened.stdout, payloads)
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)
        subprocess.run(["rm", "-rf", home], check=True)


def test_a_slice_is_taken_where_it_says(tmp_path):
    (tmp_path / "blob").write_bytes(b"0123456789")
    items = [EntityItem(tmp_path / "blob", start, 4, f"{start}.part", "application/octet-stream") for start in (0, 4)]
    write_entity(b"{}", items, BOUNDARY, tmp_path / "entity")
    entity = (tmp_path / "entity").read_bytes()
    found = read_entity(memoryview(entity), None)["items"]
    assert [entity[one["offset_bytes"] :][: one["length_bytes"]] for one in found] == [b"0123", b"4567"]
    assert {one["content_type"] for one in found} == {"application/octet-stream"}
    with pytest.raises(IntegrityError):
        write_entity(b"{}", [EntityItem(tmp_path / "blob", 8, 4, "x")], BOUNDARY, tmp_path / "entity")


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../x.dcm"},
        {"name": 'x"; y'},
        {"name": ""},
        {"name": "x\r\ny"},
        {"content_type": "multipart/mixed"},
        {"content_type": "message/rfc822"},
        {"content_type": "text/plain; x"},
        {"length_bytes": -1},
        {"offset_bytes": -1},
    ],
    ids=str,
)
def test_an_item_that_would_inject_cannot_exist(change):
    with pytest.raises(ValueError):
        EntityItem(**{"path": pathlib.Path("x"), "offset_bytes": 0, "length_bytes": 1, "name": "x.dcm", **change})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"multipart/mixed", b"multipart/related"),
        (b"application/vnd.raypost+json", b"application/json"),
        (b"Content-Transfer-Encoding: binary", b"Content-Transfer-Encoding: base64"),
        (b"Content-Transfer-Encoding: 7bit", b"Content-Transfer-Encoding: base64"),
        (b"application/dicom", b"multipart/mixed; boundary=q"),
        (b"--\r\n", b"\r\n"),
        (CONTROL, b"[1, 2]"),
        (CONTROL, b"{"),
        (CONTROL, b'{"a": 1, "a": 2}'),
        (CONTROL, b'{"a": NaN}'),
        (CONTROL, b"\xff"),
        (CONTROL, b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}"),
        (CONTROL, b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        (CONTROL, b'{"a": "' + b"x" * (9 << 20) + b'"}'),
        (CONTROL, b'{"a": ' + b"9" * 100_000 + b"}"),
    ],
    ids=range(15),
)
def test_what_is_not_ours_is_refused(tmp_path, old, new):
    entity = written(tmp_path, [b"data"])
    assert old in entity
    with pytest.raises(BadInputError):
        read_entity(memoryview(entity.replace(old, new)), None)


def test_too_many_items_are_refused_early(tmp_path):
    entity = written(tmp_path, [b"data"] * 20)
    with pytest.raises(BadInputError):
        read_entity(memoryview(entity), None, items_max=19)
    assert len(read_entity(memoryview(entity), None, items_max=20)["items"]) == 20


def test_memory_stays_flat(tmp_path):
    (tmp_path / "blob").write_bytes(os.urandom(24 << 20))
    tracemalloc.start()
    write_entity(b"{}", [EntityItem(tmp_path / "blob", 0, 24 << 20, "1.dcm")], BOUNDARY, tmp_path / "entity")
    assert tracemalloc.get_traced_memory()[1] < 6 << 20
    entity = memoryview((tmp_path / "entity").read_bytes())
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    read_entity(entity, None)
    assert tracemalloc.get_traced_memory()[1] - before < 6 << 20
    tracemalloc.stop()


@given(st.lists(st.integers(0, 300), max_size=40), st.integers(0, 2000))
def test_the_size_bound_holds_for_real_entities(lengths, control_bytes):
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "blob").write_bytes(b"x" * 300)
        items = [EntityItem(folder / "blob", 0, length, "n" * 64, "application/x-" + "t" * 58) for length in lengths]
        control = b'"' + b"c" * control_bytes + b'"'
        size_bytes = write_entity(control, items, "b" * 64, folder / "entity")
    assert size_bytes <= entity_size_max(len(control), lengths)
    assert entity_size_max(len(control), lengths) - size_bytes <= ENTITY_OVERHEAD_BYTES + ITEM_OVERHEAD_BYTES * len(
        lengths
    )


@given(st.integers(30_000, 60_000_000))
def test_the_largest_entity_fits_below_the_limit_of_the_relay(message_size_max_bytes):
    entity_bytes = payload_size_max(message_size_max_bytes)
    # What gpg makes of it in the worst case measured, and the armour around that: 48 bytes a line, CRLF.
    sealed_bytes = entity_bytes + entity_bytes // 1000 + 16_000
    message_bytes = -(-sealed_bytes // 48) * ARMOUR_LINE_BYTES + 3000
    assert message_bytes <= message_size_max_bytes
    if message_size_max_bytes > 1_000_000:
        assert entity_bytes > 0.7 * message_size_max_bytes, "the reserve must not waste the relay's room"


def test_real_seals_fit_below_the_limit(tmp_path):
    home = pathlib.Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "x"]
    from datetime import UTC, datetime

    headers = OuterHeaders(
        "a" * 60 + "@x.test",
        "b" * 60 + "@x.test",
        datetime(2026, 1, 1, tzinfo=UTC),
        "<1@x.test>",
        "a" * 40,
        "parcel",
        1,
    )
    try:
        for limit in (100_000, 1_000_000, 10_000_000):
            (tmp_path / "entity").write_bytes(os.urandom(payload_size_max(limit)))
            for compression in ("none", "zlib"):
                (tmp_path / "armour").unlink(missing_ok=True)
                subprocess.run(
                    [
                        *gpg,
                        "--armor",
                        "--compress-algo",
                        compression,
                        "--symmetric",
                        "--output",
                        tmp_path / "armour",
                        tmp_path / "entity",
                    ],
                    check=True,
                    capture_output=True,
                )
                size_bytes = write_message(headers, tmp_path / "armour", "c" * 64, tmp_path / "mail")
                assert 0.7 * limit < size_bytes + 1500 <= limit or limit < 200_000 and size_bytes <= limit
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)
        subprocess.run(["rm", "-rf", home], check=True)


def test_a_limit_without_room_is_said():
    with pytest.raises(ValueError, match="too small"):
        payload_size_max(20_000)


def test_our_entity_in_base64_is_refused_by_name(tmp_path):
    entity = (
        written(tmp_path, [b"data"])
        .replace(b": binary", b": base64")
        .replace(b"\r\n\r\ndata", b"\r\n\r\n" + base64.b64encode(b"data"))
    )
    with pytest.raises(BadInputError, match="neither binary nor 8bit"):
        read_entity(memoryview(entity), None)
