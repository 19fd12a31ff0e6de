"""Hypothesis strategies for messages, for the facts of the machines, and for values that look like JSON."""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import strategies as st

from raypost.model.manifest import INSTANCES_MAX, PARCELS_MAX, ManifestEntry, ParcelEntry
from raypost.model.transfer import MessageKind, Priority
from raypost.transfer.control import (
    Announce,
    Correct,
    Echo,
    Head,
    Hello,
    Identity,
    Manifest,
    Opened,
    Parcel,
    Recall,
    Recalled,
    Receipt,
    Redirect,
    Take,
    Taken,
)
from raypost.transfer.hello import ContactFacts, ContactState
from raypost.transfer.notes import Note
from raypost.transfer.receiver import ReceiverFacts, ReceiverState
from raypost.transfer.sender import SenderFacts, SenderState

# Values on the wire

KEYS = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=10, max_size=40)
FINGERPRINTS = st.integers(0, 16**40 - 1).map("{:040X}".format) | st.integers(0, 16**64 - 1).map("{:064X}".format)
HASHES = st.integers(0, 16**64 - 1).map("{:064x}".format)
TEXTS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"], include_characters=" "), max_size=40)
UIDS = st.lists(st.integers(0, 10**9), min_size=2, max_size=6).map(lambda parts: ".".join(map(str, parts)))
COUNTS = st.integers(0, INSTANCES_MAX)
MINUTES = st.integers(-14 * 60, 14 * 60)
AT = st.builds(
    lambda since_s, minutes: datetime.fromtimestamp(since_s / 1000, UTC).astimezone(
        timezone(timedelta(minutes=minutes))
    ),
    st.integers(0, 4_000_000_000_000),
    MINUTES,
)
"""Whole milliseconds, 1970 to 2096, in any time zone: what is written is read as the same instant."""
NUMBER_SETS = st.frozensets(st.integers(1, PARCELS_MAX), max_size=12) | st.integers(1, 60).map(
    lambda last: frozenset(range(1, last + 1))
)
HEARD = st.dictionaries(st.sampled_from(MessageKind), NUMBER_SETS, max_size=4)
IDENTITIES = st.builds(Identity, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS)
ENTRIES = st.builds(ManifestEntry, HASHES, st.integers(1, 8 << 30), UIDS)


def _slice(instance: ManifestEntry, one: float, other: float) -> ParcelEntry:
    begin, end = sorted((int(one * instance.size_bytes), int(other * instance.size_bytes)))
    begin = min(begin, instance.size_bytes - 1)
    return ParcelEntry(instance, begin, max(1, end - begin))


SHARES = st.floats(0, 1, exclude_max=True)
SLICES = st.builds(_slice, ENTRIES, SHARES, SHARES) | ENTRIES.map(lambda one: ParcelEntry(one, 0, one.size_bytes))


def heads(kind: MessageKind) -> st.SearchStrategy[Head]:
    """Heads of one kind."""
    last = PARCELS_MAX if kind is MessageKind.PARCEL else 1_000_000
    return st.builds(
        Head,
        KEYS,
        st.just(kind),
        st.integers(1, last),
        FINGERPRINTS,
        FINGERPRINTS,
        st.sampled_from(Priority),
        st.booleans(),
        AT,
    )


LISTED = st.lists(ENTRIES, min_size=1, max_size=6, unique_by=lambda one: one.sha256).map(tuple)
WORDS = st.lists(TEXTS, max_size=5).map(tuple)
SUPPLEMENTS = st.integers(0, 1000)
K = MessageKind
AUDIT_HEADS = st.just("") | st.from_regex(r"[1-9][0-9]{0,17}:[0-9a-f]{64}", fullmatch=True)
MESSAGES_BY_KIND = {
    K.ANNOUNCE: st.builds(Announce, heads(K.ANNOUNCE), UIDS, SUPPLEMENTS, IDENTITIES, TEXTS, TEXTS, TEXTS, COUNTS),
    K.PARCEL: st.builds(
        Parcel, heads(K.PARCEL), UIDS, SUPPLEMENTS, st.lists(SLICES, min_size=1, max_size=6).map(tuple)
    ),
    K.MANIFEST: st.builds(Manifest, heads(K.MANIFEST), UIDS, SUPPLEMENTS, st.integers(0, PARCELS_MAX), LISTED),
    K.RECEIPT: st.builds(
        Receipt,
        heads(K.RECEIPT),
        NUMBER_SETS,
        NUMBER_SETS,
        COUNTS,
        st.frozensets(HASHES, max_size=5),
        st.frozensets(HASHES, max_size=5),
        st.booleans(),
        HEARD,
        st.booleans(),
        st.none() | AT,
        st.none() | AT,
        NUMBER_SETS,
        AUDIT_HEADS,
    ),
    K.OPENED: st.builds(Opened, heads(K.OPENED), TEXTS, AT),
    K.TAKE: st.builds(Take, heads(K.TAKE), TEXTS, AT),
    K.TAKEN: st.builds(Taken, heads(K.TAKEN), st.just("") | FINGERPRINTS, TEXTS, st.none() | AT, HEARD),
    K.RECALL: st.builds(Recall, heads(K.RECALL), TEXTS, TEXTS),
    K.RECALLED: st.builds(Recalled, heads(K.RECALLED), COUNTS, WORDS, WORDS, AT),
    K.REDIRECT: st.builds(Redirect, heads(K.REDIRECT), TEXTS, TEXTS),
    K.CORRECT: st.builds(Correct, heads(K.CORRECT), KEYS, TEXTS, TEXTS, IDENTITIES, IDENTITIES),
    K.HELLO: st.builds(
        Hello,
        heads(K.HELLO),
        TEXTS,
        st.lists(st.integers(0, 1000), min_size=1, max_size=4).map(tuple),
        WORDS,
        st.integers(0, 1 << 40),
        st.floats(0.001, 86_400),
        st.none() | st.builds(Echo, st.integers(0, 1_000_000), AT, AT),
        st.none() | AT,
        st.integers(0, 1 << 40),
        st.text("abcXYZ09+/=-\n", max_size=80),
        st.lists(FINGERPRINTS, max_size=4).map(tuple),
        AUDIT_HEADS,
    ),
}
MESSAGES = st.one_of(*MESSAGES_BY_KIND.values())

JSON_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, 10**400, 1 << 63, 50_001, 1_000_001])
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.sampled_from(
        ["", "announce", "hello", "1.2.3", "A" * 40, "a" * 10, "ab" * 32, "x" * 1001, "\ud800", "٣", "\x00", "../x"]
        + ["2026-11-24T03:11:05Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-W48-2T00:00+00:00"]
    )
)
JSON_VALUES = st.recursive(
    JSON_LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)

# Facts of the machines. Instants lie within the hours around "now", so that time-outs of every kind are met.

INSTANTS = st.integers(0, 80_000).map(lambda quarter: quarter / 4)
SMALL = st.integers(0, 3)
SEEDS = st.sampled_from(["abcdefghij", "n5k7q2xw3m6r4j2m5a7c2dkepu", "zzzzzzzzzz"])
NOTES = st.lists(st.builds(Note, INSTANTS, st.integers(1, 18), st.sampled_from(Priority)), max_size=3).map(tuple)
SENDER_FACTS = st.builds(
    SenderFacts,
    state=st.sampled_from(SenderState),
    seed=SEEDS,
    priority=st.sampled_from(Priority),
    last_arrival_s=INSTANTS,
    released_s=st.none() | INSTANTS,
    items_waiting=SMALL,
    in_hand=SMALL,
    unconfirmed=SMALL,
    seen=SMALL,
    refused=SMALL,
    parcels=SMALL,
    has_manifest=st.booleans(),
    rounds=st.integers(0, 15),
    patience_from_s=INSTANTS,
    progress_s=INSTANTS,
    unheard_since_s=st.none() | INSTANTS,
    unheard_by_suspect=st.booleans(),
    notes=NOTES,
    round_trip_s=st.none() | st.floats(0, 5_000),
    relays_usable=st.integers(0, 3),
    switches=st.integers(0, 12),
    switched_s=st.none() | INSTANTS,
    is_told=st.booleans(),
    reroute_after_s=st.none() | st.floats(1, 3_600),
)
RECEIVER_FACTS = st.builds(
    ReceiverFacts,
    state=st.sampled_from(ReceiverState),
    seed=SEEDS,
    priority=st.sampled_from(Priority),
    is_all_filed=st.booleans(),
    in_hand=SMALL,
    news=SMALL,
    has_first_filed=st.booleans(),
    gap_since_s=st.none() | INSTANTS,
    opened_s=INSTANTS,
    last_arrival_s=INSTANTS,
    last_receipt_s=st.none() | INSTANTS,
    reminders=st.integers(0, 15),
    is_told=st.booleans(),
    notes=NOTES,
    doubles=SMALL,
    asked_s=st.none() | INSTANTS,
)
CONTACT_FACTS = st.builds(
    ContactFacts,
    state=st.sampled_from(ContactState),
    written_s=st.none() | INSTANTS,
    heard_s=st.none() | INSTANTS,
    known_since_s=INSTANTS,
    its_interval_s=st.none() | st.floats(0.001, 86_400),
    is_emergency_open=st.booleans(),
)
