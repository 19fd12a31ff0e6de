"""What must be safe before a site starts: who may read its files, what stands in raypost.toml, who could listen in.

Everything is looked at, so that it can be mended at once; each finding names the file and the line, or the command.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, urlsplit

from raypost.archive.database import plain_url
from raypost.archive.embedded import EmbeddedPostgres
from raypost.errors import UnsafeSettingsError, UsageError
from raypost.model.person import is_default_password
from raypost.settings import Settings

OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""Group and all others: what only the site's own user may open."""
OTHERS_BUT_GROUP_READING = OTHERS & ~stat.S_IRGRP
"""For the key of a TLS certificate: Debian gives those to the group ssl-cert."""
OTHERS_WRITING = stat.S_IWGRP | stat.S_IWOTH
OTHERS_PASSING = stat.S_IXGRP | stat.S_IXOTH
CHECKED_SSL_MODES = frozenset({"verify-ca", "verify-full"})
PASSWORD_MAX_BYTES = 1024

_TABLE = re.compile(r"\s*\[\[?\s*([A-Za-z0-9_.\-\s\"']+?)\s*\]\]?\s*(?:#.*)?$")
_ENTRY = re.compile(r"\s*([A-Za-z0-9_\-]+)\s*=")
_SECRET = re.compile(
    r"\s*#?\s*\"?(?:password|passwd|passwort|passphrase|secret|pin|token)\"?\s*=\s*[\"'][^\"']+[\"']"
    r"|.*-----BEGIN [A-Z ]*PRIVATE KEY",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"(postgres(?:ql)?(?:\+psycopg)?://[^\s\"'#]+)")


@dataclass(frozen=True, slots=True)
class Unsafe:
    """One thing that lays the site open.

    Attributes:
        what: What it is, with the file and the line or the environment variable it stands in.
        do: The command or the line that mends it.
    """

    what: str
    do: str


class _Lines:
    """Where the settings stand: in which line of raypost.toml, or in which environment variable."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lines = file.read_text(encoding="utf-8").splitlines()
        self._places: dict[tuple[str, ...], list[int]] = {}
        table: tuple[str, ...] = ()
        for number, line in enumerate(self.lines, 1):
            if found := _TABLE.fullmatch(line):
                table = tuple(word.strip(" \t\"'") for word in found[1].split("."))
                self._places.setdefault(table, []).append(number)
            elif entry := _ENTRY.match(line):
                self._places.setdefault((*table, entry[1]), []).append(number)

    def where(self, *place: str, number: int = 0) -> str:
        """Return where a setting stands, in words.

        Args:
            place: Its tables and its name.
            number: Which one, where a table stands there several times.
        """
        for end in range(len(place), 0, -1):
            variable = "RAYPOST_" + "__".join(place[:end]).upper()
            if any(name.upper() == variable for name in os.environ):
                return f"the environment variable {variable}"
        if place == ("database", "url") and os.environ.get("RAYPOST_DATABASE_URL"):
            return "the environment variable RAYPOST_DATABASE_URL"
        numbers = self._places.get(place, [])
        if number < len(numbers):
            return f"{self.file}, line {numbers[number]}"
        return f"{self.file}, section [{'.'.join(place[:-1])}]"


def unsafe(file: Path, settings: Settings) -> list[Unsafe]:
    """Return everything that is not safe.

    Args:
        file: The raypost.toml that the settings were read from.
    """
    lines = _Lines(file)
    return [
        *_own_file(file),
        *_secrets_in_the_file(lines),
        *_folders(settings),
        *_password_files(lines, settings),
        *_database(lines, settings),
        *_dicom(lines, settings),
        *_audit(lines, settings),
    ]


def refuse_unsafe(file: Path, settings: Settings) -> None:
    """Do nothing if everything is safe.

    Raises:
        UnsafeSettingsError: Something is not; the text has all of it.
    """
    found = unsafe(file, settings)
    if found:
        count = "1 thing makes" if len(found) == 1 else f"{len(found)} things make"
        listed = "".join(f"\n  {number}. {one.what}\n     → {one.do}" for number, one in enumerate(found, 1))
        raise UnsafeSettingsError(f"{count} it unsafe to start:{listed}")


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches an address: a loopback address, `localhost`, a socket, or nothing."""
    if host in ("", "localhost") or host.startswith(("/", "@")):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _mode(path: Path) -> int:
    """Return the permissions; 0 for what is not there or lies where we cannot look: others cannot either."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0


def _own_file(file: Path) -> Iterator[Unsafe]:
    if _mode(file) & OTHERS_WRITING:
        yield Unsafe(f"{file} can be changed by other users of this machine", f"chmod 600 {file}")
    folder = file.absolute().parent
    mode = _mode(folder)
    if mode & OTHERS_WRITING and not mode & stat.S_ISVTX:
        yield Unsafe(f"{folder} can be changed by other users: they could exchange {file.name}", f"chmod go-w {folder}")


def _secrets_in_the_file(lines: _Lines) -> Iterator[Unsafe]:
    """Find what belongs into a file of its own; comments count: whoever may read the file reads them, too."""
    for number, line in enumerate(lines.lines, 1):
        place = f"{lines.file}, line {number}"
        if any(_has_password(found) for found in _URL_PASSWORD.findall(line)):
            yield Unsafe(
                f"{place}: the URL of the database holds a password",
                "Take it out of the URL and put it into ~/.pgpass (chmod 600), or give the whole URL in the environment"
                " variable RAYPOST_DATABASE_URL.",
            )
        elif _SECRET.match(line):
            yield Unsafe(
                f"{place}: a secret stands in the settings",
                "Take the line out, put the secret into a file of its own (chmod 600), and change it: it was readable.",
            )


def _has_password(url: str) -> bool:
    try:
        parts = urlsplit(plain_url(url))
    except ValueError:
        return False
    return bool(parts.password) or "password" in parse_qs(parts.query)


def _folders(settings: Settings) -> Iterator[Unsafe]:
    data = settings.data_folder
    keys = settings.keys_folder
    if _mode(keys) & OTHERS:
        yield Unsafe(
            f"{keys} with the secret keys can be opened by other users of this machine",
            f"chmod 700 {keys}; whoever could open it may have copied the keys: think of new ones",
        )
    folders = {data / "blobs": "the images"}
    if _mode(data) & OTHERS_PASSING:  # within a closed folder nobody gets there; earlier versions made it open
        folders[data / "spool"] = "mails and images on their way"
    if not settings.database.url and settings.database.embedded_folder is not None:
        with contextlib.suppress(UsageError):  # no embedded database on this machine: whoever starts it says so
            server = EmbeddedPostgres(settings.database.embedded_folder)
            folders |= {server.root: "the database", server.data: "the files of the database"}
    for folder, what in folders.items():
        if _mode(folder) & OTHERS:
            yield Unsafe(f"{folder} with {what} can be opened by other users of this machine", f"chmod 700 {folder}")
    key = settings.dicom.tls_key
    if key is not None and _mode(key) & OTHERS_BUT_GROUP_READING:
        yield Unsafe(f"{key}, the secret key of DICOM over TLS, can be opened by other users", f"chmod 600 {key}")


def _password_files(lines: _Lines, settings: Settings) -> Iterator[Unsafe]:
    for name, it in settings.relay.items():
        file, place = it.password_file, lines.where("relay", name, "password_file")
        # What root or systemd gives to the service, it may only read: by its group, and it could not change that.
        forbidden = OTHERS if _is_own(file) else OTHERS_BUT_GROUP_READING
        if _mode(file) & forbidden:
            yield Unsafe(f"{file}, a password ({place}), can be opened by other users", f"chmod 600 {file}")
        try:
            with file.open("rb") as reader:
                password = reader.read(PASSWORD_MAX_BYTES).decode("utf-8", "replace").strip("\r\n")
        except OSError:
            continue  # whoever needs it says so
        address = settings.address_on(name)
        names = (it.username, address, address.partition("@")[0], settings.site.name, settings.site.ae_stem, name)
        if is_default_password(password, names):
            yield Unsafe(
                f"{file} holds a password that anybody would try first ({place})",
                f"Have the relay's administrator give {it.username} another one, and write it into {file}.",
            )


def _is_own(file: Path) -> bool:
    with contextlib.suppress(OSError):
        return file.stat().st_uid == os.geteuid()
    return True


def _database(lines: _Lines, settings: Settings) -> Iterator[Unsafe]:
    if not settings.database.url:
        return
    parts = urlsplit(plain_url(settings.database.url))
    query = parse_qs(parts.query)
    ssl_mode = query.get("sslmode", [os.environ.get("PGSSLMODE", "prefer")])[-1]
    foreign = [host for host in _hosts(parts, query) if not is_loopback(host)]
    if foreign and ssl_mode not in CHECKED_SSL_MODES:
        yield Unsafe(
            f"{lines.where('database', 'url')}: the way to the database at {', '.join(foreign)} is not protected by TLS"
            f" with a checked certificate (sslmode={ssl_mode})",
            "Append ?sslmode=verify-full&sslrootcert=FILE to the URL.",
        )


def _hosts(parts: SplitResult, query: dict[str, list[str]]) -> list[str]:
    """Return the hosts that a URL names (libpq, 32.1.1.2): there may be several, and none means a socket or PGHOST."""
    named = query.get("hostaddr") or query.get("host")
    if named:
        return named[-1].split(",")
    places = parts.netloc.rpartition("@")[2]
    if not places:
        return [os.environ.get("PGHOSTADDR") or os.environ.get("PGHOST", "")]
    return [re.sub(r":\d*$", "", place).strip("[]") for place in places.split(",")]


def _dicom(lines: _Lines, settings: Settings) -> Iterator[Unsafe]:
    it = settings.dicom
    has_tls = it.tls_certificate is not None and it.tls_key is not None
    if not has_tls and (one := next((name for name in _TLS_NAMES if getattr(it, name) is not None), None)):
        yield Unsafe(
            f"{lines.where('dicom', one)}: {one} alone turns no TLS on",
            "Give tls_certificate and tls_key, or take the line out.",
        )
    if is_loopback(it.host):
        return
    if not has_tls and not it.plain_allowed:
        yield Unsafe(
            f"{lines.where('dicom', 'host')}: DICOM is answered to other machines without TLS; who listens in reads the"
            " images",
            "Set tls_certificate and tls_key in [dicom]. Where modalities know no TLS and the network is the hospital's"
            " own: plain_allowed = true",
        )
    if it.tls_client_ca is None or not has_tls:
        for number, node in enumerate(it.calling):
            if not node.hosts:
                yield Unsafe(
                    f"{lines.where('dicom', 'calling', number=number)}: whoever reaches the port and calls itself"
                    f" {node.ae_title} may send",
                    f'Below that line: hosts = ["ADDRESS OF {node.ae_title}"], or give tls_client_ca.',
                )


def _audit(lines: _Lines, settings: Settings) -> Iterator[Unsafe]:
    it = settings.audit
    if it.syslog_host and it.syslog_transport == "udp" and not is_loopback(it.syslog_host):
        yield Unsafe(
            f"{lines.where('audit', 'syslog_transport')}: audit messages, which name patients, go to {it.syslog_host}"
            " without encryption",
            'Set syslog_transport = "tls", or send to a syslog program on this machine that passes them on by TLS.',
        )


_TLS_NAMES = ("tls_certificate", "tls_key", "tls_client_ca")
