"""The job that keeps the audit trail: events become messages in the chain, messages go to the syslog receiver."""

from __future__ import annotations

import socket
from dataclasses import dataclass

import structlog

from raypost.archive import audit_chain, audit_spool
from raypost.archive.site import Archive
from raypost.errors import SecurityError, UnreachableError, UsageError
from raypost.model.clock import Clock
from raypost.model.syslog_message import syslog_message
from raypost.node.site import Site
from raypost.node.syslog_client import SyslogReceiver

BATCH_MAX = 500
"""Messages by one connection."""
APPENDS_MAX = 200
"""Transactions of one job; the sweep asks for the rest."""
LOCK = "audit syslog"

log = structlog.get_logger("raypost.audit")


@dataclass(frozen=True, slots=True)
class AuditTrail:
    """Keeps the audit trail of a site."""

    archive: Archive
    clock: Clock
    receiver: SyslogReceiver | None

    def work(self) -> None:
        """Write what has no message yet, send what the receiver does not have.

        Raises:
            UnreachableError: The database is away.
        """
        self.catch_up()
        if self.receiver is not None:
            self._send(self.receiver)

    def catch_up(self) -> None:
        """Have an audit message for every event."""
        for _ in range(APPENDS_MAX):
            count = audit_chain.append(self.archive.database, self.clock.now(), is_sending=self.receiver is not None)
            if count < audit_chain.APPEND_MAX:
                return

    def _send(self, receiver: SyslogReceiver) -> None:
        host = socket.gethostname()
        with self.archive.database.exclusive(LOCK) as is_mine:
            while is_mine:
                with self.archive.database.transaction() as tx:
                    batch = audit_spool.unsent(tx, self.clock.now(), BATCH_MAX)
                if not batch:
                    return
                messages = [
                    syslog_message(one.message, sequence=one.sequence, at=one.at, host=host, is_failure=one.outcome > 0)
                    for one in batch
                ]
                try:
                    receiver.send(messages)
                except (UnreachableError, SecurityError, UsageError) as error:
                    log.warning("audit receiver away", code=error.code, what=error.what)
                    with self.archive.database.transaction() as tx:
                        audit_spool.note_failed(tx, error, self.clock.now())
                    return
                with self.archive.database.transaction() as tx:
                    audit_spool.note_sent(tx, batch[-1].sequence, self.clock.now())


def audit_trail_of(site: Site) -> AuditTrail:
    """Return the audit trail of a site, with the receiver that raypost.toml names."""
    it = site.settings.audit
    receiver = None
    if it.syslog_host:
        receiver = SyslogReceiver(it.syslog_host, it.syslog_port, it.syslog_transport, it.ca_file)
    return AuditTrail(site.archive, site.clock, receiver)
