"""A process of a site that does not end by itself; for the test of the supervisor."""

import threading


def run(settings: object, stop: threading.Event) -> None:
    threading.Event().wait(60)
