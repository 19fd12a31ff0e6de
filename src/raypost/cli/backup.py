"""Commands that make, verify and restore backups."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from raypost.archive.backup_folder import Tell
from raypost.cli.output import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    answer,
    bytes_text,
    console,
    guarded,
    settings_of,
    show_table,
)
from raypost.errors import UsageError
from raypost.model.units import duration_text
from raypost.node import logs
from raypost.node.clock import SystemClock

VERIFY = "verify"
KEEP = 14
SAY_EVERY_S = 30.0
DRAW_EVERY_S = 0.1
BYTES_OF = ("database", "verifying the snapshot")
"""What is counted in bytes; the rest is counted in files."""


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("backup")(backup)
    app.command("restore")(restore)


@guarded
def backup(
    words: Annotated[list[str], typer.Argument(metavar="[verify] DIR", help="Folder of the backups.")],
    config: ConfigOption = DEFAULT_CONFIG,
    keep: Annotated[int, typer.Option(min=1, max=10_000, help="So many snapshots are kept; older ones go.")] = KEEP,
    deep: Annotated[bool, typer.Option(help="With verify: read every image and compare its hash.")] = False,
    snapshot: Annotated[str, typer.Option(help="With verify: only this one.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Back this site up while it runs: database, keys, images, settings, passwords. Or verify backups.

    Every run makes a new snapshot; images are shared by all of them, and only new ones are brought there. `verify`
    reads everything but the images, with --deep those too; it needs no site. Exit code 1: something is damaged.

    Example: raypost backup /mnt/backup/neustadt -c /srv/raypost/raypost.toml

    Example: raypost backup verify /mnt/backup/neustadt --deep
    """
    if words[0] == VERIFY and len(words) == 2:
        _verify(Path(words[1]), snapshot, deep=deep, as_json=as_json)
    elif words[0] != VERIFY and len(words) == 1:
        if deep or snapshot:
            raise UsageError("--deep and --snapshot belong to `raypost backup verify`")
        _back_up(Path(words[0]), config, keep, as_json=as_json)
    else:
        raise UsageError("say one folder", do="`raypost backup DIR` or `raypost backup verify DIR`.")


def _back_up(folder: Path, config: Path, keep: int, *, as_json: bool) -> None:
    from raypost.node.backup import back_up  # loaded here alone: every command would wait for it

    settings = settings_of(config)
    with _Display() as display:
        report = back_up(settings, config, folder, keep=keep, tell=display.tell)

    def _show() -> None:
        console.print(
            f"Snapshot {report.snapshot} is in {report.folder}: database {bytes_text(report.database_bytes)},"
            f" {report.blobs} images of {bytes_text(report.blob_bytes)};"
            f" new {report.linked + report.copied}, of which {report.linked} as links."
            f" It took {duration_text(report.took_s)}.",
            markup=False,
        )
        if report.linked:
            console.print("Links: site and backup lie on one disk. When it breaks, both are gone.", markup=False)
        if report.removed:
            console.print(f"{len(report.removed)} older snapshots were removed, {report.snapshots} are kept.")
        if report.damaged:
            _say_damaged(report.damaged, report.damaged_examples, "on this site's disk")

    answer(as_json, report.as_json(), _show)
    raise typer.Exit(1 if report.damaged else 0)


def _verify(folder: Path, snapshot: str, *, deep: bool, as_json: bool) -> None:
    from raypost.node.backup_check import verify

    logs.configure("raypost")
    with _Display() as display:
        verdict = verify(folder, snapshot=snapshot, deep=deep, tell=display.tell)
    shape = verdict.as_json()

    def _show() -> None:
        rows = [
            (one["snapshot"], one["backup_at"], one["raypost"], one["blobs"], bytes_text(one["blob_bytes"]), fault)
            for one in shape["snapshots"]
            for fault in ("; ".join(one["faults"]) or "in order",)
        ]
        show_table(("name", "at", "version", "images", "stored", ""), rows, "There is no complete snapshot.")
        if verdict.content.damaged:
            _say_damaged(verdict.content.damaged, verdict.content.examples, "in the backup")
        elif verdict.is_good:
            how = "read and compared with its hash" if deep else "there with its size; --deep reads them"
            console.print(f"Every image is {how}.")

    answer(as_json, shape, _show)
    raise typer.Exit(0 if verdict.is_good else 1)


@guarded
def restore(
    source: Annotated[Path, typer.Argument(metavar="BACKUP", help="The folder of the backups.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An empty folder; it becomes the site.")],
    snapshot: Annotated[str, typer.Option(help="Take this one; default: the newest.")] = "",
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", exists=True, help="A raypost.toml to use instead of the one in the backup."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make the site again from a backup, in an empty folder. The old one must never run again.

    Nothing is written outside DIR: what raypost.toml names elsewhere is brought into it, and the answer says so. An
    interrupted restore goes on when it is given again. Exit code 1: restored, but images are damaged in the backup.

    Example: raypost restore /mnt/backup/neustadt /srv/raypost
    """
    from raypost.node.restore import restore as restore_site

    logs.configure("raypost")
    with _Display() as display:
        report = restore_site(source, folder, snapshot=snapshot, config=config, tell=display.tell)

    def _show() -> None:
        lost = duration_text((report.restored_at - report.backup_at).total_seconds())
        console.print(
            f"The site {report.site} is restored in {report.folder}, as it was {lost} ago:"
            f" {report.blobs} images of {bytes_text(report.blob_bytes)}.",
            markup=False,
        )
        for one in report.changed_settings:
            console.print(f"  {one.setting} = {one.now!r}   (was {one.was!r})", markup=False)
        if report.damaged:
            _say_damaged(report.damaged, report.damaged_examples, "in the backup; everything else is restored")
        console.print(
            f"The old site must never run again. Now: `raypost serve -c {report.config}`,"
            f" then `raypost check -c {report.config}`.",
            markup=False,
        )

    answer(as_json, report.as_json(), _show)
    raise typer.Exit(1 if report.damaged else 0)


def _say_damaged(count: int, examples: list[str], where: str) -> None:
    console.print(f"{count} files are missing or damaged {where}:", markup=False)
    for place in examples:
        console.print(f"  {place}", markup=False)


class _Display:
    """Progress on standard error: a bar on a terminal, else a line now and then, so that cron stays quiet."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._said_s = self._clock.now().timestamp()
        self._drawn_s = 0.0
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"))
            self._bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)

    def __enter__(self) -> _Display:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def tell(self) -> Tell:
        """What is handed to those who work."""
        return self._tell

    def _tell(self, what: str, done: int, total: int) -> None:
        now_s = self._clock.now().timestamp()
        if now_s - self._drawn_s < DRAW_EVERY_S and done != total:
            return
        self._drawn_s = now_s
        text = (bytes_text if what in BYTES_OF else str)(done)
        if total:
            text += f" of {(bytes_text if what in BYTES_OF else str)(total)}"
        if self._bar:
            if what not in self._tasks:
                self._tasks[what] = self._bar.add_task(what, total=total or None, count=text)
            self._bar.update(self._tasks[what], completed=done, total=total or None, count=text)
        elif now_s - self._said_s >= SAY_EVERY_S:
            self._said_s = now_s
            sys.stderr.write(f"{what}: {text}\n")
            sys.stderr.flush()
