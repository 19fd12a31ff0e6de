"""Writes tests/golden/wire: run it by hand when the protocol gains an entry, and read what changed before committing.

    python tests/unit/transfer/protocol_vectors.py

An example is the bytes that this version writes. A malformed vector is an example with one entry changed; it holds the
whole message, so that nobody needs this file to use it.
"""

import copy
import json
import pathlib

from protocol_examples import EXAMPLES

from raypost.transfer.wire import encode

FOLDER = pathlib.Path(__file__).parents[2] / "golden" / "wire"
GONE = object()

MALFORMED: list[tuple[str, str, str, object, str]] = [
    ("version-missing", "announce-full", "raypost", GONE, "raypost is missing"),
    ("version-zero", "announce-full", "raypost", 0, "versions begin with 1"),
    ("version-true", "announce-full", "raypost", True, "true is no number"),
    ("version-text", "announce-full", "raypost", "1", "a text is no number"),
    ("kind-missing", "announce-full", "kind", GONE, "kind is missing"),
    ("kind-number", "announce-full", "kind", 7, "kind is a word"),
    ("kind-list", "announce-full", "kind", ["announce"], "kind is a word"),
    ("transfer-missing", "announce-full", "transfer", GONE, "transfer is missing"),
    ("transfer-upper-case", "announce-full", "transfer", "N5K7Q2XW3M6R4J2M5A7C2DKEPU", "only a-z and 2-7"),
    ("transfer-too-short", "announce-full", "transfer", "abcdefghi", "9 characters; 10 are needed"),
    ("transfer-too-long", "announce-full", "transfer", "a" * 41, "41 characters; 40 are allowed"),
    ("number-zero", "announce-full", "number", 0, "numbers begin with 1"),
    ("number-too-large", "announce-full", "number", 1_000_001, "above 1,000,000"),
    ("number-fraction", "announce-full", "number", 1.0, "a whole number is written without a point"),
    ("number-true", "announce-full", "number", True, "true is no number"),
    ("parcel-number-too-large", "parcel-full", "number", 50_001, "parcels end at 50,000: no receipt could name it"),
    (
        "from-lower-case",
        "announce-full",
        "from",
        "7ade02e16679e6bc7d596b431997c3aee2864a3d",
        "fingerprints are in upper case",
    ),
    ("to-key-id", "announce-full", "to", "DD0CD2B195CFB760", "a key id is no fingerprint"),
    ("to-missing", "announce-full", "to", GONE, "to is missing: it may be meant for another site"),
    ("priority-unknown", "announce-full", "priority", "stat", "no such priority"),
    ("priority-missing", "announce-full", "priority", GONE, "priority is missing"),
    ("test-text", "announce-full", "test", "false", "a text is no truth value"),
    ("test-missing", "announce-full", "test", GONE, "test is missing: a test must never be taken for a patient"),
    ("written-at-without-zone", "announce-full", "written_at", "2026-11-24T03:11:05.120", "no time zone"),
    ("written-at-not-an-instant", "announce-full", "written_at", "3 a.m.", "no instant"),
    ("written-at-number", "announce-full", "written_at", 1795489865, "instants are text"),
    ("written-at-before-all-time", "announce-full", "written_at", "0001-01-01T00:00:00+14:00", "no instant in UTC"),
    ("written-at-after-all-time", "announce-full", "written_at", "9999-12-31T23:59:59-14:00", "no instant in UTC"),
    ("study-uid-missing", "parcel-full", "study_instance_uid", GONE, "study_instance_uid is missing"),
    ("study-uid-leading-zero", "parcel-full", "study_instance_uid", "1.02.3", "PS3.5, 9.1: no leading zeros"),
    ("study-uid-too-long", "parcel-full", "study_instance_uid", "1." + "2" * 63, "65 characters"),
    ("study-uid-path", "parcel-full", "study_instance_uid", "../../etc", "no UID"),
    ("supplement-missing", "parcel-full", "supplement", GONE, "supplement is missing"),
    ("supplement-negative", "parcel-full", "supplement", -1, "below 0"),
    ("announce-instances-list", "announce-full", "instances", [], "a count, not a list"),
    ("announce-identity-missing", "announce-full", "identity", GONE, "identity is missing"),
    ("announce-name-number", "announce-full", "identity/patient_name", 7, "a name is text"),
    (
        "announce-name-too-long",
        "announce-full",
        "identity/patient_name",
        "x" * 1001,
        "1,001 characters; 1,000 are allowed",
    ),
    ("parcel-empty", "parcel-full", "instances", [], "a parcel lists at least one instance"),
    ("parcel-instances-missing", "parcel-full", "instances", GONE, "instances is missing"),
    ("parcel-instance-text", "parcel-full", "instances/0", "50b1", "an instance is an object"),
    (
        "parcel-hash-upper-case",
        "parcel-full",
        "instances/0/sha256",
        "5" + "0B" * 31 + "A",
        "a SHA-256 is in lower case",
    ),
    ("parcel-hash-missing", "parcel-full", "instances/0/sha256", GONE, "sha256 is missing"),
    ("parcel-size-zero", "parcel-full", "instances/0/size", 0, "no file is empty"),
    ("parcel-size-too-large", "parcel-full", "instances/0/size", (8 << 30) + 1, "above 8 GiB"),
    ("parcel-uid-missing", "parcel-full", "instances/0/sop_instance_uid", GONE, "sop_instance_uid is missing"),
    ("parcel-offset-missing", "parcel-full", "instances/0/offset", GONE, "offset is missing"),
    ("parcel-offset-negative", "parcel-full", "instances/0/offset", -1, "below 0"),
    ("parcel-slice-empty", "parcel-full", "instances/0/length", 0, "a slice of nothing"),
    ("parcel-slice-outside", "parcel-full", "instances/0/length", 157_345, "one byte behind the end of the instance"),
    (
        "manifest-hash-twice",
        "manifest-full",
        "instances/1/sha256",
        EXAMPLES["manifest-full"].instances[0].sha256,
        "one hash twice",
    ),
    ("manifest-parcels-missing", "manifest-full", "parcels", GONE, "parcels is missing"),
    ("manifest-parcels-too-many", "manifest-full", "parcels", 50_001, "above 50,000"),
    ("receipt-ranges-overlap", "receipt-progress", "parcels_filed", [[1, 3], [3, 4]], "ranges ascend; no number twice"),
    ("receipt-ranges-descend", "receipt-progress", "parcels_filed", [[7, 7], [1, 3]], "ranges ascend"),
    (
        "receipt-range-upside-down",
        "receipt-progress",
        "parcels_filed",
        [[3, 1]],
        "the first is not larger than the last",
    ),
    ("receipt-range-from-zero", "receipt-progress", "parcels_filed", [[0, 3]], "numbers begin with 1"),
    ("receipt-range-of-one", "receipt-progress", "parcels_filed", [[3]], "a range is a pair"),
    (
        "receipt-range-too-far",
        "receipt-progress",
        "parcels_missing",
        [[1, 10**9]],
        "above 50,000: it would fill the memory",
    ),
    ("receipt-numbers-not-ranges", "receipt-progress", "parcels_filed", [1, 2, 3], "numbers are given as ranges"),
    ("receipt-seen-not-ranges", "receipt-progress", "parcels_seen", 6, "numbers are given as ranges"),
    ("receipt-filed-missing", "receipt-progress", "filed", GONE, "filed is missing"),
    ("receipt-filed-no-hash", "receipt-full", "filed", ["abc"], "no SHA-256"),
    ("receipt-final-missing", "receipt-full", "final", GONE, "final is missing"),
    ("receipt-final-number", "receipt-full", "final", 1, "a number is no truth value"),
    ("receipt-count-negative", "receipt-full", "instances_filed", -1, "below 0"),
    ("receipt-withdrawn-null", "receipt-full", "withdrawn", None, "true, false, or left out"),
    ("receipt-heard-list", "receipt-full", "heard", [["announce", 1]], "an object by kind"),
    ("receipt-heard-count", "receipt-full", "heard/announce", 2, "numbers are given as ranges"),
    ("receipt-instant-without-zone", "receipt-full", "last_filed_at", "2026-11-24T03:12:40", "no time zone"),
    ("opened-at-missing", "opened-full", "at", GONE, "at is missing"),
    ("take-at-null", "take-full", "at", None, "at is missing"),
    ("taken-responsible-name", "taken-full", "responsible", "Ludwigshafen", "a fingerprint, or empty"),
    ("recall-why-list", "recall-full", "why", ["wrong patient"], "a reason is text"),
    ("recalled-opened-by-text", "recalled-full", "opened_by", "Dr. M. Weber", "a list of names"),
    ("recalled-forwarded-to-missing", "recalled-full", "forwarded_to", GONE, "forwarded_to is missing"),
    ("redirect-to-name-number", "redirect-full", "to_name", 5, "a name is text"),
    ("correct-correction-missing", "correct-full", "correction", GONE, "correction is missing"),
    ("correct-after-missing", "correct-full", "after", GONE, "after is missing"),
    ("hello-versions-empty", "hello-full", "versions", [], "at least one version"),
    ("hello-versions-text", "hello-full", "versions", ["1"], "versions are numbers"),
    ("hello-kinds-missing", "hello-full", "kinds", GONE, "kinds is missing"),
    ("hello-interval-zero", "hello-full", "interval_s", 0, "an interval is longer than nothing"),
    ("hello-interval-too-long", "hello-full", "interval_s", 86_401, "above a day"),
    ("hello-interval-true", "hello-full", "interval_s", True, "true is no number"),
    ("hello-mail-size-negative", "hello-full", "mail_size_max", -1, "below 0"),
    ("hello-rate-negative", "hello-full", "fetch_rate", -1, "below 0"),
    ("hello-certificate-list", "hello-full", "certificate", ["x"], "a text"),
    ("hello-certificate-not-ascii", "hello-full", "certificate", "é", "armour is ASCII"),
    ("hello-certificate-too-long", "hello-full", "certificate", "x" * 65_537, "65,537 characters; 65,536 are allowed"),
    ("hello-keys-text", "hello-full", "your_keys", "7ADE02E16679E6BC7D596B431997C3AEE2864A3D", "a list"),
    ("hello-keys-short", "hello-full", "your_keys", ["7ADE02E1"], "only full fingerprints"),
    ("hello-keys-too-many", "hello-full", "your_keys", ["7ADE02E16679E6BC7D596B431997C3AEE2864A3D"] * 65, "65 keys"),
    ("hello-audit-head-empty-chain", "hello-full", "audit_head", "0:" + "0" * 64, "an empty trail is left out"),
    ("receipt-audit-head-number", "receipt-full", "audit_head", 317, "a text"),
    ("hello-audit-head-short", "hello-full", "audit_head", "12:0f", "the hash has 64 digits"),
    ("hello-echo-list", "hello-full", "echo", [], "an object"),
    ("hello-echo-number-missing", "hello-full", "echo/number", GONE, "number is missing"),
    ("hello-echo-without-zone", "hello-full", "echo/heard_at", "2026-11-24T03:09:07", "no time zone"),
]
"""Name, example, the entry that is changed, what it is then, and why that is refused."""

TOLERATED: list[tuple[str, str, dict[str, object], str]] = [
    ("unknown-entry", "manifest-full", {"later": {"deep": [{"er": None}]}}, "an entry that version 1 does not know"),
    ("unknown-entry-in-identity", "announce-full", {"identity/gender_identity": "x"}, "the same in an identity"),
    ("unknown-entry-in-instance", "parcel-full", {"instances/1/series": 3}, "the same in an instance"),
    ("unknown-entry-in-echo", "hello-full", {"echo/hops": [1]}, "the same in an echo"),
    (
        "unknown-kind-in-heard",
        "receipt-full",
        {"heard/conference": "what it may be"},
        "a kind that version 1 does not know",
    ),
    ("other-time-zone", "announce-full", {"written_at": "2026-11-24T04:11:05.120+01:00"}, "the same instant elsewhere"),
    ("zulu", "announce-full", {"written_at": "2026-11-24T03:11:05.12Z"}, "the same instant as RFC 3339 may write it"),
    (
        "control-characters",
        "recall-full",
        {"why": "images\tof\u202eanother\npatient"},
        "what is not printed reads as spaces",
    ),
    ("whole-interval", "hello-full", {"interval_s": 300}, "an interval as a whole number"),
]
"""Name, example, the entries that are changed, and what that is."""

FEWEST = {
    "announce": {"study_description": GONE, "modality": GONE, "body_part": GONE, "identity": {}},
    "receipt": {"heard": GONE, "withdrawn": GONE},
    "opened": {"who": GONE},
    "take": {"who": GONE},
    "taken": {"responsible": GONE, "responsible_name": GONE, "heard": GONE},
    "recall": {"who": GONE, "why": GONE},
    "redirect": {"to_name": GONE, "why": GONE},
    "correct": {"who": GONE, "why": GONE, "before": {}, "after": {"patient_id": "4712"}},
    "hello": {"software": GONE},
}
"""What a writer may leave out when it has nothing to say."""


def body(name: str) -> dict:
    """The example as an object."""
    return json.loads(encode(EXAMPLES[name]))


def changed(name: str, changes: dict[str, object]) -> dict:
    """The example with entries put, replaced or taken out."""
    found = copy.deepcopy(body(name))
    for path, value in changes.items():
        *way, last = (int(step) if step.isdecimal() else step for step in path.split("/"))
        at = found
        for step in way:
            at = at[step]
        if value is GONE:
            del at[last]
        else:
            at[last] = value
    return found


def vectors() -> dict[str, bytes]:
    """Every file of the folder: its name and its bytes."""
    found = {f"{name}.json": encode(message) + b"\n" for name, message in EXAMPLES.items()}

    def put(name: str, **vector: object) -> None:
        found[name] = json.dumps(vector, indent=1).encode() + b"\n"

    for name, example, path, value, what in MALFORMED:
        put(f"malformed/{name}.json", what=what, error="RP-600", message=changed(example, {path: value}))
    put("malformed/not-an-object.json", what="a message is an object", error="RP-600", message=[body("announce-full")])
    for name, example, changes, what in TOLERATED:
        put(f"tolerated/{name}.json", what=what, message=changed(example, changes), reads_as=example)
    for kind, changes in FEWEST.items():
        example = f"{kind}-minimal"
        what = "what may be left out is left out"
        put(f"tolerated/{kind}-fewest-entries.json", what=what, message=changed(example, changes), reads_as=example)
    later = {name: value for name, value in body("hello-minimal").items() if name in HEAD} | {
        "kind": "conference",
        "room": "x",
    }
    put("later/kind-conference.json", what="a kind that came later, within version 1", error="RP-601", message=later)
    whole = body("announce-full") | {"raypost": 2}
    put("later/version-2.json", what="a later version of the protocol", error="RP-601", message=whole)
    other = {"raypost": 2, "type": ["announce"]}
    put(
        "later/version-2-other-form.json",
        what="a later version may change all but raypost",
        error="RP-601",
        message=other,
    )
    return found


HEAD = ("raypost", "kind", "transfer", "number", "from", "to", "priority", "test", "written_at")


def main() -> None:
    """Write what is missing or otherwise, and take away what is no vector any more."""
    wanted = vectors()
    for path in FOLDER.rglob("*.json"):
        if path.relative_to(FOLDER).as_posix() not in wanted:
            path.unlink()
    for name, content in wanted.items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
            print(f"written: {name}")


if __name__ == "__main__":
    main()
