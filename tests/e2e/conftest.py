"""Two hospitals and a relay in processes of their own, started once: on the embedded relay, and on Postfix + Dovecot."""

import importlib.util
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from types import ModuleType

import pytest

sys.path.append(str(pathlib.Path(__file__).parent))  # e2e_sites

from e2e_sites import QUICK, Pair

from raypost.node.demo_network import CENTRE, DOMAIN, REFERRER, DemoNetwork, RelayAddress

RELAY_SIZE_MAX_BYTES = 30_000_000


@pytest.fixture(scope="session", autouse=True)
def _no_delay() -> None:
    os.environ["TCP_NODELAY"] = "1"  # DCMTK waits 40 ms for each answer unless it is told not to


@pytest.fixture(scope="session")
def open_folder() -> Iterator[pathlib.Path]:
    """A folder that the database's own user can reach; pytest's are closed to it."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="raypost-e2e-", dir="/tmp"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def pair(open_folder: pathlib.Path) -> Iterator[Pair]:
    """Two sites on the embedded relay."""
    folder = open_folder / "embedded"
    folder.mkdir()
    with DemoNetwork(folder, settle_after_release_s=0.5, transfer_lines=QUICK) as network:
        yield Pair.of(network)


@pytest.fixture(scope="session")
def mailserver() -> ModuleType:
    path = pathlib.Path(__file__).parents[1] / "peers" / "mailserver.py"
    spec = importlib.util.spec_from_file_location("raypost_peers_mailserver", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def real_relay(mailserver: ModuleType) -> Iterator[object]:
    """Postfix and Dovecot with a mailbox for each site."""
    folder = mailserver.open_folder()
    with mailserver.RealRelay(folder, DOMAIN, RELAY_SIZE_MAX_BYTES) as relay:
        relay.passwords = {f"{name}@{DOMAIN}": f"secret of {name}" for name in (REFERRER, CENTRE)}
        for address, password in relay.passwords.items():
            relay.add_user(address, password)
        yield relay
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def real_pair(open_folder: pathlib.Path, real_relay: object) -> Iterator[Pair]:
    """Two sites with Postfix and Dovecot between them."""
    folder = open_folder / "real"
    folder.mkdir()
    address = RelayAddress(
        "localhost", real_relay.smtp_port, real_relay.imap_port, real_relay.ca_file, real_relay.passwords
    )
    with DemoNetwork(folder, address, settle_after_release_s=0.5, transfer_lines=QUICK) as network:
        yield Pair.of(network)
