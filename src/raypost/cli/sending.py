"""`raypost send`: takes files in, orders that they go to a partner, and says what became of each."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from raypost.archive import partners, search
from raypost.cli.output import DEFAULT_CONFIG, ConfigOption, JsonOption, answer, console, guarded, person, settings_of
from raypost.errors import BadInputError, NotNowError, RaypostError, UnknownOutcomeError, UsageError
from raypost.model.transfer import Priority
from raypost.node.site import Site, opened_site
from raypost.node.worker_process import make_route

FILES_MAX = 20_000
LOOK_S = 0.3
FAILED = ("unconfirmed", "rerouted", "recalled")
"""States in which nobody waits for this partner's receipt any more."""
AGAIN = "Send the same files again: nothing is taken in or filed twice."


@dataclass
class _Ordered:
    """What became of an order to send files.

    Attributes:
        transfer_keys: What was ordered; nothing of it is lost, whatever happens then.
        stopped: Why it ended before all files were looked at.
    """

    transfer_keys: list[str] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)
    stopped: RaypostError | None = None


@guarded
def send(
    to: Annotated[str, typer.Option(help="Name of the partner.")],
    paths: Annotated[list[Path] | None, typer.Argument(metavar="PATH…", help="DICOM files or folders.")] = None,
    study: Annotated[str, typer.Option(help="Key of a study in the archive instead.")] = "",
    priority: Annotated[Priority, typer.Option(help="How urgent.")] = Priority.ROUTINE,
    wait_s: Annotated[float, typer.Option("--wait", help="Wait so many seconds for the partner's receipt.")] = 0.0,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Send a study to a partner; `raypost serve` does the work. Exit code 1 when a file was left out.

    Example: raypost send ~/ct-head --to ludwigshafen --priority emergency --wait 60
    """
    if bool(paths) == bool(study):
        raise UsageError("name either files or --study KEY")
    with opened_site(settings_of(config)) as site:
        with site.archive.database.transaction() as tx:
            if partners.partner_named(tx, to).is_self:
                raise UsageError(f"{to} is this site itself", do="`raypost partner list` shows the partners.")
        if study:
            ordered = _Ordered([make_route(site).send_study(study, to, priority, person())])
        else:
            ordered = _send_files(site, paths or [], to, priority, quiet=as_json)
        shapes = _shapes(site, ordered, wait_s)
    shape: dict[str, Any] = {"transfers": shapes, "left_out": ordered.left_out}
    error = ordered.stopped or _not_there(shapes, wait_s) or _incomplete(ordered.left_out)

    def _show() -> None:
        for one in ordered.left_out:
            console.print(f"left out: {one['file']}: {one['why']}", markup=False)
        for one in shapes:
            console.print(
                f"transfer {one['transfer_key']} to {one['partner']}: {one['state']}, {one['instances']} instances",
                markup=False,
            )

    if error is not None and as_json:  # one JSON document, whatever happens
        shape["error"] = error.as_json()
    answer(as_json, shape, _show)
    if error is not None and as_json:
        raise typer.Exit(error.exit_code)
    if error is not None:
        raise error


def _shapes(site: Site, ordered: _Ordered, wait_s: float) -> list[dict[str, Any]]:
    """Wait for the receipts, unless something went wrong already: then that is said, also when the database is away."""
    if ordered.stopped is None:
        return _wait(site, ordered.transfer_keys, wait_s)
    try:
        return _wait(site, ordered.transfer_keys, 0.0)
    except RaypostError:
        return []


def _not_there(shapes: list[dict[str, Any]], wait_s: float) -> RaypostError | None:
    """Say what is so when somebody waited and not everything is delivered; the worst first."""
    if not wait_s:
        return None
    for one in shapes:
        if one["state"] in FAILED:
            return UnknownOutcomeError(
                f"{one['partner']} did not confirm transfer {one['transfer_key']}: it is {one['state']}",
                meaning="Nobody waits for it any more. The images are safe here; the partner may have some or all.",
                do="Telephone the partner. `raypost transfer show` tells why, `raypost transfer resend` sends again.",
            )
    if any(one["state"] != "delivered" for one in shapes):
        return NotNowError(
            "not delivered in time",
            meaning="It is still on its way; nothing is lost.",
            do="`raypost transfer show` tells where it is.",
        )
    return None


def _incomplete(left_out: list[dict[str, str]]) -> RaypostError | None:
    if not left_out:
        return None
    return BadInputError(
        f"{len(left_out)} of the files were left out",
        meaning="They are not sent; all others are.",
        do="Each is named with the reason. What is no image need not be sent.",
    )


def _send_files(site: Site, paths: list[Path], to: str, priority: Priority, *, quiet: bool) -> _Ordered:
    """Take files in and order that they are sent; what was taken in is ordered, however the taking in ends.

    Raises:
        UsageError: There is nothing to send.
        RaypostError: It ended before anything was taken in.
    """
    files = [file for path in paths for file in _files_below(path)]
    if not files or len(files) > FILES_MAX:
        raise UsageError("there are no files there" if not files else f"more than {FILES_MAX} files at once")
    ordered, by_case = _Ordered(), dict[int, list[int]]()
    failure: RaypostError | None = None
    try:
        _take_in(site, files, by_case, ordered.left_out, quiet=quiet)
    except KeyboardInterrupt:
        failure = NotNowError("interrupted")
    except RaypostError as error:
        failure = error
    finally:
        unsent = _order(site, by_case, to, priority, ordered.transfer_keys)
    if not by_case:
        raise failure or UsageError("none of the files is DICOM that can be read")
    taken = sum(map(len, by_case.values()))
    if unsent is not None:
        ordered.stopped = NotNowError(
            f"{unsent.what}; {taken} of {len(files)} files were taken in",
            meaning=f"Of the {len(by_case)} studies they belong to {len(ordered.transfer_keys)} are on their way;"
            " the others are kept here and are not sent.",
            do=AGAIN,
        )
    elif failure is not None:
        ordered.stopped = NotNowError(
            f"{failure.what}; {taken} of {len(files)} files were taken in",
            meaning=f"Those {taken} are on their way; nothing else is sent.",
            do=AGAIN,
        )
    return ordered


def _take_in(
    site: Site, files: list[Path], by_case: dict[int, list[int]], left_out: list[dict[str, str]], *, quiet: bool
) -> None:
    from raypost.node.dicom_process import make_intake  # loaded here alone: it would double the time of every command

    intake = make_intake(site)
    for number, file in enumerate(files, 1):
        if not quiet and console.is_terminal:
            console.print(f"\rtaking in {number} of {len(files)}", end="", markup=False)
        try:
            file.open("rb").close()
            filed = intake.take_file(file, who=person())
        except OSError as error:
            left_out.append({"file": str(file), "why": f"it cannot be read: {error.strerror}"})
        except BadInputError as error:
            left_out.append({"file": str(file), "why": error.what})
        else:
            by_case.setdefault(filed.case_id, []).append(filed.instance_id)
    if not quiet:
        console.print()


def _order(
    site: Site, by_case: dict[int, list[int]], to: str, priority: Priority, transfer_keys: list[str]
) -> RaypostError | None:
    """Order that each study is sent; one that cannot be ordered stops no other. Return what went wrong last."""
    route, failure = make_route(site), None
    for case_id, found in by_case.items():
        try:
            transfer_keys.append(route.send_instances(case_id, found, to, priority, person()))
        except RaypostError as error:
            failure = error
    return failure


def _files_below(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UsageError(f"there is no {path}")

    def _unreadable(error: OSError) -> None:
        raise UsageError(f"the folder {error.filename} cannot be read: {error.strerror}")

    below = [Path(folder) / name for folder, _, names in os.walk(path, onerror=_unreadable) for name in names]
    return sorted(one for one in below if one.is_file() and one.name.upper() != "DICOMDIR")


def _wait(site: Site, transfer_keys: list[str], wait_s: float) -> list[dict[str, Any]]:
    pause, waited_s = threading.Event(), 0.0
    while True:
        with site.archive.database.transaction() as tx:
            shapes = [search.transfer(tx, one) for one in transfer_keys]
        if waited_s >= wait_s or all(one["state"] in ("delivered", *FAILED) for one in shapes):
            return [
                {name: value for name, value in one.items() if name not in ("messages", "events")} for one in shapes
            ]
        pause.wait(LOOK_S)
        waited_s += LOOK_S
