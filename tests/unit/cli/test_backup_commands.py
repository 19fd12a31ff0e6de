"""`raypost backup`, `backup verify` and `restore` as a person types them: answers, shapes, refusals, half restores."""

import errno
import importlib.util
import itertools
import json
import os
import pathlib
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from raypost.archive import dump, quarantine
from raypost.archive.database import create_database
from raypost.archive.embedded import EmbeddedPostgres
from raypost.cli.app import app
from raypost.errors import BadInputError, NotNowError
from raypost.lab.sample_studies import tiny_ct, write_study
from raypost.node.demo_network import DemoNetwork
from raypost.node.site import opened_site
from raypost.sealing.certificates import CardAddress, SiteCard, write_card
from raypost.sealing.openpgp import KeyRing
from raypost.settings import load

STRIDE = int(os.environ.get("RAYPOST_BACKUP_STRIDE", "19"))
"""Every n-th step of a backup and of a restore is one before which it is killed; 1 for all of them."""


_numbers = itertools.count(1)
BEGIN = 6
"""The first steps are all tried: they make the folder what it is."""


def _shapes() -> ModuleType:
    path = pathlib.Path(__file__).with_name("test_json_shapes.py")
    spec = importlib.util.spec_from_file_location("raypost_json_shapes", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


check_shape = _shapes().check_shape


class Desk:
    """A site with a study, and what its administrator types."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.config = folder / "site" / "raypost.toml"
        self.backups = folder / "backups" / "neustadt"

    def say(self, *arguments: object, exit_code: int = 0) -> Any:
        done = CliRunner().invoke(app, list(map(str, arguments)))
        assert done.exit_code == exit_code, (arguments, done.exit_code, done.output, done.exception)
        return done

    def ask(self, *arguments: object, exit_code: int = 0) -> Any:
        return json.loads(self.say(*arguments, "--json", exit_code=exit_code).stdout)

    def elsewhere(self) -> pathlib.Path:
        """Write a raypost.toml with another database on the server that runs already: that saves making one."""
        name = f"restored_{next(_numbers)}"
        lines = f'[database]\nembedded_folder = "{self.folder}/site/data/postgresql"\nname = "{name}"\n#'
        file = self.folder / f"{name}.toml"
        file.write_text(self.config.read_text().replace("[database]", lines, 1))
        return file

    def restore(self, target: pathlib.Path, *arguments: object, exit_code: int = 0) -> Any:
        return self.ask("restore", self.backups, target, "--config", self.elsewhere(), *arguments, exit_code=exit_code)

    def back_up(self, *arguments: object, exit_code: int = 0) -> Any:
        return self.ask("backup", self.backups, "-c", self.config, *arguments, exit_code=exit_code)


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="raypost-bk-", dir="/tmp"))
    folder.chmod(0o711)
    one = Desk(folder)
    server = EmbeddedPostgres(folder / "site" / "data" / "postgresql").start()
    try:
        words = (
            "--name",
            "neustadt",
            "--address",
            "neustadt@stroke.example",
            "--relay",
            "localhost",
            "--calling",
            "CT1",
        )
        one.ask("init", folder / "site", *words)
        (folder / "site" / "relay-password").write_text("secret\n")
        _fill(one)
        (folder / "backups").mkdir()
        yield one
    finally:
        server.stop()
        DemoNetwork.remove_leftovers(folder / "site" / "data")
        for restored in folder.glob("restored*/"):
            DemoNetwork.remove_leftovers(restored / "data")
        shutil.rmtree(folder, ignore_errors=True)


def _fill(desk: Desk) -> None:
    """A partner, a study for it, something in quarantine."""
    keyring = KeyRing(desk.folder / "partner-keys")
    fingerprint = keyring.make_site_key("ludwigshafen", "ludwigshafen@stroke.example", 30, 30)
    address = CardAddress("ludwigshafen@stroke.example", "main")
    certificate = keyring.export_certificate(fingerprint)
    keyring.close()
    card = desk.folder / "ludwigshafen.card"
    card.write_text(
        write_card(SiteCard("ludwigshafen", "Zentrum", "LUDWIGSHAFEN", (address,), fingerprint, certificate))
    )
    desk.ask("partner", "add", card, "--fingerprint", fingerprint, "-c", desk.config)
    write_study(tiny_ct(datetime.now(UTC), seed=7), desk.folder / "ct")
    desk.ask("send", desk.folder / "ct", "--to", "ludwigshafen", "-c", desk.config)
    with opened_site(load(desk.config)) as site, site.archive.database.transaction() as tx:
        file = site.archive.spool.new_file("dcm")
        file.write_bytes(b"nothing")
        error = BadInputError("it is no DICOM")
        quarantine.put(tx, site.archive.spool, file, error, source="dicom", origin="CT1", now=site.clock.now())
        file.unlink()


@pytest.fixture
def backups(desk) -> pathlib.Path:
    """A folder with at least one backup."""
    if not desk.backups.exists():
        desk.back_up()
    return desk.backups


def test_a_backup_and_a_second_one(desk) -> None:
    first = desk.back_up()
    check_shape("backup", first)
    assert first["blobs"] > 0 and first["quarantine_files"] == 1 and first["damaged"] == 0
    assert first["linked"] + first["copied"] == first["blobs"] + 1
    second = desk.back_up()
    check_shape("backup", second)
    assert (second["blobs"], second["linked"] + second["copied"], second["snapshots"]) == (first["blobs"], 0, 2)
    assert [one["kind"] for one in desk.ask("events", "-c", desk.config)][:2] == ["backed up", "backed up"]
    for one in desk.backups.rglob("*"):
        if "content" not in one.parts and one.is_file():  # a link has the mode of the site's own file
            assert one.stat().st_mode & 0o077 == 0, one
    assert desk.backups.stat().st_mode & 0o077 == 0


def test_only_so_many_snapshots_stay(desk, backups) -> None:
    before = [one["snapshot"] for one in desk.ask("backup", "verify", backups)["snapshots"]]
    kept = desk.back_up("--keep", 1)
    assert kept["removed"] == before and kept["snapshots"] == 1
    check_shape("backup", kept)
    assert [one["snapshot"] for one in desk.ask("backup", "verify", backups)["snapshots"]] == [kept["snapshot"]]


def test_verifying_finds_what_is_damaged(desk, backups) -> None:
    good = desk.ask("backup", "verify", backups)
    assert good["good"] is True and good["deep"] is False
    check_shape("backup verify", good)
    image = next((backups / "content" / "blobs").glob("??/*"))
    content = image.read_bytes()
    image.unlink()  # it may be a link: the site's own file stays as it is
    try:
        image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert desk.ask("backup", "verify", backups)["good"] is True, "by its size"
        deep = desk.ask("backup", "verify", backups, "--deep", exit_code=1)
        assert deep["damaged"] == 1 and deep["damaged_examples"] == [f"blobs/{image.parent.name}/{image.name}"]
        check_shape("backup verify", deep)
        restored = desk.folder / "restored-damaged"
        found = desk.restore(restored, exit_code=1)
        check_shape("restore", found)
        assert found["damaged"] == 1, "all the rest is restored: a site that runs without one image is better than none"
        assert len(desk.ask("study", "list", "-c", restored / "raypost.toml")) == 1
    finally:
        image.write_bytes(content)
    newest = sorted((backups / "snapshots").iterdir())[-1]
    dumped = newest / "database.dump"
    whole = dumped.read_bytes()
    dumped.write_bytes(whole[:-1])
    try:
        bad = desk.ask("backup", "verify", backups, exit_code=1)
        assert bad["snapshots"][-1]["faults"] == [f"{newest.name}: database.dump is damaged"]
        check_shape("backup verify", bad)
        refused = desk.ask("restore", backups, desk.folder / "never", exit_code=1)
        assert refused["error"]["code"] == "RP-400" and not (desk.folder / "never").exists()
        (newest / "manifest.json").rename(newest / "kept")
        none = desk.ask("backup", "verify", backups, "--snapshot", newest.name, exit_code=2)
        assert "no complete snapshot" in none["error"]["what"]
    finally:
        dumped.write_bytes(whole)
        (newest / "kept").rename(newest / "manifest.json")


def test_a_damaged_manifest_is_told(desk, backups) -> None:
    newest = sorted((backups / "snapshots").iterdir())[-1]
    whole = (newest / "manifest.json").read_bytes()
    (newest / "manifest.json").write_bytes(whole.replace(b"neustadt", b"neuStadt"))
    try:
        bad = desk.ask("backup", "verify", backups, exit_code=1)
        check_shape("backup verify", bad)
        assert bad["snapshots"][-1]["faults"] == [f"snapshot {newest.name}: its manifest is damaged"]
    finally:
        (newest / "manifest.json").write_bytes(whole)


def test_what_is_damaged_on_the_site_is_told_and_kept_where_a_backup_has_it(desk, backups) -> None:
    desk.back_up()
    image = next((desk.folder / "site" / "data" / "blobs").glob("??/*"))
    content = image.read_bytes()
    image.unlink()
    try:
        found = desk.back_up(exit_code=1)
        check_shape("backup", found)
        assert found["damaged"] == 1 and found["damaged_examples"] == [f"blobs/{image.parent.name}/{image.name}"]
        said = desk.say("backup", backups, "-c", desk.config, exit_code=1).stdout
        assert "1 files are missing or damaged on this site's disk" in said
        assert desk.ask("events", "-c", desk.config)[0]["level"] == "notice"
        restored = desk.folder / "restored-mended"
        assert desk.restore(restored)["damaged"] == 0
        assert (restored / "data" / "blobs" / image.parent.name / image.name).read_bytes() == content
    finally:
        image.write_bytes(content)


def test_a_restored_site_is_the_same_somewhere_else(desk, backups) -> None:
    made = desk.back_up()
    target = desk.folder / "restored"
    found = desk.ask("restore", backups, target)
    check_shape("restore", found)
    (kept,) = desk.ask("quarantine", "list", "-c", target / "raypost.toml")
    shown = desk.ask("quarantine", "show", kept["quarantine_key"], "-c", target / "raypost.toml")
    assert pathlib.Path(shown["file"]).read_bytes() == b"nothing"
    assert found["snapshot"] == made["snapshot"] and found["database"] == "embedded" and found["changed_settings"] == []
    config = target / "raypost.toml"
    assert config.read_text() == desk.config.read_text()
    assert (target / "relay-password").read_text() == "secret\n"
    assert (target / "relay-password").stat().st_mode & 0o777 == 0o600
    for one in (target, target / "data", target / "data" / "keys", target / "data" / "blobs"):
        assert one.stat().st_mode & 0o777 == 0o700, one
    listed = [desk.ask("study", "list", "-c", one) for one in (desk.config, config)]
    assert listed[0] == listed[1] and listed[0]
    happened = [one for one in desk.ask("events", "-c", config) if one["kind"] != "studies listed"]
    assert happened[0]["kind"] == "restored" and happened[0]["level"] == "notice"
    desk.ask("study", "export", listed[0][0]["study_key"], desk.folder / "out", "-c", config)
    assert len(list((desk.folder / "out").iterdir())) == listed[0][0]["instances"]
    own = [desk.ask("partner", "list", "-c", one)[0] for one in (desk.config, config)]
    assert own[0]["fingerprint"] == own[1]["fingerprint"] and own[1]["expires_at"]
    again = desk.ask("restore", backups, target, exit_code=2)
    assert "there is a site" in again["error"]["what"]
    check_shape("error", again)


def test_a_restored_site_can_be_backed_up_into_the_same_folder(desk, backups) -> None:
    target = desk.folder / "restored-again"
    desk.restore(target)
    found = desk.ask("backup", backups, "-c", target / "raypost.toml")
    assert found["linked"] + found["copied"] == 0
    assert desk.ask("backup", "verify", backups, "--deep")["good"] is True


def test_a_restore_that_failed_goes_on_and_touches_only_its_own_database(desk, backups, monkeypatch) -> None:
    target, words = desk.folder / "restored-late", ("--config", desk.elsewhere())
    with monkeypatch.context() as patched:

        def _fail(*_: object) -> None:
            raise NotNowError("the disk is full")

        patched.setattr(dump, "load_dump", _fail)
        failed = desk.ask("restore", backups, target, *words, exit_code=3)
        assert failed["error"]["what"] == "the disk is full"
    assert not (target / "raypost.toml").exists() and list((target / "data" / "blobs").glob("??/*"))
    with monkeypatch.context() as patched:

        def _die(*_: object, **__: object) -> None:
            raise NotNowError("killed after the database was loaded")

        patched.setattr("raypost.archive.backup.note_restored", _die)
        desk.ask("restore", backups, target, *words, exit_code=3)
    found = desk.ask("restore", backups, target, *words)
    assert found["linked"] + found["copied"] == 0, "the images were there already"
    assert desk.ask("study", "list", "-c", target / "raypost.toml")
    assert not (target / "restore.unfinished").exists()


def test_a_database_with_something_in_it_is_never_touched(desk, backups) -> None:
    """Not even when the command is given again: the first try has found it full."""
    settings = tomllib.loads(desk.config.read_text())
    assert "name" not in settings["database"]
    other = desk.folder / "other.toml"
    theirs = desk.folder / "site" / "data" / "postgresql"
    text = desk.config.read_text().replace("[database]", f'[database]\nembedded_folder = "{theirs}"\n#', 1)
    other.write_text(text)
    for _ in range(3):
        refused = desk.ask("restore", backups, desk.folder / "never2", "--config", other, exit_code=2)
        assert refused["error"]["what"] == "the database is not empty"
    assert desk.ask("study", "list", "-c", desk.config), "the living site's database is as it was"


def test_into_a_database_named_by_a_url(desk, backups) -> None:
    server = EmbeddedPostgres(desk.folder / "site" / "data" / "postgresql")
    create_database(server.url(), "elsewhere")
    other = desk.folder / "url.toml"
    text = desk.config.read_text().replace("[database]", f'[database]\nurl = "{server.url("elsewhere")}"\n#', 1)
    other.write_text(text)
    target = desk.folder / "restored-url"
    found = desk.ask("restore", backups, target, "--config", other)
    check_shape("restore", found)
    assert found["database"] == "url"
    assert desk.ask("study", "list", "-c", target / "raypost.toml")
    refused = desk.ask("restore", backups, desk.folder / "never3", "--config", other, exit_code=2)
    assert refused["error"]["what"] == "the database is not empty"
    kept = desk.folder / "backups" / "by-url"
    assert desk.ask("backup", kept, "-c", target / "raypost.toml")["blobs"] == found["blobs"]


def test_what_lies_elsewhere_is_brought_along(desk, monkeypatch) -> None:
    site, far = desk.folder / "spread", desk.folder / "far"
    far.mkdir()
    shutil.copytree(desk.folder / "site", site, ignore=shutil.ignore_patterns("postgresql", "S.*"))
    (far / "ca.pem").write_text("a certificate")
    (far / "pw").write_text("far secret\n")
    (far / "pw").chmod(0o600)
    shutil.move(site / "data", far / "data")
    pg = desk.folder / "site" / "data" / "postgresql"
    text = desk.config.read_text().replace('data_folder = "data"', f'data_folder = "{far}/data"')
    text = text.replace('"relay-password"', f'"{far}/pw"').replace(
        '# ca_file = "relay-ca.pem"', f'ca_file = "{far}/ca.pem"'
    )
    text = text.replace("[database]", f'[database]\nembedded_folder = "{pg}"\n#', 1)
    (site / "raypost.toml").write_text(text)
    kept = desk.folder / "backups" / "spread"
    desk.ask("backup", kept, "-c", site / "raypost.toml")
    (far / "ca.pem").write_text("another certificate")
    target = desk.folder / "restored-spread"
    found = desk.ask("restore", kept, target)
    check_shape("restore", found)
    assert {one["setting"]: one["now"] for one in found["changed_settings"]} == {
        "data_folder": "data",
        "database.embedded_folder": "data/postgresql",
        "relay.main.password_file": "pw",
        "relay.main.ca_file": "ca.pem",
    }
    assert (target / "ca.pem").read_text() == "a certificate" and (target / "pw").read_text() == "far secret\n"
    assert desk.ask("study", "list", "-c", target / "raypost.toml")
    shown = desk.ask("config", "show", "-c", target / "raypost.toml")
    assert shown["data_folder"] == str(target / "data")


STEPS = ("fsync", "link", "replace", "rename", "mkdir", "unlink")
"""What changes a disk; a process may be killed before any of them."""


def killed_before_step(number: int, desk: Desk, *words: object) -> bool:
    """Run a command in a process of its own that dies, as by kill -9, before it changes the disk for the n-th time.

    False when it came to its end before.
    """
    child = os.fork()
    if not child:
        count = itertools.count(1)

        def _counted(original: Any) -> Any:
            def _step(*arguments: Any, **named: Any) -> Any:
                if next(count) == number:
                    os._exit(137)
                return original(*arguments, **named)

            return _step

        for name in STEPS:
            setattr(os, name, _counted(getattr(os, name)))
        done = CliRunner().invoke(app, [*map(str, words), "--json"])
        os._exit(done.exit_code)
    exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert exit_code in (0, 137), exit_code
    return exit_code == 137


def test_a_backup_that_is_killed_before_any_step_harms_no_other(desk) -> None:
    kept, whole = desk.folder / "backups" / "killed", 0
    for number in itertools.chain(range(1, BEGIN), itertools.count(BEGIN, STRIDE)):
        if number < BEGIN:  # the folder itself is made
            shutil.rmtree(kept, ignore_errors=True)
        if not killed_before_step(number, desk, "backup", kept, "-c", desk.config, "--keep", 2):
            break
        if (kept / "snapshots").exists() and list((kept / "snapshots").glob("*/manifest.json")):
            assert desk.ask("backup", "verify", kept, "--deep")["good"] is True, number
        made = desk.ask("backup", kept, "-c", desk.config, "--keep", 2)
        verified = desk.ask("backup", "verify", kept, "--deep")
        assert verified["good"] is True and verified["snapshots"][-1]["snapshot"] == made["snapshot"], number
        assert len(list((kept / "snapshots").iterdir())) == len(verified["snapshots"]) == made["snapshots"]
        whole += 1
    assert whole >= 3
    assert not list(kept.rglob("*.new"))


def test_a_restore_that_is_killed_before_any_step_goes_on(desk, backups) -> None:
    desk.back_up()  # of the site as it is: others here were restored before they were backed up
    tried = 0
    for number in itertools.chain(range(1, BEGIN), itertools.count(BEGIN, 2 * STRIDE)):
        words = ("restore", backups, target := desk.folder / f"restored-{number}", "--config", desk.elsewhere())
        if not killed_before_step(number, desk, *words):
            break
        is_site = (target / "raypost.toml").exists()
        found = desk.ask(*words, exit_code=2 if is_site else 0)
        assert is_site == ("error" in found)
        assert desk.ask("backup", "verify", backups)["good"] is True
        assert len(desk.ask("study", "list", "-c", target / "raypost.toml")) == 1
        assert [one["kind"] for one in desk.ask("events", "-c", target / "raypost.toml")].count("restored") == 1
        tried += 1
    assert tried >= 3


def test_a_full_disk_leaves_earlier_snapshots_as_they_were(desk, backups, monkeypatch) -> None:
    before = desk.ask("backup", "verify", backups)

    def _full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", _full)
        refused = desk.back_up(exit_code=3)
    assert (
        refused["error"]["what"].startswith("the disk is full") and "Earlier snapshots" in refused["error"]["meaning"]
    )
    assert desk.ask("backup", "verify", backups, "--deep") | {"deep": False} == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("backup",), ""),
        (("backup", "verify"), "say one folder"),
        (("backup", "{backups}", "{backups}"), "say one folder"),
        (("backup", "{backups}", "--deep"), "belong to `raypost backup verify`"),
        (("backup", "{folder}/site/data/here"), "lie within each other"),
        (("backup", "{folder}/site"), "lie within each other"),
        (("backup", "{folder}"), "lie within each other"),
        (("backup", "{folder}/ct"), "holds other things than backups"),
        (("backup", "{folder}/not/mounted"), "there is no folder"),
        (("backup", "verify", "{folder}/ct"), "no folder of backups"),
        (("backup", "verify", "{folder}/nothing"), "no folder of backups"),
        (("restore", "{folder}/ct", "{folder}/x"), "no folder of backups"),
        (("restore", "{backups}", "{folder}/ct"), "is not empty"),
        (("restore", "{backups}", "{folder}/site"), "there is a site"),
        (("restore", "{backups}", "{backups}/x"), "lie within each other"),
        (("restore", "{backups}", "{folder}/not/there"), "there is no folder"),
        (("restore", "{backups}", "{folder}/x", "--snapshot", "nothing"), "no complete snapshot nothing"),
    ],
)
def test_wrong_use_is_2_and_says_what_to_do(desk, backups, words, says) -> None:
    filled = [word.format(folder=desk.folder, backups=backups) for word in words]
    config = ("-c", desk.config) if words[0] == "backup" and "verify" not in words else ()
    if not says:
        desk.say(*filled, exit_code=2)
        return
    found = desk.ask(*filled, *config, exit_code=2)
    check_shape("error", found)
    assert says in found["error"]["what"] and found["error"]["do"]


def test_the_words_for_people(desk, backups) -> None:
    said = desk.say("backup", backups, "-c", desk.config).stdout
    assert "Snapshot 0" in said and "images of" in said
    assert "in order" in desk.say("backup", "verify", backups).stdout
    told = desk.say("restore", backups, desk.folder / "restored-told", "--config", desk.elsewhere()).stdout
    assert "The old site must never run again." in told and "raypost check -c" in told


def test_another_users_site_is_left_alone(desk, backups, monkeypatch) -> None:
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    refused = desk.ask("backup", backups, "-c", desk.config, exit_code=2)
    assert "belongs to another user" in refused["error"]["what"]
