"""What a person sees of the demonstration: two hospitals, eight steps, live; then a summary in words and figures."""

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
from raypost.node.demo import Outcome, Progress
from raypost.node.demo_network import CENTRE, REFERRER, DemoNetwork

BAR_WIDTH = 18


class DemoDisplay:
    """A live panel on a terminal; plain lines, one a step, where there is none."""

    def __init__(self, console: Console, instances: int) -> None:
        self._console = console
        self._instances = instances
        self._live = Live(console=console, refresh_per_second=8, transient=False) if console.is_terminal else None
        self._said: set[str] = set()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        """Show how far it is."""
        if self._live is not None:
            self._live.update(self._panels(progress))
            return
        for side, step, count, words in self._steps(progress):
            is_done = self._is_done(side, step, count, progress)
            if count and step not in self._said:
                self._said.add(step)
                self._console.print(f"  {side:13} {step:10} begins", markup=False)
            if is_done and f"{step} done" not in self._said:
                self._said.add(f"{step} done")
                self._console.print(f"  {side:13} {step:10} {words}", markup=False)

    def _is_done(self, side: str, step: str, count: int, it: Progress) -> bool:
        """Say whether a step did all it has to: every image, or whatever it counts once the study is delivered."""
        return count >= self._instances if _counts_images(side, step) else bool(count) and it.delivered > 0

    def _steps(self, it: Progress) -> list[tuple[str, str, int, str]]:
        return [
            (REFERRER, "received", it.received, f"{it.received} images from the scanner, on disk"),
            (REFERRER, "packed", it.packed, f"{it.packed} images in parcels"),
            (REFERRER, "sealed", it.sealed, f"{it.sealed} images signed and encrypted"),
            (REFERRER, "sent", it.sent, f"{it.sent} parcels accepted by the relay"),
            (CENTRE, "fetched", it.fetched, f"{it.fetched} mails stored here"),
            (CENTRE, "verified", it.verified, f"{it.verified} images, signature and hash good"),
            (CENTRE, "filed", it.filed, f"{it.filed} images in the archive"),
            (CENTRE, "receipted", it.receipts_written, f"{it.receipts_written} signed receipts sent back"),
            (REFERRER, "receipted ", it.receipted, f"{it.receipted} images confirmed by the centre"),
        ]

    def _panels(self, it: Progress) -> Group:
        sides = {REFERRER: _table(), CENTRE: _table()}
        for side, step, count, words in self._steps(it):
            is_done = self._is_done(side, step, count, it)
            done = self._instances if is_done else min(count, self._instances - 1)
            filled = BAR_WIDTH * done // max(self._instances, 1)
            bar = Text()
            if _counts_images(side, step):
                bar = Text("█" * filled, style="green" if is_done else "cyan")
                bar += Text("░" * (BAR_WIDTH - filled), style="dim")
            sides[side].add_row(Text("✓", style="green") if is_done else "·", step.strip(), bar, words if count else "")
        title = {REFERRER: "Krankenhaus Neustadt, referring", CENTRE: "Schlaganfallzentrum Ludwigshafen"}
        panels = [Panel(sides[side], title=title[side], border_style="blue", width=72) for side in (REFERRER, CENTRE)]
        return Group(Columns(panels, expand=False))

    def summarise(self, outcome: Outcome) -> None:
        """Say in plain words and figures what happened."""
        say = self._console.print
        say("")
        if outcome.state == "delivered":
            say(
                f"Delivered. All {outcome.instances} images are in the centre's archive; its signed receipt names each "
                "of them by hash.",
                markup=False,
                style="bold green",
            )
        else:
            say(f"Not delivered: {outcome.state}.", markup=False, style="bold red")
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
            ("memory", f"{outcome.peak_rss_mb:.0f} MB", "peak of the larger site, without database and relay"),
        ]
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


def _counts_images(side: str, step: str) -> bool:
    """Say whether a step counts images, so that a bar says how far it is; mails have no known total."""
    return step.strip() not in ("sent", "fetched") and not (side == CENTRE and step == "receipted")


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
