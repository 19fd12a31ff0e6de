"""Run the embedded relay as a process: `python -m raypost.relay`; says what happens as one JSON line each."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from raypost.relay.server import SIZE_MAX_BYTES, RelayOptions, run_relay

USERS_MAX_BYTES = 1 << 20


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run until SIGTERM, SIGINT or the end of the starting process.

    Passwords come from files or as a JSON object on standard input, never from the command line, where every user of
    the machine could read them.
    """
    parser = argparse.ArgumentParser(prog="python -m raypost.relay", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--smtp-port", type=int, default=0, help="submission, TLS; 0 takes a free port")
    parser.add_argument("--imap-port", type=int, default=0, help="IMAP, TLS; 0 takes a free port")
    parser.add_argument("--cert", type=Path, required=True, help="server certificate, PEM")
    parser.add_argument("--key", type=Path, required=True, help="its secret key, PEM")
    parser.add_argument("--size-max-bytes", type=int, default=SIZE_MAX_BYTES)
    parser.add_argument("--user", action="append", default=[], metavar="ADDRESS:PASSWORD-FILE")
    parser.add_argument(
        "--users-from-stdin",
        action="store_true",
        help='read {"ADDRESS": "PASSWORD", ...} from standard input up to its end',
    )
    given = parser.parse_args(arguments)
    users: dict[str, str] = {}
    if given.users_from_stdin:
        users.update(json.loads(sys.stdin.read(USERS_MAX_BYTES)))
    for one in given.user:
        address, _, file_name = one.partition(":")
        users[address] = Path(file_name).read_text(encoding="utf-8").rstrip("\r\n")
    if not users:
        parser.error("no users given")
    options = RelayOptions(
        users=users,
        certificate_file=given.cert,
        secret_key_file=given.key,
        host=given.host,
        smtp_port=given.smtp_port,
        imap_port=given.imap_port,
        size_max_bytes=given.size_max_bytes,
    )
    run_relay(options, _say_accepted, _say_up)


def _say_up(smtp_port: int, imap_port: int) -> None:
    _say({"up": {"smtp_port": smtp_port, "imap_port": imap_port}})


def _say_accepted(accepted_bytes: int, sender: str, recipient: str) -> None:
    _say({"accepted_bytes": accepted_bytes, "from": sender, "to": recipient})


def _say(event: dict[str, object]) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    main()
