"""Passwords of persons (Argon2id, RFC 9106), and signing in: bounded attempts, the same time for every name."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

import sqlalchemy as sa
from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from sqlalchemy.dialects.postgresql import insert

from raypost.archive import events, partners, people
from raypost.archive.database import Transaction
from raypost.archive.tables import PersonRow, SignInFailuresRow
from raypost.model.audit import EventKind, Level
from raypost.model.person import PASSWORD_LENGTH_MAX, Person, check_password, is_login_name, normal_password

ITERATIONS, LANES, MEMORY_KIB = 3, 4, 64 << 10
"""The second recommended choice of RFC 9106, 4: 64 MiB; some tenths of a second, for a guesser as for us."""
SALT_BYTES, HASH_BYTES = 16, 32

FAILURES_OF_NAME_MAX = 5
"""In one window; after that the name is refused, the right password too, until the window ends."""
FAILURES_OF_ALL_MAX = 60
"""In one window: then a person is told, and single refusals are not written down any more."""
WINDOW = timedelta(seconds=60)
BUCKETS = 4096
ALL_NAMES = -1

NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$qZXXw2u5/UnW7ys07BcXKQ$DzgY0oz7zm1kzpNp13s3D5GhgHI58ZL7RQ2M7bq7200"
"""Of random bytes that nobody kept; compared with so that an unknown name takes the time of a known one."""

GENERATED_LENGTH = 24

_verify = Argon2id.verify_phc_encoded


class SignInRefusal(Enum):
    """Why somebody was not let in. For the log; who wanted in learns only the last."""

    WRONG = "name or password wrong"
    DISABLED = "the person is disabled"
    WITHOUT_PASSWORD = "the person has no password"
    TOO_MANY = "too many attempts"


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Somebody proved who it is."""

    person: Person
    must_change_password: bool


@dataclass(frozen=True, slots=True)
class SignInRefused:
    """Nobody was let in; `wait_s` is how long another attempt under this name is useless."""

    why: SignInRefusal
    wait_s: float = 0.0


def new_password() -> str:
    """Return a password made of 120 random bits, in groups that can be read aloud."""
    letters = "abcdefghijkmnpqrstuvwxyz23456789"  # 32 that nobody takes for each other
    chosen = "".join(letters[byte % len(letters)] for byte in secrets.token_bytes(GENERATED_LENGTH))
    return "-".join(chosen[at : at + 6] for at in range(0, len(chosen), 6))


def set_password(
    tx: Transaction, name: str, password: str, *, now: datetime, who: str, is_one_time: bool = False
) -> None:
    """Give a person a password.

    Args:
        is_one_time: It must be changed when the person signs in.

    Raises:
        UsageError: There is no such person, or the password would be guessed soon.
    """
    person = people.person_named(tx, name)
    own = partners.own_site(tx)
    check_password(password, (person.name, person.display_name, *person.display_name.split(), own.name))
    tx.execute(
        sa.update(PersonRow)
        .where(PersonRow.name == name)
        .values(password_hash=_hashed(password), password_set_at=now, is_password_one_time=is_one_time)
    )
    change = "one-time password set" if is_one_time else "password set"
    events.record(tx, now, EventKind.PERSON_CHANGED, level=Level.NOTICE, change=change, person=name, who=who)


def sign_in(tx: Transaction, name: str, password: str, now: datetime) -> SignedIn | SignInRefused:
    """Let a person in who knows the password. The transaction must be committed in every case: it counts.

    Known, unknown and disabled names are told the same, take the same time, and are counted alike.
    """
    bucket = int.from_bytes(hashlib.sha256(name.encode("utf-8", "replace")).digest()[:8]) % BUCKETS
    failures, wait_s = _locked_failures(tx, bucket, now)
    row = _row(tx, name)
    known = row.name if row is not None else people.UNKNOWN
    if failures >= FAILURES_OF_NAME_MAX:
        if failures == FAILURES_OF_NAME_MAX:  # told once in a window, however long somebody hammers
            _refuse(tx, bucket, known, SignInRefusal.TOO_MANY, now)
        return SignInRefused(SignInRefusal.TOO_MANY, wait_s)
    password_hash = row.password_hash if row is not None and row.disabled_at is None else None
    if not _fits(password, password_hash or NOBODY):
        why = SignInRefusal.WRONG
        if row is not None and password_hash is None:
            why = SignInRefusal.WITHOUT_PASSWORD if row.disabled_at is None else SignInRefusal.DISABLED
        _refuse(tx, bucket, known, why, now)
        return SignInRefused(SignInRefusal.WRONG)
    assert row is not None and password_hash is not None, "nobody has the password of NOBODY"
    events.record(tx, now, EventKind.USER_SIGNED_IN, person=name)
    return SignedIn(people.person_named(tx, name), row.is_password_one_time)


def _row(tx: Transaction, name: str) -> PersonRow | None:
    if not is_login_name(name):  # whatever a stranger types: it may be long, or hold what the database takes for an end
        return None
    return tx.scalar(sa.select(PersonRow).where(PersonRow.name == name).execution_options(populate_existing=True))


def _hashed(password: str) -> str:
    hashing = Argon2id(
        salt=secrets.token_bytes(SALT_BYTES),
        length=HASH_BYTES,
        iterations=ITERATIONS,
        lanes=LANES,
        memory_cost=MEMORY_KIB,
    )
    return hashing.derive_phc_encoded(normal_password(password).encode())


def _fits(password: str, password_hash: str) -> bool:
    said = normal_password(password[: PASSWORD_LENGTH_MAX + 1]).encode("utf-8", "replace")
    try:
        _verify(said, password_hash)
    except InvalidKey:
        return False
    return True


def _locked_failures(tx: Transaction, bucket: int, now: datetime) -> tuple[int, float]:
    """Return the failures of the running window, and the seconds until it ends; other attempts wait for this one.

    Without that a hundred guesses at once would all find the counter at nought.
    """
    tx.execute(insert(SignInFailuresRow).values(bucket=bucket, since=now, failures=0).on_conflict_do_nothing())
    row = tx.scalars(
        sa.select(SignInFailuresRow)
        .where(SignInFailuresRow.bucket == bucket)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one()
    if abs(now - row.since) >= WINDOW:  # a clock that was set back must not shut anybody out for long
        row.since, row.failures = now, 0
        tx.flush()
    return row.failures, max(0.0, (WINDOW - abs(now - row.since)).total_seconds())


def _refuse(tx: Transaction, bucket: int, person: str, why: SignInRefusal, now: datetime) -> None:
    of_all, _ = _locked_failures(tx, ALL_NAMES, now)
    tx.execute(
        sa.update(SignInFailuresRow)
        .where(SignInFailuresRow.bucket.in_([bucket, ALL_NAMES]))
        .values(failures=SignInFailuresRow.failures + 1)
    )
    if of_all < FAILURES_OF_ALL_MAX:
        level = Level.ALARM if of_all == FAILURES_OF_ALL_MAX - 1 else Level.NOTICE
        events.record(
            tx, now, EventKind.USER_SIGN_IN_REFUSED, level=level, person=person, code=why.value, failures=of_all + 1
        )
