"""The specification says what the program does: entries, figures, the form of a mail. Its diagrams are generated."""

import json
import pathlib
import re
import sys
from datetime import UTC, datetime

import pytest

from raypost.mail.mime_message import OuterHeaders, write_message
from raypost.mail.parcels import EntityItem, write_entity
from raypost.model.transfer import MessageKind
from raypost.transfer.limits import Limits
from raypost.transfer.wire import encode

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from protocol_examples import EXAMPLES  # noqa: E402
from protocol_vectors import HEAD  # noqa: E402

ROOT = pathlib.Path(__file__).parents[3]
SPECIFICATION = (ROOT / "docs" / "spec" / "transfer-protocol.md").read_text()
DELIVERED = (ROOT / "docs" / "explanation" / "what-delivered-means.md").read_text()
LIMITS = Limits()


def section(title: str) -> str:
    """The text below a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ )", SPECIFICATION, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def listed(text: str) -> set[str]:
    """The entries in the first column of a section's table of entries."""
    rows = re.findall(r"^\| (?:· )?(`[a-z_`, 0-9]+`) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([a-z_0-9]+)`", row)}


def entries(body: dict) -> set[str]:
    """The names of a message's own entries, and of those of its instances."""
    inside = (
        {name for one in body.get("instances", ()) for name in one} if body["kind"] in ("parcel", "manifest") else set()
    )
    return (set(body) - set(HEAD)) | inside


@pytest.mark.parametrize("kind", MessageKind)
def test_every_entry_is_specified_and_every_specified_entry_is_written(kind) -> None:
    bodies = [json.loads(encode(one)) for one in EXAMPLES.values() if one.head.kind is kind]
    written = set().union(*map(entries, bodies))
    title = "opened, take" if kind in (MessageKind.OPENED, MessageKind.TAKE) else kind.value
    names = listed(section(title))
    assert written - names == ({"sha256", "size", "sop_instance_uid"} if kind is MessageKind.MANIFEST else set()), (
        "written and not in the table"
    )
    assert names - written == set(), "in the table and never written"


def test_the_head_and_the_identity_are_specified() -> None:
    assert listed(section("6.1 In every message")) == set(HEAD)
    body = json.loads(encode(EXAMPLES["announce-full"]))
    assert all(f"`{name}`" in section("6.2 An identity") for name in body["identity"])
    assert set(body) >= set(HEAD)


def test_optional_is_what_may_be_left_out() -> None:
    from test_wire import OPTIONAL

    for kind in MessageKind:
        title = "opened, take" if kind in (MessageKind.OPENED, MessageKind.TAKE) else kind.value
        rows = re.findall(r"^\| (`[a-z_`, 0-9]+`) \| [^|]*\*optional\*", section(title), re.MULTILINE)
        optional = {name for row in rows for name in re.findall(r"`([a-z_0-9]+)`", row)}
        assert optional == OPTIONAL.get(kind.value, set()), kind


def test_the_mail_is_as_it_is_written(tmp_path) -> None:
    """The example of section 3, byte for byte but for the ciphertext."""
    sealed, mail = tmp_path / "sealed", tmp_path / "mail"
    sealed.write_bytes(b"-----BEGIN PGP MESSAGE-----\n\nhF4D...\n-----END PGP MESSAGE-----\n")
    headers = OuterHeaders(
        "neustadt@stroke.example",
        "ludwigshafen@stroke.example",
        datetime(2026, 11, 24, 3, 11, 5, tzinfo=UTC),
        "<k3v7qj2m4xw6a5n5k7q2xw3m6r@stroke.example>",
        "n5k7q2xw3m6r4j2m5a7c2dkepu",
        "parcel",
        1,
    )
    write_message(headers, sealed, "b7kd2mqx3lwrt4vznc6pf5hsaa", mail)
    shown = re.search(r"```text\n(From: .*?)```", section("3. The mail"), re.DOTALL)[1]
    written = mail.read_bytes().decode("ascii").replace("\r\n", "\n")
    # between armour and boundary there is the line end that belongs to the boundary
    assert re.sub(r"\n+", "\n", written) == re.sub(r"\n+", "\n", shown.replace("…", "..."))


def test_the_entity_is_as_it_is_written(tmp_path) -> None:
    """The example of section 5, but for the bytes of the instance."""
    (tmp_path / "one").write_bytes(b"(the bytes of the file)")
    target = tmp_path / "entity"
    write_entity(
        b'{"raypost":1,"kind":"parcel", ...}',
        [EntityItem(tmp_path / "one", 0, 23, "000001.dcm")],
        "hq2x7zbv5twmk4rlpd3syf6naa",
        target,
    )
    shown = re.search(r"```text\n(MIME-Version: .*?)```", section("5. The entity"), re.DOTALL)[1]
    assert target.read_bytes().decode("ascii").replace("\r\n", "\n") == shown.replace("…", "...")


def test_the_figures_in_sentences_are_those_of_the_limits() -> None:
    it, notes = LIMITS.sender, LIMITS.sender.notes
    flat = " ".join(SPECIFICATION.split())
    assert (
        f"for an emergency after {notes.emergency_first_s:g} s, else after {notes.first_s:g} s, doubled up to "
        f"{notes.wait_max_s / 60:g} minutes, with jitter, at most {notes.attempts_max} times" in flat
    )
    assert it.silent_emergency_s <= 180 and "at most three minutes for an emergency" in flat
    assert LIMITS.receiver.announced_only_s == 120 and "for two minutes the receiver MUST tell a person" in flat
    flat = " ".join(DELIVERED.split())
    for words in (
        f"After some {it.swallowed_after_s:g} s without a word",
        f"After {it.receipt_timeout_s:g} s (`receipt_timeout_s`",
        f"with each round, up to {it.receipt_timeout_max_s / 60:g} minutes",
        f"After {it.silent_emergency_s:g} s without progress in an emergency",
        f"({it.silent_urgent_s / 60:g} minutes for urgent, an hour for routine)",
        f"After {it.rounds_max} rounds",
        f"after {LIMITS.receiver.quiet_emergency_s:g} s in an emergency and {LIMITS.receiver.quiet_s:g} s else",
        f"After {LIMITS.receiver.reminders_max} reminders",
    ):
        assert words in flat, words
    assert it.silent_routine_s == 3_600


def test_every_vector_is_listed() -> None:
    for path in (ROOT / "tests" / "golden" / "wire").rglob("*.json"):
        assert f"{path.name}`" in SPECIFICATION, path.name


def test_capitals_are_those_of_bcp_14() -> None:
    """MAY NOT is no word of RFC 2119, and SHALL is not used beside MUST."""
    assert not re.search(r"\bMAY NOT\b|\bSHALL\b|\bREQUIRED\b", SPECIFICATION)
    assert SPECIFICATION.count("MUST") > 40
