"""Makes a raypost.toml fit another folder: every path in it then lies below that folder, all else stays as it was.

A restore writes nothing outside the folder it was given: the old site may still be there. The text is changed in
place, so that comments stay, and read again: a file whose form this module does not master is refused, not guessed at.
"""

from __future__ import annotations

import copy
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from raypost.errors import UsageError

DATABASE_BELOW_DATA = "postgresql"
FILES_OF_DICOM = ("tls_certificate", "tls_key", "tls_client_ca")
FILES_OF_RELAY = ("password_file", "ca_file")

_TABLE = re.compile(r"\s*\[\s*([A-Za-z0-9_.\-\s\"']+?)\s*\]\s*(#.*)?$")
_ENTRY = re.compile(r"(\s*([A-Za-z0-9_\-]+)\s*=\s*)(\"(?:[^\"\\]|\\.)*\"|'[^']*')(.*)$")

Place = tuple[str, ...]
"""Where a setting stands: its tables and its name."""


@dataclass(frozen=True, slots=True)
class Change:
    """A path that was changed."""

    setting: str
    was: str
    now: str


def file_settings(text: str) -> dict[str, str]:
    """Return the settings that name a file which a site cannot do without, and what they say.

    Raises:
        UsageError: The text is no TOML.
    """
    return {".".join(place): value for place, value in _paths(_parsed(text)) if place[-1] not in _FOLDERS}


def move(text: str, old_folder: Path, is_here: Callable[[str, Path], bool]) -> tuple[str, list[Change]]:
    """Return the text with every path made one below its own folder, and what was changed.

    Args:
        old_folder: Where the file was.
        is_here: Says whether the file that a setting names outside the old folder is on this machine as it was; then it
            stays named.

    Raises:
        UsageError: The text is no TOML, or is written in a way that this module does not master.
    """
    parsed = _parsed(text)
    wanted, changes, data_folder = copy.deepcopy(parsed), list[Change](), "data"
    taken = {_inside(value, old_folder) for _, value in _paths(parsed)}
    for place, value in _paths(parsed):
        fresh = _inside(value, old_folder)
        if fresh is None:
            if place == ("data_folder",):
                fresh = "data"
            elif place[-1] in _FOLDERS:
                fresh = f"{data_folder}/{DATABASE_BELOW_DATA}"
            elif is_here(".".join(place), old_folder / value):
                continue
            else:
                name = PurePath(value).name
                fresh = name if name not in taken else f"{'.'.join(place)}-{name}"
                taken.add(fresh)
        if place == ("data_folder",):
            data_folder = fresh
        if fresh != value:
            _table(wanted, place)[place[-1]] = fresh
            changes.append(Change(".".join(place), value, fresh))
    moved = _rewritten(text, {tuple(one.setting.split(".")): one.now for one in changes})
    if not _means(moved, wanted):
        names = ", ".join(one.setting for one in changes)
        raise UsageError(
            f"raypost.toml names places outside its folder ({names}) in a form that cannot be changed here",
            do="Copy it out of the backup, correct these settings by hand, and give it with --config.",
        )
    return moved, changes


_FOLDERS = ("data_folder", "embedded_folder")


def _paths(parsed: dict[str, Any]) -> Iterator[tuple[Place, str]]:
    """Give the paths in a file, the data folder first."""
    places: list[Place] = [("data_folder",), ("database", "embedded_folder")]
    places += [("dicom", name) for name in FILES_OF_DICOM]
    places += [("relay", relay, name) for relay in parsed.get("relay", {}) for name in FILES_OF_RELAY]
    for place in places:
        value = _table(parsed, place).get(place[-1])
        if isinstance(value, str):
            yield place, value


def _table(parsed: dict[str, Any], place: Place) -> dict[str, Any]:
    found = parsed
    for name in place[:-1]:
        found = found.get(name, {})
    return found


def _inside(value: str, old_folder: Path) -> str | None:
    """Return a path relative to the old folder; None when it leads out of it."""
    if not PurePath(value).is_absolute() and not os.path.normpath(value).startswith(".."):
        return value
    whole = PurePath(os.path.normpath(old_folder / value))
    return str(whole.relative_to(old_folder)) if whole.is_relative_to(old_folder) else None


def _rewritten(text: str, values: dict[Place, str]) -> str:
    lines, table = text.split("\n"), tuple[str, ...]()
    for number, line in enumerate(lines):
        if found := _TABLE.fullmatch(line):
            table = tuple(word.strip(" \t\"'") for word in found[1].split("."))
        elif line.lstrip().startswith("[["):
            table = ("[[",)
        elif (entry := _ENTRY.fullmatch(line)) and (*table, entry[2]) in values:
            fresh = json.dumps(values[(*table, entry[2])], ensure_ascii=False)
            lines[number] = entry[1] + fresh + entry[4]
    return "\n".join(lines)


def _means(text: str, wanted: dict[str, Any]) -> bool:
    try:
        return tomllib.loads(text) == wanted
    except tomllib.TOMLDecodeError:
        return False


def _parsed(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"raypost.toml cannot be read: {error}") from error
