"""Run the embedded relay as a process: `python -m raypost.relay`; says what happens as one JSON line each."""

from __future__ import annotations

import argparse
import io
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raypost.relay.server import SIZE_MAX_BYTES, RelayOptions, run_relay

USERS_MAX_BYTES = 1 << 20


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run until SIGTERM, SIGINT or the end of the starting process.

    Passwords come from files or as a JSON object on standard input, never from the command line, where every user of
    the machine could read them. Orders for faults come on standard input, too, after the passwords.
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
        help='read {"ADDRESS": "PASSWORD", ...} from the first line of standard input',
    )
    parser.add_argument(
        "--faults-from-stdin",
        action="store_true",
        help='then obey lines such as {"drop": 0.2, "double": 0.1}, {"swallow": true}, {"refuse": "451 4.3.0 not now"},'
        ' {"delay_s": 1.5}, {"mailbox_full": true}, {"size_max_bytes": 50000}, {"only_to": "a@b.test"}',
    )
    parser.add_argument("--seed", type=int, default=1, help="of the chance by which faults meet a mail")
    given = parser.parse_args(arguments)
    users: dict[str, str] = {}
    standard_input = io.FileIO(0, closefd=False)  # without a buffer: nothing of the orders is read with the passwords
    if given.users_from_stdin:
        users.update(json.loads(standard_input.readline(USERS_MAX_BYTES)))
    mode = os.fstat(0).st_mode
    if given.faults_from_stdin and not stat.S_ISFIFO(mode) and not stat.S_ISSOCK(mode):
        parser.error("--faults-from-stdin needs a pipe on standard input")
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
        seed=given.seed,
    )
    run_relay(options, _say_accepted, _say_up, standard_input if given.faults_from_stdin else None, _say)


def _say_up(smtp_port: int, imap_port: int) -> None:
    _say({"up": {"smtp_port": smtp_port, "imap_port": imap_port}})


def _say_accepted(accepted_bytes: int, sender: str, recipient: str, copies: int) -> None:
    _say({"accepted_bytes": accepted_bytes, "from": sender, "to": recipient, "copies": copies})


def _say(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    main()
