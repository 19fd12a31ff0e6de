"""Our SCU against our SCP, and raw bytes against both: no foreign peers."""

import contextlib
import datetime
import pathlib
import socket
import ssl
import struct
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from dicom_samples import CT_IMAGE, EXPLICIT, IMPLICIT, JPEG_BASELINE, JPEG_LS, encapsulated, make

from raypost.dicom import command_set as cs
from raypost.dicom.pixels import to_native, try_compress
from raypost.dicom.scp import Received, StorageSCP, StorageSCPOptions, supported_contexts
from raypost.dicom.scu import DicomNode, StoreItem, echo, store
from raypost.errors import BadInputError, RefusedError, UnreachableError

ANYBODY = {"SENDER": frozenset()}
STORE = {cs.AFFECTED_SOP_INSTANCE: b"2.25.1"}


class Site:
    """A running SCP and everything it reported."""

    def __init__(self, spool: pathlib.Path, receive=None, **options):
        self.spool = spool
        self.received: list[tuple[Received, bytes]] = []
        self.ends, self.refusals = [], []
        self._receive = receive or (lambda received: 0)
        options = {"calling_ae_titles": ANYBODY, "called_ae_titles": lambda: frozenset({"RAYPOST"}), **options}
        self.scp = StorageSCP(
            StorageSCPOptions(spool=spool, **options), self._take, self.ends.append, self.refusals.append
        )
        self.port = self.scp.start()

    def _take(self, received: Received) -> int:
        self.received.append((received, received.path.read_bytes()))
        return self._receive(received)

    def node(self, **changes) -> DicomNode:
        values = {
            "name": "site",
            "ae_title": "RAYPOST",
            "host": "127.0.0.1",
            "port": self.port,
            "calling_ae_title": "SENDER",
            "answer_timeout_s": 20,
            **changes,
        }
        return DicomNode(**values)


@pytest.fixture
def site(tmp_path):
    sites = []
    spool = tmp_path / "spool"
    spool.mkdir()

    def start(receive=None, **options) -> Site:
        sites.append(Site(spool, receive, **options))
        return sites[-1]

    yield start
    for one in sites:
        one.scp.stop()
    assert list(spool.iterdir()) == []


def until(condition, timeout_s=10):
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "did not happen in time"
        time.sleep(0.01)


def put(folder, raw, syntax=EXPLICIT, name="file", sop_class=CT_IMAGE, instance="2.25.1") -> StoreItem:
    path = folder / name
    path.write_bytes(raw)
    return StoreItem(path, sop_class, instance, syntax)


def never(item, syntax):
    raise AssertionError("nothing to convert")


def test_echo(site):
    one = site()
    echo(one.node())
    until(lambda: one.ends)
    assert one.ends[0].was_released and one.ends[0].stored_count == 0


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, JPEG_LS, JPEG_BASELINE])
def test_instance_arrives_as_a_file_with_the_same_data_set(site, tmp_path, syntax):
    raw = {
        EXPLICIT: make(),
        IMPLICIT: make(syntax=IMPLICIT),
        JPEG_LS: try_compress(make()).data,
        JPEG_BASELINE: encapsulated([b"jpeg"], JPEG_BASELINE),
    }[syntax]
    one = site()
    results = list(store(one.node(), [put(tmp_path, raw, syntax)], never))
    assert [(one.dimse_status, one.transfer_syntax_uid, one.is_stored) for one in results] == [(0, syntax, True)]
    received, came = one.received[0]
    assert came[came.index(b"\x08\0\x05\0") :] == raw[raw.index(b"\x08\0\x05\0") :]
    assert (received.sop_class_uid, received.sop_instance_uid, received.problem) == (CT_IMAGE, "2.25.1", "")
    assert (received.calling_ae_title, received.called_ae_title) == ("SENDER", "RAYPOST")
    assert received.peer_host == "127.0.0.1"
    until(lambda: one.ends)
    assert one.ends[0].association_id == received.association_id and one.ends[0].stored_count == 1


def test_receiver_may_move_the_file_away(site, tmp_path):
    one = site(lambda received: received.path.rename(tmp_path / "kept") and 0)
    assert list(store(one.node(), [put(tmp_path, make())], never))[0].is_stored
    assert (tmp_path / "kept").stat().st_size > 6000


def test_status_of_the_receiver_reaches_the_sender(site, tmp_path):
    one = site(lambda received: 0xA700)
    result = list(store(one.node(), [put(tmp_path, make())], never))[0]
    assert result.dimse_status == 0xA700 and not result.is_stored
    until(lambda: one.ends)
    assert one.ends[0].stored_count == 0


def test_exception_of_the_receiver_is_a_failure_and_the_association_goes_on(site, tmp_path):
    def receive(received):
        if received.sop_instance_uid == "2.25.1":
            raise ValueError("Doe^John")
        return 0

    one = site(receive)
    items = [put(tmp_path, make()), put(tmp_path, make(instance="2.25.5"), name="b", instance="2.25.5")]
    assert [result.dimse_status for result in store(one.node(), items, never)] == [0x0110, 0]
    until(lambda: one.ends)
    assert len(one.ends) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ae_title": "OTHER"}, "called AE title not known"),
        ({"calling_ae_title": "STRANGER"}, "calling AE title not known"),
    ],
)
def test_unknown_ae_titles_are_rejected_for_good(site, changes, reason):
    one = site()
    with pytest.raises(RefusedError) as caught:
        echo(one.node(**changes))
    assert caught.value.peer_code == (7 if "ae_title" in changes else 3)
    assert one.refusals[0].reason == reason
    assert one.ends == []


def test_called_ae_titles_are_asked_anew(site):
    titles = {"RAYPOST"}
    one = site(called_ae_titles=lambda: frozenset(titles))
    titles.add("NEW")
    echo(one.node(ae_title="NEW"))
    titles.clear()
    with pytest.raises(RefusedError):
        echo(one.node(ae_title="NEW"))


def test_hosts_of_callers(site):
    echo(site(calling_ae_titles={"SENDER": frozenset({"127.0.0.1"})}).node())
    echo(site(calling_ae_titles=None).node(calling_ae_title="whoever"))
    with pytest.raises(RefusedError):
        echo(site(calling_ae_titles={"SENDER": frozenset({"192.0.2.1"}), "X": frozenset()}).node())
    for nobody in ({}, {"SENDER": frozenset({"192.0.2.1"})}):
        one = site(calling_ae_titles=nobody)
        with pytest.raises(UnreachableError):
            echo(one.node())  # not a byte of it is read
        assert one.refusals[0].reason == "host not known"


def test_too_many_associations_are_rejected_for_now(site, tmp_path):
    inside, go_on = threading.Event(), threading.Event()

    def receive(received):
        inside.set()
        go_on.wait(10)
        return 0

    one = site(receive, associations_per_host_max=1)
    thread = threading.Thread(target=lambda: list(store(one.node(), [put(tmp_path, make())], never)))
    thread.start()
    try:
        assert inside.wait(10)
        with pytest.raises(UnreachableError, match="for now"):
            echo(one.node())
    finally:
        go_on.set()
        thread.join()
    until(lambda: one.ends)
    echo(one.node())


def test_several_associations_at_once(site, tmp_path):
    together = threading.Barrier(4, timeout=10)
    one = site(lambda received: together.wait() * 0)
    threads = [
        threading.Thread(target=lambda k=k: list(store(one.node(), [put(tmp_path, make(), name=str(k))], never)))
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(one.ends) == 4)
    assert len({received.association_id for received, _ in one.received}) == 4


def test_instance_larger_than_allowed_is_refused_while_it_comes_and_the_next_one_is_stored(site, tmp_path):
    one = site(instance_size_max_bytes=5000)
    large, small = put(tmp_path, make(), name="large"), put(tmp_path, try_compress(make()).data, JPEG_LS)
    assert [r.dimse_status for r in store(one.node(), [large, small], never)] == [0xA700, 0]
    assert [one.refusals[0].reason, len(one.received)] == ["instance larger than allowed", 1]


def test_full_disk_is_a_failure_and_not_an_abort(site, tmp_path):
    one = site()
    moved = one.spool.rename(tmp_path / "away")
    assert list(store(one.node(), [put(tmp_path, make())], never))[0].dimse_status == 0xA700
    moved.rename(one.spool)
    assert list(store(one.node(), [put(tmp_path, make())], never))[0].is_stored


def test_stop_lets_the_running_instance_be_filed_and_ends_all_threads(tmp_path):
    inside, go_on = threading.Event(), threading.Event()

    def receive(received):
        inside.set()
        go_on.wait(10)
        return 0

    spool = tmp_path / "spool"
    spool.mkdir()
    before = set(threading.enumerate())
    one = Site(spool, receive)
    results, errors = [], []

    def send():
        try:
            results.extend(store(one.node(), [put(tmp_path, make())], never))
        except UnreachableError as error:
            errors.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    assert inside.wait(10)
    stopper = threading.Thread(target=one.scp.stop)
    stopper.start()
    go_on.set()
    for thread in (stopper, sender):
        thread.join(10)
        assert not thread.is_alive()
    assert len(one.ends) == 1 and one.ends[0].stored_count == 1
    until(lambda: set(threading.enumerate()) <= before)
    assert list(spool.iterdir()) == []
    with pytest.raises(UnreachableError):
        echo(one.node())
    one.scp.stop()


def test_port_in_use_is_said(site):
    with pytest.raises(UnreachableError, match="cannot listen"):
        site(port=site().port)


def test_silent_connection_is_closed_and_its_place_freed(site):
    one = site(idle_timeout_s=0.3)
    with socket.create_connection(("127.0.0.1", one.port)) as silent:
        silent.settimeout(10)
        assert silent.recv(1) == b""
    with socket.create_connection(("127.0.0.1", one.port)) as slow:
        slow.settimeout(10)
        slow.sendall(b"\1\0\0")  # never more: not even a header
        assert slow.recv(1) == b""
    until(lambda: one.scp._server._connections.total() == 0)


def test_connection_that_ends_at_once_frees_its_place(site):
    one = site()
    for _ in range(50):
        socket.create_connection(("127.0.0.1", one.port)).close()
    until(lambda: one.scp._server._connections.total() == 0)
    echo(one.node())


def test_filing_longer_than_the_idle_time_does_not_cost_the_association(site, tmp_path):
    one = site(lambda received: time.sleep(0.6) or 0, idle_timeout_s=0.3)
    items = [put(tmp_path, make(), name=str(k)) for k in range(3)]
    assert all(result.is_stored for result in store(one.node(), items, never))


def test_sender_that_disappears_in_the_middle_leaves_nothing(site, tmp_path):
    one = site()
    with Conversation(one) as peer:
        peer.send_command(cs.request(cs.C_STORE_RQ, 1, CT_IMAGE.encode(), STORE, has_data=True))
        peer.send_data(bytes(100), 0)
        until(lambda: list(one.spool.iterdir()))
    until(lambda: one.ends)
    assert not one.ends[0].was_released and list(one.spool.iterdir()) == []


class Conversation:
    """An association spoken byte by byte."""

    def __init__(self, one: Site):
        self.peer = socket.create_connection(("127.0.0.1", one.port), timeout=10)
        item = lambda kind, body: struct.pack(">BBH", kind, 0, len(body)) + body  # noqa: E731
        context = struct.pack(">BBBB", 1, 0, 0, 0) + item(0x30, CT_IMAGE.encode()) + item(0x40, EXPLICIT.encode())
        user = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"2.25.1")
        items = item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, context) + item(0x50, user)
        self.pdu(1, struct.pack(">HH", 1, 0) + b"RAYPOST".ljust(16) + b"SENDER".ljust(16) + bytes(32) + items)
        assert self.read()[0] == 2

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.peer.close()

    def pdu(self, kind: int, body: bytes):
        self.peer.sendall(struct.pack(">BBI", kind, 0, len(body)) + body)

    def send_data(self, value: bytes, flags: int, context_id: int = 1):
        self.pdu(4, struct.pack(">IBB", len(value) + 2, context_id, flags) + value)

    def send_command(self, command: bytes, context_id: int = 1):
        self.send_data(command, 3, context_id)

    def read(self) -> tuple[int, bytes]:
        head = self.exactly(6)
        if not head:
            return 0, b""
        return head[0], self.exactly(struct.unpack(">I", head[2:])[0])

    def exactly(self, count: int) -> bytes:
        found = b""
        with contextlib.suppress(ConnectionError):
            while len(found) < count and (more := self.peer.recv(count - len(found))):
                found += more
        return found

    def answer(self) -> dict[int, bytes]:
        kind, body = self.read()
        assert kind == 4
        return cs.parse_command(body[6:])


def test_command_and_data_in_one_pdu_and_in_crumbs(site):
    one = site()
    command = cs.request(cs.C_STORE_RQ, 7, CT_IMAGE.encode(), STORE, has_data=True)
    with Conversation(one) as peer:
        pieces = [(command, 3), (b"1234", 0), (b"5678", 2)]
        peer.pdu(4, b"".join(struct.pack(">IBB", len(raw) + 2, 1, flags) + raw for raw, flags in pieces))
        assert cs.command_number(peer.answer(), cs.MESSAGE_ID_RESPONDED_TO) == 7
        for at in range(len(command)):
            peer.send_data(command[at : at + 1], 3 if at == len(command) - 1 else 1)
        for at in range(8):
            peer.send_data(b"12345678"[at : at + 1], 2 if at == 7 else 0)
        assert cs.command_number(peer.answer(), cs.STATUS) == 0
    assert [came[-8:] for _, came in one.received] == [b"12345678"] * 2


@pytest.mark.parametrize("hostile", [b"", b"1" * 65, b"1.2.\\3", b"../../x", b"1.2.3\n", b"1.2.3\0004"])
def test_hostile_uids_get_an_answer_and_do_not_cost_the_association(site, hostile):
    one = site()
    with Conversation(one) as peer:
        for instance, expected in ((hostile, 0xC000), (b"2.25.1", 0)):
            peer.send_command(
                cs.request(cs.C_STORE_RQ, 1, CT_IMAGE.encode(), {cs.AFFECTED_SOP_INSTANCE: instance}, has_data=True)
            )
            peer.send_data(b"12", 2)
            assert cs.command_number(peer.answer(), cs.STATUS) == expected
    assert [bool(received.problem) for received, _ in one.received] == [True, False]
    assert one.received[0][0].path.parent == one.spool


@pytest.mark.parametrize(
    "misbehave",
    [
        lambda peer: peer.pdu(4, struct.pack(">IBB", 1000, 1, 3)),
        lambda peer: peer.pdu(4, struct.pack(">IB", 1, 1)),
        lambda peer: peer.send_data(b"x", 0),
        lambda peer: peer.send_command(b"\0\0"),
        lambda peer: peer.send_command(struct.pack("<HHI", 0, 0x100, 0xFFFFFFFF)),
        lambda peer: peer.send_command(cs.request(cs.C_STORE_RQ, 1, b"1.2", STORE, has_data=True), 99),
        lambda peer: peer.send_command(cs.request(0x0020, 1, b"1.2", {}, has_data=True)),
        lambda peer: [peer.send_data(bytes(16000), 1) for _ in range(5)],
        lambda peer: [peer.send_command(cs.request(cs.C_STORE_RQ, 1, b"1.2", STORE, has_data=True)) for _ in range(2)],
        lambda peer: peer.pdu(1, bytes(100)),
        lambda peer: peer.pdu(9, b""),
        lambda peer: peer.pdu(5, bytes(100)),
        lambda peer: peer.pdu(4, bytes(300_000)),
    ],
    ids=range(13),
)
def test_whoever_breaks_the_protocol_is_aborted_and_others_are_served(site, misbehave):
    one = site()
    with Conversation(one) as peer:
        with contextlib.suppress(ConnectionError):
            misbehave(peer)
        assert peer.read()[0] in (0, 7)
    until(lambda: one.ends)
    assert not one.ends[0].was_released
    echo(one.node())


def test_cancel_is_ignored_and_store_without_data_set_answered(site):
    with Conversation(site()) as peer:
        peer.send_command(cs.request(cs.C_CANCEL_RQ, 1, b"1.2", {}, has_data=False))
        peer.send_command(cs.request(cs.C_STORE_RQ, 2, CT_IMAGE.encode(), STORE, has_data=False))
        assert cs.command_number(peer.answer(), cs.STATUS) == 0xC000


def test_what_we_store():
    storage = [
        "1.2.840.10008.5.1.4.1.1.2",
        "1.2.840.10008.5.1.4.1.1.999",
        "1.3.12.2.1107.5.9.1",
        "1.2.840.10008.5.1.4.38.1",
    ]
    other = ["1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.31", "1.2.840.10008.1.20.1", "nonsense"]
    found = supported_contexts([*storage, *other, "1.2.840.10008.1.1"])
    assert [str(one.abstract_syntax) for one in found] == [*storage, "1.2.840.10008.1.1"]
    assert "1.2.840.10008.1.2.1.99" not in found[0].transfer_syntax
    assert len(found[0].transfer_syntax) > 30


def converter(folder: pathlib.Path):
    made = []

    def convert(item, syntax):
        made.append(folder / f"converted{len(made)}")
        made[-1].write_bytes(to_native(item.path.read_bytes(), implicit=syntax == IMPLICIT))
        return made[-1]

    return convert, made


@pytest.mark.parametrize(("accepted", "converted"), [([EXPLICIT, IMPLICIT], EXPLICIT), ([IMPLICIT], IMPLICIT)])
def test_peer_that_takes_no_jpeg_ls_gets_what_it_takes(site, tmp_path, monkeypatch, accepted, converted):
    monkeypatch.setattr("raypost.dicom.scp.TRANSFER_SYNTAXES", accepted)
    one = site()
    convert, made = converter(tmp_path)
    result = list(store(one.node(), [put(tmp_path, try_compress(make()).data, JPEG_LS)], convert))[0]
    assert result.is_stored and result.transfer_syntax_uid == converted
    assert len(made) == 1 and not made[0].exists()
    assert one.received[0][1].endswith(make(syntax=converted)[-6000:])


def test_refused_context_is_named_and_the_others_are_sent(site, tmp_path, monkeypatch):
    monkeypatch.setattr("raypost.dicom.scp.TRANSFER_SYNTAXES", [EXPLICIT])
    one = site()
    items = [put(tmp_path, encapsulated([b"jpeg"], JPEG_BASELINE), JPEG_BASELINE, "a"), put(tmp_path, make(), name="b")]
    first, second = store(one.node(), items, never)
    assert first.dimse_status is None and "JPEG Baseline" in first.problem and second.is_stored


def test_conversion_that_fails_costs_only_its_item(site, tmp_path, monkeypatch):
    monkeypatch.setattr("raypost.dicom.scp.TRANSFER_SYNTAXES", [EXPLICIT])

    def convert(item, syntax):
        raise BadInputError("damaged")

    one = site()
    items = [put(tmp_path, try_compress(make()).data, JPEG_LS, "a"), put(tmp_path, make(), name="b")]
    assert [(r.problem, r.is_stored) for r in store(one.node(), items, convert)] == [("damaged", False), ("", True)]


def test_more_classes_than_fit_into_one_association(site, tmp_path):
    one = site()
    items = [put(tmp_path, make(), name=str(k), sop_class=f"1.3.12.{k}") for k in range(70)]
    assert all(result.is_stored for result in store(one.node(), items, never))
    until(lambda: len(one.ends) == 2)


def test_file_that_is_not_what_it_is_said_to_be(site, tmp_path):
    result = list(store(site().node(), [put(tmp_path, make(), JPEG_LS)], never))[0]
    assert result.dimse_status is None and "transfer syntax" in result.problem


@contextlib.contextmanager
def scripted(*answers: bytes):
    """A peer that says these bytes, whatever it hears, and then hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with contextlib.suppress(OSError):
                peer, _ = server.accept()
                with peer:
                    peer.recv(65536)
                    for answer in answers:
                        peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield DicomNode("peer", "PEER", "127.0.0.1", server.getsockname()[1], "RAYPOST", answer_timeout_s=3)
    thread.join()


REJECTED_FOR_NOW = struct.pack(">BBIBBBB", 3, 0, 4, 0, 2, 3, 2)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"", "closed"),
        (b"\2\0", "closed"),
        (struct.pack(">BBI", 2, 0, 0xFFFFFFF0), "longer than we announced"),
        (struct.pack(">BBI", 2, 0, 74) + bytes(68) + b"\x99\0\0\4\1\0", "damaged"),
        (struct.pack(">BBI", 7, 0, 4) + bytes(4), "ended"),
        (REJECTED_FOR_NOW, "for now"),
        (struct.pack(">BBI", 3, 0, 1) + b"\0", "damaged"),
    ],
)
def test_what_a_peer_may_answer_to_us(answer, text):
    with scripted(answer) as node, pytest.raises(UnreachableError, match=text):
        echo(node)


def test_nobody_there_and_nobody_answering():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(UnreachableError, match="does not answer"):
        echo(DicomNode("peer", "PEER", "127.0.0.1", port, "RAYPOST"))
    with pytest.raises(UnreachableError, match="does not answer"):
        echo(DicomNode("peer", "PEER", "no.such.host.invalid", port, "RAYPOST"))
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(UnreachableError, match="does not answer"):
        echo(DicomNode("peer", "PEER", "127.0.0.1", mute.getsockname()[1], "RAYPOST", answer_timeout_s=0.2))


def test_tls(site, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    client = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    one = site(tls=server)
    node = one.node(host="localhost", tls=client)
    items = [put(tmp_path, make(), name=f"i{k}") for k in range(3)]
    assert all(result.is_stored for result in store(node, items, never))
    with socket.create_connection(("127.0.0.1", one.port)) as silent:  # holds up nobody
        echo(node)
        silent.sendall(b"no TLS at all")
        until(lambda: one.refusals)
    assert one.refusals[0].reason == "TLS handshake failed"
    with pytest.raises(UnreachableError):
        echo(one.node(host="localhost", tls=ssl.create_default_context()))
    with pytest.raises(UnreachableError):
        echo(one.node())
    echo(node)
