"""The two relays that the contract tests of mail run on: the embedded one, and Postfix with Dovecot."""

import asyncio
import importlib.util
import pathlib
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest

from raypost.mail.imap import ImapAccount
from raypost.mail.smtp import SmtpAccount
from raypost.relay.certificates import make_test_authority
from raypost.relay.server import EmbeddedRelay, RelayOptions

DOMAIN = "raypost.test"
USERS = {f"alpha@{DOMAIN}": "secret-a", f"beta@{DOMAIN}": "s\u00e9cret b"}
SMALL = f"small@{DOMAIN}"
SIZE_MAX_BYTES = 5_000_000


def load_mailserver() -> ModuleType:
    """Import tests/peers/mailserver.py by its path: the tests are no package."""
    path = pathlib.Path(__file__).parents[2] / "peers" / "mailserver.py"
    spec = importlib.util.spec_from_file_location("raypost_peers_mailserver", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class EmbeddedPeer:
    """The embedded relay in a thread of its own, with the same face as RealRelay."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.ca_file, self._certificate, self._secret_key = self.new_certificate(datetime.now(UTC))
        self.smtp_port = self.imap_port = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def new_certificate(self, now: datetime, valid_days: int = 30) -> Any:
        return make_test_authority(self.folder, ["localhost"], now, valid_days)

    def start(self) -> None:
        up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(up)), daemon=True)
        self._thread.start()
        assert up.wait(10)

    def stop(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(10)
            assert not self._thread.is_alive()
            self._loop = None

    async def _serve(self, up: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        options = RelayOptions(
            USERS,
            self._certificate,
            self._secret_key,
            size_max_bytes=SIZE_MAX_BYTES,
            smtp_port=self.smtp_port,
            imap_port=self.imap_port,
        )
        async with EmbeddedRelay(options) as relay:
            self.smtp_port, self.imap_port = relay.smtp_port, relay.imap_port
            up.set()
            await self._stop.wait()
        await asyncio.sleep(0.05)  # let connections see that they were closed


@dataclass
class Bench:
    """A running relay and the accounts on it."""

    relay: Any
    is_real: bool

    def smtp(self, name: str = "alpha", **changes: Any) -> SmtpAccount:
        address = f"{name}@{DOMAIN}"
        values: dict[str, Any] = dict(
            relay="test",
            host="localhost",
            port=self.relay.smtp_port,
            security="tls",
            username=address,
            password=USERS.get(address, "secret-s"),
            address=address,
            ca_file=self.relay.ca_file,
            timeout_s=20.0,
        )
        return SmtpAccount(**{**values, **changes})

    def imap(self, name: str = "beta", **changes: Any) -> ImapAccount:
        address = f"{name}@{DOMAIN}"
        values: dict[str, Any] = dict(
            relay="test",
            host="localhost",
            port=self.relay.imap_port,
            security="tls",
            username=address,
            password=USERS.get(address, "secret-s"),
            ca_file=self.relay.ca_file,
            timeout_s=20.0,
        )
        return ImapAccount(**{**values, **changes})


@pytest.fixture(scope="session")
def mailserver() -> ModuleType:
    """The module tests/peers/mailserver.py."""
    return load_mailserver()


@pytest.fixture(scope="module")
def embedded_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    peer = EmbeddedPeer(tmp_path_factory.mktemp("embedded"))
    peer.start()
    yield Bench(peer, is_real=False)
    peer.stop()


@pytest.fixture(scope="module")
def real_bench(mailserver: ModuleType) -> Iterator[Bench]:
    folder = mailserver.open_folder()
    with mailserver.RealRelay(folder, DOMAIN, SIZE_MAX_BYTES) as relay:
        for address, password in USERS.items():
            relay.add_user(address, password)
        relay.add_user(SMALL, "secret-s", quota="1M")
        yield Bench(relay, is_real=True)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["embedded", pytest.param("real", marks=pytest.mark.interop)])
def bench(request: pytest.FixtureRequest) -> Bench:
    return request.getfixturevalue(f"{request.param}_bench")
