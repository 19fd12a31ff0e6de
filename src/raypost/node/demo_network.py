"""Hospitals and relays on this machine, each in processes of its own, made as an administrator would make them."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from raypost.archive import partners
from raypost.archive.embedded import EmbeddedPostgres
from raypost.lab.free_port import free_port
from raypost.node import demo_process
from raypost.node.demo_relay import DemoRelay, RelayAddress
from raypost.node.demo_site import DemoSite, serve
from raypost.node.setup import RelayTemplate, Template, add_partner, make_site, own_card
from raypost.node.site import opened_site
from raypost.settings import load

REFERRER, CENTRE, SECOND_CENTRE = "neustadt", "ludwigshafen", "mannheim"
DISPLAY_NAMES = {
    REFERRER: "Krankenhaus Neustadt",
    CENTRE: "Schlaganfallzentrum Ludwigshafen",
    SECOND_CENTRE: "Schlaganfallzentrum Mannheim",
}
DOMAIN = "demo.raypost.test"
MAIN_RELAY, RESERVE_RELAY = "main", "reserve"
PROVIDERS = {MAIN_RELAY: DOMAIN, RESERVE_RELAY: "reserve.raypost.test"}
"""Relays by name, each with a provider of its own, the first to be used first."""
SCANNER_AE_TITLE = "CT1"


@dataclass
class DemoNetwork:
    """A context manager: everything runs inside the block and is gone after it.

    Attributes:
        folder: Where the sites live; must be empty.
        relay: A relay that runs already; None starts embedded ones.
        settle_after_release_s: See raypost.toml.
        transfer_lines: Lines for [transfer] in each site's raypost.toml; they win over those of the demonstration.
        relay_count: How many relays are started.
        has_second_centre: A third hospital: a second centre.
        seed: Of the chance by which ordered faults of the relays meet a mail.
        relays: The embedded relays by name, once they run.
        sites: The hospitals by name.
    """

    folder: Path
    relay: RelayAddress | None = None
    settle_after_release_s: float = 2.0
    transfer_lines: tuple[str, ...] = ()
    relay_count: int = 1
    has_second_centre: bool = False
    seed: int = 1
    relays: dict[str, DemoRelay] = field(default_factory=dict)
    sites: dict[str, DemoSite] = field(default_factory=dict)
    _server: EmbeddedPostgres | None = None

    def __enter__(self) -> Self:
        if os.geteuid() == 0:
            self.folder.chmod(0o711)  # our own folder; the database's own user must be able to pass through
        names = [REFERRER, CENTRE, *([SECOND_CENTRE] if self.has_second_centre else [])]
        try:
            self._server = EmbeddedPostgres(self.folder / "postgresql").start()  # one server for all, kept running
            addresses = {MAIN_RELAY: self.relay} if self.relay is not None else self._start_relays(names)
            for name in names:
                self.sites[name] = self._make(name, addresses)
            self._exchange()
            serve(*self.sites.values())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @staticmethod
    def remove_leftovers(folder: Path) -> None:
        """Remove a database that had to lie outside the folder because the database's own user could not reach it."""
        server = EmbeddedPostgres(folder / "postgresql")
        if server.root != folder / "postgresql":
            shutil.rmtree(server.root, ignore_errors=True)

    @property
    def accepted(self) -> list[int]:
        """Return the sizes in bytes of all mails that the embedded relays accepted."""
        return [one.size_bytes for relay in self.relays.values() for one in relay.carried]

    def _start_relays(self, site_names: list[str]) -> dict[str, RelayAddress]:
        for number, (name, domain) in enumerate(list(PROVIDERS.items())[: self.relay_count]):
            folder = self.folder / f"relay-{name}"
            self.relays[name] = DemoRelay(name, domain, folder, site_names, self.seed + number)
        return {name: relay.start() for name, relay in self.relays.items()}

    def _make(self, name: str, relays: dict[str, RelayAddress]) -> DemoSite:
        folder = self.folder / name
        folder.mkdir()
        tables: list[RelayTemplate] = []
        for relay, it in relays.items():
            address, is_first = it.mailbox(name), not tables
            password_file = folder / ("relay-password" if is_first else f"{relay}-password")
            password_file.touch(mode=0o600)
            password_file.write_text(it.passwords[address] + "\n")
            tables.append(
                RelayTemplate(
                    name=relay,
                    smtp_host=it.host,
                    imap_host=it.host,
                    smtp_port=it.smtp_port,
                    imap_port=it.imap_port,
                    address="" if is_first else address,
                    password_file=password_file.name,
                    ca_file=str(it.ca_file),
                )
            )
        template = Template(
            name=name,
            display_name=DISPLAY_NAMES[name],
            ae_stem=name.upper()[:14],
            address=next(iter(relays.values())).mailbox(name),
            relays=tuple(tables),
            dicom_port=free_port(),  # written down, so that it stays the same when the process starts again
            calling=(SCANNER_AE_TITLE,),
            database_lines=(f'embedded_folder = "{self.folder / "postgresql"}"', f'name = "{name}"'),
            transfer_lines=self._transfer_lines(),
        )
        config, _ = make_site(folder, template)
        return DemoSite(name, folder, config)

    def _transfer_lines(self) -> tuple[str, ...]:
        lines = (
            f"settle_after_release_s = {self.settle_after_release_s}",
            "settle_s = 10.0",
            "receipt_interval_s = 2.0",
            *self.transfer_lines,
        )
        return tuple({line.partition("=")[0].strip(): line for line in lines}.values())  # the last one counts

    def _exchange(self) -> None:
        """Let each site read the others' cards, with the fingerprint as its administrator would read it aloud."""
        cards = {}
        for name, one in self.sites.items():
            with opened_site(load(one.config)) as site:
                card = one.folder / f"{name}.card"
                card.write_text(own_card(site))
                with site.archive.database.transaction() as tx:
                    cards[name] = (card, partners.own_site(tx).fingerprint)
        for name, one in self.sites.items():
            with opened_site(load(one.config)) as site:
                for other, (card, fingerprint) in cards.items():
                    if other != name:
                        add_partner(site, card, fingerprint, "demo")

    def _stop(self) -> None:
        demo_process.stop(
            [*(site.process for site in self.sites.values()), *(relay.process for relay in self.relays.values())]
        )
        for site in self.sites.values():
            site.forget_keys()
        if self._server is not None:
            self._server.stop()
