"""raypost.toml and environment to frozen values; every setting has a default, a unit and one-line help.

What this machine is stands here: paths, ports, AE titles, mail accounts, limits. Partners, rules and nodes are rows.
Environment variables win over the file: RAYPOST_DATABASE__URL, RAYPOST_DICOM__PORT and so on; RAYPOST_DATABASE_URL for
short. Unknown entries are an error, so that a typing mistake cannot go unnoticed.
"""

from __future__ import annotations

import os
import tomllib
from datetime import tzinfo
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from raypost.errors import UsageError
from raypost.mail.submission import CONNECT_TIMEOUT_S, STALL_TIMEOUT_S
from raypost.model.identifiers import is_address, is_ae_title, is_site_name
from raypost.model.site import AE_STEM_LENGTH_MAX
from raypost.transfer.failover import FailoverLimits
from raypost.transfer.hello import HelloLimits
from raypost.transfer.limits import Limits
from raypost.transfer.pacing import PacingLimits
from raypost.transfer.receiver import ReceiverLimits
from raypost.transfer.sender import SenderLimits

FAULTS_MAX = 10

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400 * 30)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=200)]
RelayName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9\-]{0,30}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SiteSettings(_Section):
    """[site] Who this machine is."""

    name: Annotated[str, Field(description="short name within the network: a-z 0-9 -")]
    display_name: Annotated[Word, Field(description="the hospital's name as people read it")]
    ae_stem: Annotated[
        str, Field(description="partners accept images for this site under this AE title; at most 14 characters")
    ]
    address: Annotated[str, Field(description="mail address of this site's mailbox on the relay")]
    time_zone: Annotated[str, Field(description="for rules with hours and for what people read")] = "Europe/Berlin"

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not is_site_name(value):
            raise ValueError("lower-case letters, digits and hyphens, at most 31")
        return value

    @field_validator("ae_stem")
    @classmethod
    def _ae_stem(cls, value: str) -> str:
        if not is_ae_title(value) or len(value) > AE_STEM_LENGTH_MAX:
            raise ValueError(f"an AE title of at most {AE_STEM_LENGTH_MAX} characters: A-Z 0-9 _ - .")
        return value

    @field_validator("address")
    @classmethod
    def _address(cls, value: str) -> str:
        if not is_address(value):
            raise ValueError("a plain mail address")
        return value

    @field_validator("time_zone")
    @classmethod
    def _time_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError("a time zone such as Europe/Berlin") from None
        return value


class DatabaseSettings(_Section):
    """[database] The embedded PostgreSQL, unless a URL names another."""

    url: Annotated[
        str, Field(description="postgresql://user@host/name of a server from version 15; empty: embedded")
    ] = ""
    embedded_folder: Annotated[
        Path | None, Field(description="where the embedded server lives; default: postgresql below the data folder")
    ] = None
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$", description="database on the embedded server")] = (
        "raypost"
    )


class CallingNode(_Section):
    """[[dicom.calling]] A modality or PACS that may send to this site."""

    ae_title: Annotated[str, Field(description="its AE title")]
    hosts: Annotated[tuple[str, ...], Field(description="its addresses; empty: any host that reaches the port")] = ()

    @field_validator("ae_title")
    @classmethod
    def _ae_title(cls, value: str) -> str:
        if not is_ae_title(value):
            raise ValueError("an AE title: at most 16 of A-Z 0-9 _ - .")
        return value


class DicomSettings(_Section):
    """[dicom] Where modalities send to."""

    host: Annotated[str, Field(description="address to listen on; 127.0.0.1 is this machine alone")] = "127.0.0.1"
    port: Annotated[Port, Field(description="TCP port; 0 takes a free one")] = 11112
    ae_title: Annotated[str, Field(description="this site's own AE title, beside those of its partners")] = "RAYPOST"
    calling: Annotated[tuple[CallingNode, ...], Field(description="who may send; nobody else is let in")] = ()
    tls_certificate: Annotated[Path | None, Field(description="PEM file; with tls_key it turns TLS on")] = None
    tls_key: Annotated[Path | None, Field(description="PEM file with the secret key")] = None
    tls_client_ca: Annotated[
        Path | None, Field(description="PEM file; peers must then show a certificate of this authority")
    ] = None
    plain_allowed: Annotated[
        bool, Field(description="answer other machines without TLS: only where the network is the hospital's own")
    ] = False
    pdu_size_max_bytes: Annotated[int, Field(ge=16_384, le=1 << 20, description="longest PDU that is read")] = 262_144
    instance_size_max_bytes: Annotated[int, Field(ge=1 << 20, description="largest instance that is taken")] = 2 << 30
    associations_max: Annotated[int, Field(ge=1, le=500, description="associations at once")] = 32
    idle_timeout_s: Annotated[Seconds, Field(description="a silent association is closed after so long")] = 120.0

    @field_validator("ae_title")
    @classmethod
    def _ae_title(cls, value: str) -> str:
        if not is_ae_title(value):
            raise ValueError("an AE title: at most 16 of A-Z 0-9 _ - .")
        return value


class RelaySettings(_Section):
    """[relay.NAME] This site's account on a mail relay; the name is the same in the whole network.

    Several tables are relays at different places: mail leaves by the first that is well, all mailboxes are emptied.
    No two of them share an address, or a log-in on the same server.
    """

    address: Annotated[
        str, Field(description="mail address of this site's mailbox on this relay; default: that of [site]")
    ] = ""
    smtp_host: Annotated[Word, Field(description="submission server, as its certificate names it")]
    smtp_port: Annotated[Port, Field(description="465 with tls, 587 with starttls")] = 465
    smtp_security: Annotated[Literal["tls", "starttls"], Field(description="there is no third")] = "tls"
    imap_host: Annotated[Word, Field(description="IMAP server, as its certificate names it")]
    imap_port: Annotated[Port, Field(description="993 with tls, 143 with starttls")] = 993
    imap_security: Annotated[Literal["tls", "starttls"], Field(description="there is no third")] = "tls"
    username: Annotated[Word, Field(description="login, for both")]
    password_file: Annotated[Path, Field(description="file that holds the password; closed to all others: chmod 600")]
    ca_file: Annotated[Path | None, Field(description="PEM file of the authority to trust; default: the system's")] = (
        None
    )
    mail_size_max_bytes: Annotated[
        int, Field(ge=100_000, description="largest mail to make, where the relay names no smaller limit")
    ] = 10_000_000
    collect_size_max_bytes: Annotated[
        int, Field(ge=1_000_000, description="larger mails are not fetched but noted")
    ] = 200_000_000
    timeout_s: Annotated[Seconds, Field(description="patience with the relay's answers")] = 120.0
    connect_timeout_s: Annotated[
        Seconds, Field(description="patience with a connection: a relay that is gone costs no more")
    ] = CONNECT_TIMEOUT_S
    stall_timeout_s: Annotated[
        Seconds, Field(description="nothing moved for so long: mails go by another relay, if there is one")
    ] = STALL_TIMEOUT_S

    @field_validator("address")
    @classmethod
    def _address(cls, value: str) -> str:
        if value and not is_address(value):
            raise ValueError("a plain mail address")
        return value


_SENDER, _RECEIVER, _RELAYS, _HELLO, _PACING = (
    SenderLimits(),
    ReceiverLimits(),
    FailoverLimits(),
    HelloLimits(),
    PacingLimits(),
)
Count = Annotated[int, Field(ge=0, le=20)]


class TransferSettings(_Section):
    """[transfer] Times and sizes of the transfer protocol."""

    settle_s: Annotated[Seconds, Field(description="nothing new for so long closes a transfer")] = _SENDER.settle_s
    settle_after_release_s: Annotated[
        Seconds, Field(description="the same, after the modality released its association")
    ] = _SENDER.settle_after_release_s
    receipt_timeout_s: Annotated[
        Seconds,
        Field(description="shortest patience for a receipt, three round trips if longer; doubled with each round"),
    ] = _SENDER.receipt_timeout_s
    rounds_max: Annotated[
        Count, Field(description="so often everything unconfirmed is sent again before it counts as unconfirmed")
    ] = _SENDER.rounds_max
    swallowed_after_s: Annotated[
        Seconds,
        Field(description="a relay that took mails of which so long nothing was heard is left for another"),
    ] = _SENDER.swallowed_after_s
    silent_emergency_s: Annotated[
        Seconds, Field(description="an emergency makes no progress for so long: a person is told")
    ] = _SENDER.silent_emergency_s
    silent_urgent_s: Annotated[Seconds, Field(description="the same for what is urgent")] = _SENDER.silent_urgent_s
    silent_routine_s: Annotated[Seconds, Field(description="the same for routine")] = _SENDER.silent_routine_s
    receipt_interval_s: Annotated[Seconds, Field(description="while images arrive, one receipt in so long")] = (
        _RECEIVER.receipt_interval_s
    )
    gap_wait_s: Annotated[Seconds, Field(description="a parcel that others overtook is asked for after so long")] = (
        _RECEIVER.gap_wait_s
    )
    quiet_emergency_s: Annotated[
        Seconds, Field(description="nothing came for so long and something of an emergency is missing: ask for it")
    ] = _RECEIVER.quiet_emergency_s
    quiet_s: Annotated[Seconds, Field(description="the same for others")] = _RECEIVER.quiet_s
    reminders_max: Annotated[Count, Field(description="so often it is asked for before a person is told")] = (
        _RECEIVER.reminders_max
    )
    announced_only_s: Annotated[
        Seconds, Field(description="images were announced and none came for so long: a person is told")
    ] = _RECEIVER.announced_only_s
    relay_retry_first_s: Annotated[
        Seconds, Field(description="a relay that lets us not in is tried again after so long, doubled each time")
    ] = _RELAYS.retry_first_s
    relay_retry_max_s: Annotated[Seconds, Field(description="but at least so often")] = _RELAYS.retry_max_s
    relay_suspect_s: Annotated[
        Seconds, Field(description="a relay that swallowed mails is used as before after so long")
    ] = _RELAYS.suspect_s
    hello_interval_s: Annotated[Seconds, Field(description="a sign of life goes to each partner so often")] = (
        _HELLO.interval_s
    )
    hello_interval_emergency_s: Annotated[
        Seconds, Field(description="the same while an emergency to or from it is open")
    ] = _HELLO.interval_emergency_s
    first_parcel_max_bytes: Annotated[int, Field(ge=10_000, description="the first parcel is small and early")] = (
        _PACING.first_parcel_max_bytes
    )
    parcel_max_bytes: Annotated[int, Field(ge=10_000, description="no parcel is larger")] = _PACING.parcel_max_bytes


class LimitSettings(_Section):
    """[limits] What this machine spends."""

    worker_threads: Annotated[int, Field(ge=2, le=64, description="jobs at once")] = 6
    sandbox_processes: Annotated[int, Field(ge=1, le=32, description="parsers at once, in each of two processes")] = 2
    sandbox_memory_max_bytes: Annotated[int, Field(ge=64 << 20, description="of one parser, above its start")] = 1 << 30
    disk_free_min_bytes: Annotated[int, Field(ge=0, description="below that nothing more is taken in")] = 1 << 30


class AuditSettings(_Section):
    """[audit] Where audit messages go beside this site's own audit trail (DICOM PS3.15, A.6 and A.7)."""

    syslog_host: Annotated[str, Field(description="syslog receiver, as its certificate names it; empty: none")] = ""
    syslog_port: Annotated[Port, Field(description="6514 with tls, 514 with udp")] = 6514
    syslog_transport: Annotated[
        Literal["tls", "udp"], Field(description="udp has neither encryption nor proof that anything arrived")
    ] = "tls"
    ca_file: Annotated[Path | None, Field(description="PEM file of the authority to trust; default: the system's")] = (
        None
    )


class _Schema(_Section):
    """The whole file."""

    data_folder: Annotated[Path, Field(description="where images, mails on their way and keys are kept")] = Path("data")
    site: SiteSettings
    database: DatabaseSettings = DatabaseSettings()
    dicom: DicomSettings = DicomSettings()
    relay: Annotated[dict[RelayName, RelaySettings], Field(min_length=1, max_length=8)]
    transfer: TransferSettings = TransferSettings()
    limits: LimitSettings = LimitSettings()
    audit: AuditSettings = AuditSettings()

    @model_validator(mode="after")
    def _relays_differ(self) -> Self:
        """Refuse a relay that stands there twice: it would be no second way, and its mailbox would be emptied twice."""
        seen: dict[tuple[str, ...], str] = {}
        for name, it in self.relay.items():
            address, login = it.address or self.site.address, it.username
            for what, place in (
                ("address", (address,)),
                ("log-in for SMTP", (it.smtp_host, str(it.smtp_port), login)),
                ("log-in for IMAP", (it.imap_host, str(it.imap_port), login)),
            ):
                other = seen.setdefault((what, *(word.lower() for word in place)), name)
                if other != name:
                    raise PydanticCustomError(
                        "relay_twice",
                        "relay.{name}: has the same {what} as relay.{other}, {place}; each relay is a server and a"
                        " mailbox of its own",
                        {"name": name, "what": what, "other": other, "place": " ".join(place)},
                    )
        return self


class Settings(BaseSettings, _Schema):
    """Everything that stands in raypost.toml, checked."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix="RAYPOST_", env_nested_delimiter="__")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file."""
        return env_settings, init_settings

    @property
    def zone(self) -> tzinfo:
        """Return the site's time zone."""
        return ZoneInfo(self.site.time_zone)

    @property
    def first_relay(self) -> str:
        """Return the name of the relay that is preferred: the first in the file."""
        return next(iter(self.relay))

    @property
    def keys_folder(self) -> Path:
        """Return the folder of the key ring."""
        return self.data_folder / "keys"

    def address_on(self, relay: str) -> str:
        """Return this site's mail address on a relay."""
        return self.relay[relay].address or self.site.address

    def limits_of_transfers(self) -> Limits:
        """Return the times of all state machines."""
        it = self.transfer
        return Limits(
            SenderLimits(
                settle_s=it.settle_s,
                settle_after_release_s=it.settle_after_release_s,
                receipt_timeout_s=it.receipt_timeout_s,
                rounds_max=it.rounds_max,
                swallowed_after_s=it.swallowed_after_s,
                silent_emergency_s=it.silent_emergency_s,
                silent_urgent_s=it.silent_urgent_s,
                silent_routine_s=it.silent_routine_s,
            ),
            ReceiverLimits(
                receipt_interval_s=it.receipt_interval_s,
                gap_wait_s=it.gap_wait_s,
                quiet_emergency_s=it.quiet_emergency_s,
                quiet_s=it.quiet_s,
                reminders_max=it.reminders_max,
                announced_only_s=it.announced_only_s,
            ),
            FailoverLimits(
                retry_first_s=it.relay_retry_first_s, retry_max_s=it.relay_retry_max_s, suspect_s=it.relay_suspect_s
            ),
            HelloLimits(interval_s=it.hello_interval_s, interval_emergency_s=it.hello_interval_emergency_s),
        )

    def pacing(self) -> PacingLimits:
        """Return the sizes of parcels."""
        return PacingLimits(
            first_parcel_max_bytes=self.transfer.first_parcel_max_bytes, parcel_max_bytes=self.transfer.parcel_max_bytes
        )


def load(file: Path) -> Settings:
    """Read and check raypost.toml; relative paths in it are relative to its folder.

    Raises:
        UsageError: It is missing or something in it cannot be right; the text names every place.
    """
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"there is no {file}", do="`raypost init DIR` makes one; --config names another.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    url = os.environ.get("RAYPOST_DATABASE_URL")
    if url:
        found.setdefault("database", {})["url"] = url
    try:
        settings = Settings(**found)
    except ValidationError as error:
        raise UsageError(
            f"{file}: {_faults(error)}", do="Correct the file; `raypost config template` prints one with every setting."
        ) from error
    return _absolute(settings, file.absolute().parent)


def _faults(error: ValidationError) -> str:
    """Say each fault in words of ours: where it stands and what is wrong."""
    words = {"extra_forbidden": "there is no such setting", "missing": "is missing"}
    return "; ".join(
        ": ".join([*([".".join(map(str, one["loc"]))] if one["loc"] else []), words.get(one["type"], one["msg"])])
        for one in error.errors()[:FAULTS_MAX]
    )


def _absolute(settings: Settings, folder: Path) -> Settings:
    """Make every relative path one below the file's folder."""
    data_folder = folder / settings.data_folder

    def _fix(path: Path | None) -> Path | None:
        return folder / path if path is not None else None

    database = settings.database
    embedded = _fix(database.embedded_folder) or data_folder / "postgresql"
    dicom = settings.dicom
    paths: dict[str, Any] = {
        name: _fix(getattr(dicom, name)) for name in ("tls_certificate", "tls_key", "tls_client_ca")
    }
    relays = {
        name: one.model_copy(update={"password_file": folder / one.password_file, "ca_file": _fix(one.ca_file)})
        for name, one in settings.relay.items()
    }
    return settings.model_copy(
        update={
            "data_folder": data_folder,
            "relay": relays,
            "audit": settings.audit.model_copy(update={"ca_file": _fix(settings.audit.ca_file)}),
            "dicom": dicom.model_copy(update=paths),
            "database": database.model_copy(update={"embedded_folder": embedded}),
        }
    )
