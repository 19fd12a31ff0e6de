"""The Storage SCP: answers C-ECHO and C-STORE, for callers we know, within bounds.

Built on pynetdicom for PDUs, negotiation and state machine, with three of its classes replaced by our own
(`bounded_socket.py`, `storing.py`, and `_Admission` here). Nothing in the library is patched.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, _config, build_context
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import NonPatientObjectStorageServiceClass, ServiceClass, StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from raypost.dicom.bounded_socket import BoundedSocket, PduBounds
from raypost.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from raypost.dicom.storing import Caller, Received, StoringProvider
from raypost.dicom.transfer_syntaxes import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from raypost.errors import UnreachableError
from raypost.model.identifiers import AE_TITLE_LENGTH_MAX, is_dicom_uid

__all__ = ["AssociationEnd", "Received", "Refusal", "StorageSCP", "StorageSCPOptions"]

NEGOTIATION_TIMEOUT_S = 30.0
READY_WAIT_S = 0.005
POLL_INTERVAL_S = 0.05
STOP_TIMEOUT_S = 60.0
SPARE_CONNECTIONS = 16
"""Connections beyond the limit of associations that get a proper rejection; more are closed unheard."""

# Uncompressed first: a sender that can do both is spared its decoder, and we compress once, provably, at intake.
# Deflated is never accepted: it is the only form whose size on the wire does not bound its size in memory.
TRANSFER_SYNTAXES = [
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    *(
        one
        for one in ALL_TRANSFER_SYNTAXES
        if one not in (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
    ),
]
VERIFICATION = "1.2.840.10008.1.1"
_STANDARD_ROOT = "1.2.840.10008."
_STORAGE_ROOT = "1.2.840.10008.5.1.4.1.1."

# Result, source and reason of an A-ASSOCIATE-RJ (PS3.8, 9.3.4)
_UNKNOWN_CALLING = (1, 1, 3)
_UNKNOWN_CALLED = (1, 1, 7)
_LOCAL_LIMIT = (2, 3, 2)


@dataclass(frozen=True, slots=True)
class StorageSCPOptions:
    """What the listener needs to know.

    Attributes:
        called_ae_titles: Our AE titles; asked anew for each association.
        calling_ae_titles: AE titles that may call, each with the hosts it may call from (none: any host). An empty
            mapping lets nobody in, None lets everybody in.
        pdu_size_max_bytes: Announced and enforced.
        idle_timeout_s: Silence on an association after which it is closed; also the time for one PDU.
        spool: Folder for instances that are being received; must exist.
        tls: Context to serve DICOM over TLS with; None for plain TCP.
    """

    spool: Path
    called_ae_titles: Callable[[], frozenset[str]]
    calling_ae_titles: Mapping[str, frozenset[str]] | None
    host: str = "127.0.0.1"
    port: int = 0
    pdu_size_max_bytes: int = 256 << 10
    instance_size_max_bytes: int = 2 << 30
    associations_max: int = 64
    associations_per_host_max: int = 16
    idle_timeout_s: float = 120.0
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class AssociationEnd:
    """An accepted association is over: nothing more comes from it.

    Attributes:
        stored_count: Instances that were answered with success.
        was_released: The sender ended it in order; otherwise it was aborted or lost.
    """

    association_id: str
    calling_ae_title: str
    called_ae_title: str
    peer_host: str
    stored_count: int
    was_released: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """A connection, association or instance was refused. The AE titles are the caller's claim, '' if not yet said."""

    reason: str
    peer_host: str
    calling_ae_title: str = ""
    called_ae_title: str = ""


class StorageSCP:
    """Listens for associations; every instance goes to `receive`, whose return value is the DIMSE status.

    The three callables are called from the threads of the associations, several at once.

    Args:
        options: See there.
        receive: Files one instance; 0000H only when it is durable here. An exception is answered 0110H.
        association_ended: Called once for every accepted association.
        refused: Called for everything that was turned away.
    """

    def __init__(
        self,
        options: StorageSCPOptions,
        receive: Callable[[Received], int],
        association_ended: Callable[[AssociationEnd], None],
        refused: Callable[[Refusal], None],
    ) -> None:
        self.options = options
        self.receive = receive
        self.association_ended = association_ended
        self.refused = refused
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> int:
        """Begin to listen and return the port.

        Raises:
            UnreachableError: The address cannot be bound.
        """
        silence_pynetdicom()
        entity = AE(ae_title="RAYPOST")
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.acse_timeout = NEGOTIATION_TIMEOUT_S
        entity.network_timeout = None  # the socket keeps the idle time; pynetdicom's would run while we file
        try:
            server = entity.make_server(
                (self.options.host, self.options.port),
                contexts=[build_context(VERIFICATION)],
                server_class=_Server,
                request_handler=_Handler,
                scp=self,
            )
        except OSError as error:
            raise UnreachableError(f"cannot listen on port {self.options.port}: {error.strerror}") from error
        assert isinstance(server, _Server)
        entity._servers.append(server)  # where the library's shutdown() takes it out
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(POLL_INTERVAL_S,), daemon=True)
        self._thread.start()
        return int(server.server_address[1])

    def stop(self) -> None:
        """Listen no more, let instances that are being filed be answered, abort all associations."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        if self._thread:
            self._thread.join(STOP_TIMEOUT_S)
        server.abort_all()


class _Server(ThreadedAssociationServer):
    """The listener: counts connections per host and takes none from hosts that nobody may call from."""

    request_queue_size = 64
    daemon_threads = True
    block_on_close = False

    def __init__(self, *args: Any, scp: StorageSCP, **kwargs: Any) -> None:
        self.scp = scp
        self._lock = threading.Lock()
        self._connections: Counter[str] = Counter()
        self._associations: set[_Association] = set()
        super().__init__(*args, **kwargs)

    def service_actions(self) -> None:
        """Do nothing: the library's own collects garbage in the whole process from here, which stalls all threads."""

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Decide on a connection before a byte of it is read."""
        host = str(client_address[0])
        options = self.scp.options
        if not self._may_call_from(host):
            self.scp.refused(Refusal("host not known", host))
            return False
        with self._lock:
            is_crowded = (
                self._connections.total() >= options.associations_max + SPARE_CONNECTIONS
                or self._connections[host] >= options.associations_per_host_max + SPARE_CONNECTIONS
            )
            if not is_crowded:
                self._connections[host] += 1
        if is_crowded:
            self.scp.refused(Refusal("too many connections", host))
        return not is_crowded

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; the TLS handshake comes later, in the connection's own thread."""
        if self.socket is None:
            raise OSError("closed")
        return self.socket.accept()

    def established(self, host: str, association: _Association) -> bool:
        """Count an association in; False if there are too many."""
        options = self.scp.options
        with self._lock:
            here = sum(one.host == host for one in self._associations)
            if len(self._associations) >= options.associations_max or here >= options.associations_per_host_max:
                return False
            self._associations.add(association)
            return True

    def forget(self, host: str, association: _Association | None) -> None:
        """Count a connection out."""
        with self._lock:
            self._connections[host] -= 1
            if self._connections[host] <= 0:
                del self._connections[host]
            if association:
                self._associations.discard(association)

    def abort_all(self) -> None:
        """Abort every association and wait until each is over."""
        with self._lock:
            associations = list(self._associations)
        threads = [threading.Thread(target=one.abort, daemon=True) for one in associations]
        for thread in threads:
            thread.start()
        for thread in [*threads, *associations]:
            thread.join(STOP_TIMEOUT_S)

    def _may_call_from(self, host: str) -> bool:
        allowed = self.scp.options.calling_ae_titles
        return allowed is None or any(not hosts or host in hosts for hosts in allowed.values())


class _Handler(RequestHandler):
    """Makes the association of a connection out of our classes, in the connection's own thread."""

    def handle(self) -> None:
        """Do the TLS handshake and begin the association."""
        listener = self.server
        assert isinstance(listener, _Server)
        try:
            self.request.settimeout(NEGOTIATION_TIMEOUT_S)
            if listener.scp.options.tls:
                self.request = listener.scp.options.tls.wrap_socket(self.request, server_side=True)
            _Association(listener, self.request, self.remote, self.local).start()
        except (OSError, ValueError):
            host = str(self.client_address[0])
            listener.shutdown_request(self.request)
            listener.forget(host, None)
            listener.scp.refused(Refusal("TLS handshake failed", host))


class _Association(Association):
    """One connection from its first byte to its end."""

    def __init__(self, server: _Server, connection: socket.socket, remote: Any, local: Any) -> None:
        super().__init__(server.ae, MODE_ACCEPTOR)
        options = server.scp.options
        self.listener = server
        self._server = server
        self.host = str(remote.address)
        self.name = "AcceptorThread@raypost"
        self.dul.daemon = True
        self.acse = _Admission(self)
        bounds = PduBounds(options.pdu_size_max_bytes, options.idle_timeout_s, options.idle_timeout_s, READY_WAIT_S)
        connected = BoundedSocket(self, bounds, client_socket=connection, refused=self.report_refusal)
        self.set_socket(connected)
        self.provider = StoringProvider(
            self,
            options.spool,
            options.instance_size_max_bytes,
            server.scp.receive,
            self.report_refusal,
            connected.touch,
        )
        self.dimse = self.provider
        self.acceptor.maximum_length = options.pdu_size_max_bytes
        self.acceptor.ae_title = server.ae_title
        self.acceptor.address_info = local
        self.acceptor.implementation_class_uid = server.ae.implementation_class_uid
        self.acceptor.implementation_version_name = server.ae.implementation_version_name
        self.requestor.address_info = remote

    def run_reactor(self) -> None:
        """Live; report the end exactly once, whatever happened."""
        try:
            super().run_reactor()
        finally:
            self.kill()
            self.provider.close()
            self.listener.forget(self.host, self)
            caller = self.provider.caller
            if caller.calling_ae_title:
                self.listener.scp.association_ended(
                    AssociationEnd(
                        caller.association_id,
                        caller.calling_ae_title,
                        caller.called_ae_title,
                        caller.peer_host,
                        self.provider.stored_count,
                        bool(self.is_released),
                    )
                )

    def report_refusal(self, reason: str) -> None:
        """Tell the owner what was refused on this association."""
        caller = self.provider.caller
        self.listener.scp.refused(Refusal(reason, self.host, caller.calling_ae_title, caller.called_ae_title))


class _Admission(ACSE):
    """Decides whether an association is accepted, and which presentation contexts."""

    def __init__(self, association: _Association) -> None:
        super().__init__(association)
        self._association = association

    def _negotiate_as_acceptor(self) -> None:
        request = self.requestor.primitive
        if not isinstance(request, A_ASSOCIATE):
            self._association.kill()
            return
        calling, called = str(request.calling_ae_title).strip(), str(request.called_ae_title).strip()
        host, listener, provider = self._association.host, self._association.listener, self._association.provider
        rejection, reason = _rejection(listener.scp.options, calling, called, host)
        if not rejection and not listener.established(host, self._association):
            rejection, reason = _LOCAL_LIMIT, "too many associations"
        if rejection:
            listener.scp.refused(Refusal(reason, host, _printable(calling), _printable(called)))
            self.send_reject(*rejection)
            self._association.kill()
            return
        provider.caller = Caller(calling, called, host, provider.caller.association_id)
        proposed = {str(one.abstract_syntax) for one in request.presentation_context_definition_list}
        self.acceptor.supported_contexts = supported_contexts(sorted(proposed))
        super()._negotiate_as_acceptor()


def supported_contexts(proposed: list[str]) -> list[PresentationContext]:
    """Return what we support of the abstract syntaxes a caller proposed: Verification and whatever can be stored.

    Private SOP classes are stored as well: a modality that finds its own class refused drops the image.
    """
    found = []
    for abstract_syntax in proposed:
        if abstract_syntax == VERIFICATION:
            found.append(build_context(VERIFICATION, TRANSFER_SYNTAXES[:2]))
        elif is_dicom_uid(abstract_syntax) and _is_storage(abstract_syntax):
            found.append(build_context(abstract_syntax, TRANSFER_SYNTAXES))
    return found


def silence_pynetdicom() -> None:
    """Keep the library from logging: what it logs are UIDs and data sets."""
    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)


def _is_storage(abstract_syntax: str) -> bool:
    service = uid_to_service_class(abstract_syntax)
    if service is ServiceClass:  # not known to the library: private, or newer than it
        return abstract_syntax.startswith(_STORAGE_ROOT) or not abstract_syntax.startswith(_STANDARD_ROOT)
    return issubclass(service, StorageServiceClass | NonPatientObjectStorageServiceClass)


def _rejection(
    options: StorageSCPOptions,
    calling: str,
    called: str,
    host: str,
) -> tuple[tuple[int, int, int] | None, str]:
    if not _is_printable(calling) or not _may_call(options.calling_ae_titles, calling, host):
        return _UNKNOWN_CALLING, "calling AE title not known"
    if called not in options.called_ae_titles():
        return _UNKNOWN_CALLED, "called AE title not known"
    return None, ""


def _may_call(allowed: Mapping[str, frozenset[str]] | None, calling: str, host: str) -> bool:
    if allowed is None:
        return True
    hosts = allowed.get(calling)
    return hosts is not None and (not hosts or host in hosts)


def _is_printable(ae_title: str) -> bool:
    return 0 < len(ae_title) <= AE_TITLE_LENGTH_MAX and all(" " <= one <= "~" and one != "\\" for one in ae_title)


def _printable(ae_title: str) -> str:
    return ae_title if _is_printable(ae_title) else ""
