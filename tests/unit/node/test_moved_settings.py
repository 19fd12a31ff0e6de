"""A raypost.toml that is moved keeps its comments and its meaning; every path lies below its folder then."""

import tomllib
from pathlib import Path

import pytest

from raypost.errors import UsageError
from raypost.node.moved_settings import Change, file_settings, move
from raypost.node.setup import Template

OLD = Path("/srv/raypost")
PLAIN = Template("neustadt", "Krankenhaus Neustadt", "NEUSTADT", "neustadt@stroke.example").text()


def nowhere(setting: str, file: Path) -> bool:
    return False


def moved(text: str, is_here=nowhere) -> tuple[dict, list[Change]]:
    after, changes = move(text, OLD, is_here)
    return tomllib.loads(after), changes


def test_the_template_stays_as_it_is() -> None:
    assert move(PLAIN, OLD, nowhere) == (PLAIN, [])


def test_every_place_outside_comes_inside_and_comments_stay() -> None:
    text = (
        'data_folder = "/data/raypost"   # the large disk\n'
        '[site]\nname = "x"\n'
        "[database]\n  embedded_folder='/fast/pg' # and the fast one\n"
        '[dicom]\ntls_certificate = "/etc/ssl/dicom.pem"\ntls_key = "../dicom.key"\n'
        '[[dicom.calling]]\ntls_key = "/not/a/setting"\n'
        '[relay.main]\npassword_file = "/srv/raypost/relay-password"\nca_file = "/etc/ssl/ca.pem"\n'
        '[relay."second-one"]\r\npassword_file = "relay-password"\r\nca_file = "/other/ca.pem" #x\r\n'
    )
    after, changes = move(text, OLD, nowhere)
    found = tomllib.loads(after)
    assert found["data_folder"] == "data" and found["database"]["embedded_folder"] == "data/postgresql"
    assert found["dicom"]["tls_certificate"] == "dicom.pem" and found["dicom"]["tls_key"] == "dicom.key"
    assert found["dicom"]["calling"] == [{"tls_key": "/not/a/setting"}]
    assert found["relay"]["main"] == {"password_file": "relay-password", "ca_file": "ca.pem"}
    assert found["relay"]["second-one"] == {
        "password_file": "relay-password",
        "ca_file": "relay.second-one.ca_file-ca.pem",
    }
    for comment in ("# the large disk", "# and the fast one", " #x\r\n"):
        assert comment in after
    assert changes[0] == Change("data_folder", "/data/raypost", "data") and len(changes) == 7


def test_paths_inside_the_old_folder_become_relative() -> None:
    found, _ = moved('data_folder = "/srv/raypost/../raypost/files"\n[relay.a]\npassword_file = "../raypost/p"\n')
    assert found == {"data_folder": "files", "relay": {"a": {"password_file": "p"}}}
    found, _ = moved('data_folder = "/srv/raypost/big"\n[database]\nembedded_folder = "/x"\n')
    assert found["database"]["embedded_folder"] == "big/postgresql"


def test_a_file_that_is_on_this_machine_as_it_was_stays_named() -> None:
    seen = []

    def _is_here(setting: str, file: Path) -> bool:
        seen.append((setting, str(file)))
        return True

    text = '[relay.a]\nca_file = "/etc/ssl/ca.pem"\npassword_file = "p"\n'
    assert move(text, OLD, _is_here) == (text, [])
    assert seen == [("relay.a.ca_file", "/etc/ssl/ca.pem")], "what lies inside needs not be asked for"


def test_two_files_of_one_name_do_not_become_one() -> None:
    found, _ = moved('[relay.a]\nca_file = "/x/ca.pem"\npassword_file = "ca.pem"\n[relay.b]\nca_file = "/y/ca.pem"\n')
    names = [found["relay"]["a"]["ca_file"], found["relay"]["a"]["password_file"], found["relay"]["b"]["ca_file"]]
    assert len(set(names)) == 3 and names[1] == "ca.pem"


@pytest.mark.parametrize(
    "text",
    [
        'relay.a.ca_file = "/etc/ca.pem"\n',
        'relay = {a = {ca_file = "/etc/ca.pem"}}\n',
        '[relay]\na = {ca_file = "/etc/ca.pem"}\n',
        'data_folder = """/data/raypost"""\n',
        'data_folder = """\n/data/raypost"""\n',
    ],
)
def test_a_form_that_is_not_mastered_is_refused_not_guessed_at(text) -> None:
    with pytest.raises(UsageError, match="outside its folder") as raised:
        move(text, OLD, nowhere)
    assert "--config" in raised.value.do


def test_which_files_a_site_cannot_do_without() -> None:
    found = file_settings(PLAIN + '\n[relay.b]\nca_file = "ca.pem"\n')
    assert found == {"relay.main.password_file": "relay-password", "relay.b.ca_file": "ca.pem"}
    with pytest.raises(UsageError, match="cannot be read"):
        file_settings("[")
