"""What a person sees of the demonstration: the hospitals' steps, live, and the story in sentences; then the figures."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from raypost.model.units import duration_text, size_text
from raypost.node.demo_network import CENTRE, DISPLAY_NAMES, REFERRER, DemoNetwork
from raypost.node.demo_outcome import Outcome
from raypost.node.demo_progress import Progress

BAR_WIDTH = 18
COUNTS_IMAGES = frozenset({"received", "packed", "sealed", "verified", "filed"})
"""Steps with a known total, so that a bar says how far they are; mails have none."""
STYLES = {
    "FAULT": "bold red",
    "REROUTED:": "bold yellow",
    "A PERSON": "bold red",
    "THE ALARM": "bold yellow",
    "DELIVERED:": "bold green",
    "UNCONFIRMED:": "bold red",
}
"""How sentences of the story are shown that hold these words."""


class DemoDisplay:
    """The story as lines; below them, on a terminal, the steps of each hospital, live."""

    def __init__(self, console: Console, instances: int, sites: list[str]) -> None:
        self._console = console
        self._instances = instances
        self._sites = sites
        self._live = Live(console=console, refresh_per_second=8, transient=False) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def tell(self, line: str) -> None:
        """Print a sentence of the story; above the live panels, where there are any."""
        style = next((style for words, style in STYLES.items() if words in line), None)
        self._console.print(line, markup=False, highlight=False, style=style, soft_wrap=True)

    def show(self, progress: Progress) -> None:
        """Show how far it is."""
        if self._live is not None:
            self._live.update(self._panels(progress))

    def _steps(self, site: str, it: Progress) -> list[tuple[str, int, str]]:
        """Return step, count and words of what a site does."""

        def _step(step: str, words: str) -> tuple[str, int, str]:
            count = it.count(site, step)
            return step, count, f"{count} {words}"

        if site == REFERRER:
            return [
                _step("received", "images from the scanner, on disk"),
                _step("packed", "images in parcels"),
                _step("sealed", "images signed and encrypted"),
                _step("sent", "parcels accepted by a relay"),
                _step("receipted", "images confirmed by a centre"),
            ]
        return [
            _step("fetched", "mails stored here"),
            _step("verified", "images, signature and hash good"),
            _step("filed", "images in the archive"),
            _step("receipted", "signed receipts sent back"),
        ]

    def _panels(self, it: Progress) -> Group:
        panels = []
        for site in self._sites:
            table = _table()
            for step, count, words in self._steps(site, it):
                has_bar = step in COUNTS_IMAGES or site == REFERRER and step == "receipted"
                is_done = count >= self._instances if has_bar else bool(count) and it.is_ended
                bar = Text()
                if has_bar:
                    filled = BAR_WIDTH * min(count, self._instances) // max(self._instances, 1)
                    bar = Text("█" * filled, style="green" if is_done else "cyan")
                    bar += Text("░" * (BAR_WIDTH - filled), style="dim")
                table.add_row(Text("✓", style="green") if is_done else "·", step, bar, words if count else "")
            panels.append(Panel(table, title=DISPLAY_NAMES[site], border_style="blue", width=72))
        return Group(Columns(panels, expand=False))

    def summarise(self, outcome: Outcome) -> None:
        """Say in plain words and figures what happened."""
        say = self._console.print
        say("")
        words, style = _verdict(outcome)
        say(words, markup=False, style=style)
        table = Table(box=None, show_header=False, pad_edge=False)
        rows = [
            ("first image at the centre", _seconds(outcome.first_image_s), "after the scanner began to send"),
            ("receipt at the sender", _seconds(outcome.delivered_s), "after the scanner began to send"),
            ("from the scanner", size_text(outcome.raw_bytes), f"{outcome.instances} images"),
            ("kept at the centre", size_text(outcome.stored_bytes), _ratio(outcome)),
            (
                "through the relay",
                size_text(outcome.wire_bytes),
                f"{outcome.mails} mails, both ways, all of it ciphertext",
            ),
            ("pixels", "identical" if outcome.pixels_identical else "DIFFERENT", "every decoded frame compared"),
            ("memory", f"{outcome.peak_rss_mb:.0f} MB", "peak of the largest site, without database and relay"),
        ]
        if outcome.announce_s is not None:
            rows.insert(0, ("known at the centre", _seconds(outcome.announce_s), "after the scanner began to send"))
        for row in rows:
            table.add_row(*row)
        say(table)
        for alarm in outcome.alarms:
            say(f"! {alarm}", markup=False, style="bold red")

    def invite(self, network: DemoNetwork) -> None:
        """Tell what can be tried while everything runs."""
        say = self._console.print
        say("")
        say("Everything keeps running until Ctrl-C. Try in another terminal:", style="bold")
        for site in network.sites.values():
            say(f"  raypost study list -c {site.config}", markup=False)
        referrer = network.sites[REFERRER]
        say(f"  raypost transfer list -c {referrer.config}", markup=False)
        say(f"  raypost check --partner {CENTRE} -c {referrer.config}", markup=False)
        say(f"  storescu -aet CT1 -aec {CENTRE.upper()}_N 127.0.0.1 {referrer.dicom_port} FILE.dcm", markup=False)


def _verdict(outcome: Outcome) -> tuple[str, str]:
    """Return the one sentence that counts, and its style."""
    if outcome.state == "delivered":
        return (
            f"Delivered. All {outcome.instances} images are in the centre's archive; its signed receipt names each of "
            "them by hash.",
            "bold green",
        )
    if outcome.state == "rerouted":
        return (
            f"Rerouted. All {outcome.instances} images are in the archive of {DISPLAY_NAMES[outcome.final_site]}; its "
            "signed receipt names each of them by hash.",
            "bold green",
        )
    return f"Not delivered: {outcome.state}.", "bold red"


def _table() -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=1)
    table.add_column(width=9)
    table.add_column(width=BAR_WIDTH)
    table.add_column()
    return table


def _seconds(value: float | None) -> str:
    return "never" if value is None else duration_text(value)


def _ratio(outcome: Outcome) -> str:
    ratio = outcome.raw_bytes / outcome.stored_bytes if outcome.stored_bytes else 0.0
    return f"JPEG-LS without loss, {ratio:.1f} times smaller"
