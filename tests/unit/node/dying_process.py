"""A process of a site that writes a line and ends; for the test of the supervisor."""

import pathlib
import threading


def run(settings: object, stop: threading.Event, file: str) -> None:
    with pathlib.Path(file).open("a") as out:
        out.write("lived\n")
