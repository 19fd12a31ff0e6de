"""Commands about a study on its way, as people type them at two sites: what they read, what scripts get, wrong uses."""

import dataclasses
import json
import pathlib
import re
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from raypost.archive import contacts, partners, people, scanners
from raypost.cli import output
from raypost.cli.app import app
from raypost.model.person import Person
from raypost.model.rights import Role
from raypost.node.setup import Template
from tests.unit.cli.test_json_shapes import Desk, check_shape
from tests.unit.stations.test_hello import greet

IDENTIFYING = re.compile(r"\b\d+(\.\d+){4,}\b|rp_|[0-9a-f]{40,}")
"""A DICOM UID, the name of a table, a hash: nothing of that belongs into a sentence."""
WIDTHS = (60, 100)


class Seat(Desk):
    """Where somebody types commands at one of the two sites."""

    def __init__(self, site) -> None:
        self.site = site
        self.config = site.folder / "raypost.toml"
        it = site.partner
        url = site.archive.database.url
        text = Template(it.name, it.display_name, it.ae_stem, it.address, database_lines=(f'url = "{url}"',)).text()
        self.config.write_text(text.replace('data_folder = "data"', 'data_folder = "."'))

    def key(self, direction: str = "out") -> str:
        return self.site.transfer(direction).transfer_key

    def study(self) -> str:
        (one,) = self.ask("study", "list", "--withdrawn")
        return one["study_key"]

    def read(self, *words: object) -> str:
        """Return the words of a text, however they were folded."""
        return " ".join(self.say(*words).split())


@pytest.fixture
def here(neustadt) -> Seat:
    neustadt.clock.instant = datetime.now(UTC)  # both sites have this clock; commands have the machine's
    return Seat(neustadt)


@pytest.fixture
def there(ludwigshafen) -> Seat:
    with ludwigshafen.archive.database.transaction() as tx:
        for name in ("keller", "weber"):
            one = Person(name, f"Dr. {name.title()}", roles=frozenset({Role.PHYSICIAN}))
            people.add_person(tx, one, now=ludwigshafen.clock.now(), who="test")
    return Seat(ludwigshafen)


@pytest.fixture
def mannheim(neustadt, keyrings) -> None:
    """A second centre in the address book of the sender."""
    partner = dataclasses.replace(
        neustadt.partner,
        name="mannheim",
        display_name="Mannheim",
        ae_stem="MANNHEIM",
        address="mannheim@raypost.test",
        fingerprint=keyrings["ludwigshafen"][1][::-1],
        is_self=False,
    )
    with neustadt.archive.database.transaction() as tx:
        partners.add_partner(tx, partner, "cert", now=neustadt.clock.now(), who="test")


@pytest.fixture(params=WIDTHS)
def width(request, monkeypatch) -> int:
    monkeypatch.setattr(output.console, "_width", request.param)
    return request.param


def send_head(site, head, called: str = "LUDWIGSHAFEN_N") -> None:
    for file in head:
        assert site.receive(file, called) == 0


def compare_clocks(here: Seat, there: Seat, postman) -> None:
    for _ in range(2):
        greet(here.site, postman)
        greet(there.site, postman)
        here.site.clock.pass_time(301)


def deliver(here: Seat, postman, head) -> None:
    send_head(here.site, head)
    postman.run()
    postman.pass_time(60)
    assert here.site.transfer("out").state == "delivered"


def test_a_delivered_transfer_reads_as_a_story_at_both_sites(here, there, postman, head) -> None:
    deliver(here, postman, head)
    text = here.read("transfer", "show", here.key())
    for words in ("to ludwigshafen, emergency", "state delivered", "filed 6 of 6", "missing 0", "instances sent 6"):
        assert words in text, words
    assert "neustadt the transfer began, emergency" in text and "names every instance by its hash" in text
    assert "ludwigshafen instances were filed last" in text, "what the partner says of itself"
    assert text.index("filed 6 of 6") < text.index("the transfer began"), "first how far it is"
    assert not IDENTIFYING.search(text) and "attempt" not in text
    shown = here.ask("transfer", "show", here.key())
    assert shown["progress"]["filed"] == shown["progress"]["total"] == shown["progress"]["sent"] == 6
    assert {one["site"] for one in shown["story"]} == {"neustadt", "ludwigshafen"}
    assert [one["at"] for one in shown["story"]] == sorted(one["at"] for one in shown["story"])
    assert shown["messages"] and shown["events"] and shown["announced"] is None
    check_shape("transfer show", shown)
    text = there.read("transfer", "show", there.key("in"))
    for words in ("from neustadt, emergency", "state complete", "filed 6 of 6"):
        assert words in text, words
    assert "ALARM: neustadt announced a study, emergency" in text, "an emergency rings, and stands out"
    assert "instances sent" not in text, "that the receiver cannot know"
    check_shape("transfer show", there.ask("transfer", "show", there.key("in")))


def test_messages_are_shown_when_they_are_asked_for(here, there, postman, head, width) -> None:
    deliver(here, postman, head)
    text = here.say("transfer", "show", here.key(), "--messages")
    assert "parcel 1" in text and "manifest 1" in text and "filed" in text
    assert max(map(len, text.splitlines())) <= width


def test_before_the_manifest_nobody_says_how_many_there_are(here, there, postman, head) -> None:
    send_head(here.site, head)
    postman.run()
    for seat, direction in ((here, "out"), (there, "in")):
        assert seat.ask("transfer", "show", seat.key(direction))["progress"]["total"] is None
        text = seat.read("transfer", "show", seat.key(direction))
        assert re.search(r"filed \d so far; how many will come is not known yet", text)
        assert "missing" not in text
        assert re.search(r"\d so far", seat.read("transfer", "list"))
    postman.pass_time(60)
    for seat in (here, there):
        assert "6 of 6" in seat.read("transfer", "list")


def test_what_was_only_announced_is_shown_with_the_transfer_and_nowhere_else(here, there, postman, head) -> None:
    postman.lose = lambda kind, number: kind in ("parcel", "manifest")
    send_head(here.site, head)
    postman.run()
    key = there.key("in")
    name = here.site.scalar("select patient_name from rp_patient")
    shown = there.ask("transfer", "show", key)
    assert shown["announced"]["patient_name"] == name and shown["announced"]["modality"] == "CT"
    check_shape("transfer show", shown)
    assert f"patient {name}" in there.read("transfer", "show", key)
    file = there.site.folder / "told.json"
    there.say("transfer", "export", key, file)
    for text in (there.say("transfer", "list"), there.say("events"), file.read_text(), json.dumps(shown["story"])):
        assert name not in text, "what leaves the site, or stands on a wall, names nobody"
    assert name not in here.say("transfer", "show", here.key()), "the sender reads it with the study"
    assert "expected, announced only" in there.read("transfer", "list")
    postman.pass_time(130)
    assert "expected, nothing moves: call neustadt" in there.read("transfer", "list")
    assert "ALARM: images were announced and none came: call neustadt" in there.read("transfer", "show", key)
    here.say("transfer", "recall", here.key(), "--why", "wrong patient")
    postman.pass_time(60)
    assert "withdrawn by neustadt" in there.read("transfer", "list")
    assert name not in there.say("transfer", "show", key), "what was taken back is not shown"
    assert there.ask("transfer", "show", key)["announced"] is None


def test_unconfirmed_says_whom_to_call(here, there, postman, head, width) -> None:
    postman.lose = lambda kind, number: kind == "receipt"
    send_head(here.site, head)
    postman.run()
    postman.pass_time(300)
    assert "closed, nothing moves: call ludwigshafen" in here.read("transfer", "show", here.key())
    assert "1 transfer is open. Of 1 a person was told" in here.read("status")
    postman.pass_time(6 * 3600)
    (one,) = here.ask("transfer", "list")
    assert one["state"] == "unconfirmed" and one["told_at"]
    text = here.say("transfer", "show", here.key())
    words = " ".join(text.split())
    assert "state unconfirmed: call ludwigshafen" in words
    assert "ALARM: ludwigshafen confirmed nothing in spite of everything: call ludwigshafen" in words
    assert max(map(len, text.splitlines())) <= width
    listed = here.say("transfer", "list")
    assert "unconfirmed:" in listed and "call" in listed
    assert max(map(len, listed.splitlines())) <= width


def test_a_recall_and_what_is_left_to_be_seen(here, there, postman, head) -> None:
    deliver(here, postman, head)
    check_shape("study open", there.ask("study", "open", there.study(), "--who", "Dr. Keller"))
    postman.pass_time(10)
    told = here.ask("transfer", "recall", here.key(), "--why", "wrong patient")
    assert told == {"transfer_key": here.key(), "state": "recalled", "partner_told": True}
    check_shape("transfer recall", told)
    postman.pass_time(60)
    assert there.ask("study", "list") == []
    (hidden,) = listed = there.ask("study", "list", "--withdrawn")
    assert hidden["hidden_because"] == "wrong patient"
    check_shape("study list", listed)
    assert "hidden: wrong patient" in there.say("study", "list", "--withdrawn")
    text = there.read("study", "show", hidden["study_key"])
    assert "kept and not shown in lists: wrong patient" in text
    check_shape("study show", there.ask("study", "show", hidden["study_key"]))
    text = here.read("transfer", "show", here.key())
    assert "why wrong patient" in text and "opened by Dr. Keller" in text
    assert "ALARM: ludwigshafen hid 6 instances" in text
    again = here.ask("transfer", "recall", here.key(), "--why", "again", exit_code=2)
    check_shape("error", again)


def test_who_has_the_case_who_opened_it_what_was_corrected(here, there, postman, head) -> None:
    deliver(here, postman, head)
    old = here.ask("study", "show", here.study())["patient_id"]
    assert "responsible nobody took the case yet" in here.read("study", "show", here.study())
    assert "the sender is told" in there.say("study", "open", there.study(), "--who", "Dr. Keller")
    taken = there.ask("study", "take", there.study(), "--who", "Dr. Keller")
    assert taken == {"study_key": there.study(), "asked": True, "responsible": None}
    check_shape("study take", taken)
    postman.pass_time(30)
    taken = there.ask("study", "take", there.study(), "--who", "Dr. Weber")
    assert taken["responsible"] == "ludwigshafen" and not taken["asked"]
    check_shape("study take", taken)
    corrected = here.ask("study", "correct", here.study(), "--patient-id", "4711", "--why", "mistyped")
    assert corrected["partners_told"] == ["ludwigshafen"] and corrected["partners_not_told"] == []
    check_shape("study correct", corrected)
    said = here.read("study", "correct", here.study(), "--sex", "", "--birth-date", "19520317", "--why", "mistyped")
    assert "→ 19520317" in said and "→ (empty)" in said and "ludwigshafen is told." in said
    postman.pass_time(30)
    for seat in (here, there):
        text = seat.read("study", "show", seat.study())
        assert "responsible ludwigshafen" in text
        assert "opened by Dr. Keller at ludwigshafen, 20" in text
        assert f"corrected patient id {old} → 4711 by " in text and ": mistyped" in text
        check_shape("study show", seat.ask("study", "show", seat.study()))
    check_shape("study list", there.ask("study", "list"))


def test_who_cannot_be_told_is_to_be_called(here, there, postman, head, neustadt) -> None:
    """A partner whose version knows nothing but parcels: nobody believes that it heard of a recall."""
    deliver(here, postman, head)
    with neustadt.archive.database.transaction() as tx:
        row = contacts.row_of(tx, neustadt.transfer("out").partner_id)
        row.capabilities = {"kinds": ["parcel", "manifest", "receipt"]}
    said = here.read("study", "correct", here.study(), "--patient-id", "4711", "--why", "mistyped")
    assert "does not know corrections: call ludwigshafen" in said and "is told" not in said
    corrected = here.ask("study", "correct", here.study(), "--patient-id", "4712", "--why", "mistyped")
    assert corrected["partners_not_told"] == ["ludwigshafen"] and corrected["partners_told"] == []
    check_shape("study correct", corrected)
    said = here.read("transfer", "recall", here.key(), "--why", "wrong patient")
    assert "does not know recalls: call ludwigshafen" in said and "is told" not in said


def test_rerouted_by_a_person(here, there, postman, head, mannheim, width) -> None:
    postman.lose = lambda kind, number: kind == "receipt"
    send_head(here.site, head)
    postman.run()
    first = here.key()
    told = here.ask("transfer", "reroute", first, "--to", "mannheim", "--why", "no answer on the telephone")
    check_shape("transfer reroute", told)
    assert told["state"] == "rerouted" and told["partner_told"] is True
    listed = here.say("transfer", "list")
    assert re.search(r"rerouted\s", listed) and "mannheim" in listed and told["rerouted_to"] in listed
    assert max(map(len, listed.splitlines())) <= width
    check_shape("transfer list", here.ask("transfer", "list"))
    text = here.read("transfer", "show", first)
    assert "why no answer on the telephone" in text and "goes to mannheim now, ludwigshafen is told" in text
    again = here.ask("transfer", "reroute", first, "--to", "mannheim", exit_code=2)
    assert "rerouted" in again["error"]["what"]
    postman.run()
    assert "ludwigshafen" not in there.read("transfer", "list"), "a partner is named, not oneself"
    assert "redirected, neustadt sends it elsewhere" in there.read("transfer", "list")


def test_a_rule_for_a_silent_centre(here, mannheim) -> None:
    words = ("--reroute-from", "ludwigshafen", "--to", "mannheim", "--after", 60, "--priority", "urgent")
    added = here.ask("rule", "add", *words, "--name", "next")
    assert (added["action"], added["partner"], added["deadline_s"]) == ("reroute", "ludwigshafen", 60.0)
    check_shape("rule add", added)
    check_shape("rule list", here.ask("rule", "list"))
    said = here.read("rule", "list")
    assert "next send to mannheim when ludwigshafen confirms nothing for 60 s, from urgent on" in said


def test_an_export_holds_everything_but_the_patient(here, there, postman, head) -> None:
    compare_clocks(here, there, postman)
    deliver(here, postman, head)
    file = here.site.folder / "story.json"
    told = here.ask("transfer", "export", here.key(), file)
    assert told["lines"] > 5 and told["file"] == str(file)
    check_shape("transfer export", told)
    held = json.loads(file.read_text())
    check_shape("transfer export FILE", held)
    assert held["events_left_out"] == 0 and held["partner_times"]["first_arrival_at"]
    assert held["partner_clock"]["uncertainty_s"] is not None
    assert {one["uncertainty_s"] is None for one in held["story"]} == {True, False}
    text = file.read_text()
    for row in here.site.rows("select patient_name, patient_id, birth_date from rp_patient"):
        assert not any(word in text for word in row)
    for one in ("study_instance_uid", "sop_instance_uid"):
        assert one not in text
    again = here.ask("transfer", "export", here.key(), file, exit_code=2)
    assert "exists already" in again["error"]["what"] and file.read_text() == text
    nowhere = here.ask("transfer", "export", here.key(), file / "inside", exit_code=2)
    check_shape("error", nowhere)


def test_status_at_a_glance(here, there, postman, head, width) -> None:
    with here.site.archive.database.transaction() as tx:
        scanners.note_image(tx, "CT1", "127.0.0.1", here.site.clock.now())
        tx.execute(sa.text("update rp_relay set size_max_bytes = 10000000, rate_bytes_per_s = 250000.0"))
    check_shape("status", here.ask("status"))
    text = here.read("status")
    assert "unknown, no hello yet" in text and "never" in text and "No transfers are open." in text
    compare_clocks(here, there, postman)
    deliver(here, postman, head)
    found = here.ask("status")
    check_shape("status", found)
    assert found["partners"][0]["state"] == "fresh" and found["partners"][0]["clock_uncertainty_s"] is not None
    text = here.say("status")
    assert "well" in text and "±" in text and "ago" in text and "CT1" in text and "250 kB/s" in text
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("transfer", "recall", "nothing", "--why", "x"), "no transfer 'nothing'"),
        (("transfer", "recall", "OUT", "--why", "  "), "needs a reason"),
        (("transfer", "reroute", "nothing", "--to", "mannheim"), "no transfer 'nothing'"),
        (("transfer", "reroute", "OUT", "--to", "nowhere"), "no partner 'nowhere'"),
        (("transfer", "reroute", "OUT", "--to", "neustadt"), "goes there already"),
        (("transfer", "export", "nothing", "file.json"), "no transfer 'nothing'"),
        (("study", "open", "nothing"), "no study 'nothing'"),
        (("study", "take", "nothing"), "no study 'nothing'"),
        (("study", "take", "STUDY"), "made here"),
        (("study", "correct", "nothing", "--why", "x", "--sex", "M"), "no study 'nothing'"),
        (("study", "correct", "STUDY", "--why", "x"), "what is to be corrected"),
        (("study", "correct", "STUDY", "--why", " ", "--patient-id", "4711"), "needs a reason"),
        (("study", "correct", "STUDY", "--why", "x", "--birth-date", "17.3.1952"), "19520317"),
        (("study", "correct", "STUDY", "--why", "x", "--birth-date", "19520230"), "19520317"),
        (("study", "correct", "STUDY", "--why", "x", "--sex", "female"), "M, F or O"),
        (("study", "correct", "STUDY", "--why", "x", "--patient-id", "4" * 65), "longer than 64"),
        (("study", "correct", "STUDY", "--why", "x", "--issuer", "a\\b"), "--issuer holds a character"),
        (("rule", "add", "--reroute-from", "ludwigshafen"), "--to"),
        (("rule", "add", "--reroute-from", "nobody", "--to", "ludwigshafen"), "no partner 'nobody'"),
    ],
)
def test_wrong_use_is_2_and_says_what_to_do(here, head, words, said) -> None:
    send_head(here.site, head)
    here.site.work()
    words = [{"OUT": here.key(), "STUDY": here.study()}.get(word, word) for word in words]
    found = here.ask(*words, exit_code=2)
    check_shape("error", found)
    error = found["error"]
    assert error["code"] == "RP-001" and said in error["what"] and error["meaning"] and error["do"]
    assert here.site.transfer("out").state == "announced" or here.site.transfer("out").state == "streaming"


def test_a_correction_of_a_partners_study_is_the_partners(here, there, postman, head) -> None:
    deliver(here, postman, head)
    found = there.ask("study", "correct", there.study(), "--patient-id", "4711", "--why", "x", exit_code=2)
    assert "only the site that made a study" in found["error"]["what"] and "Telephone" in found["error"]["do"]
    found = there.ask("transfer", "recall", there.key("in"), "--why", "x", exit_code=2)
    assert "only the sender" in found["error"]["what"]


@pytest.mark.parametrize("command", ["transfer recall", "transfer export", "study correct", "study open", "status"])
def test_help_names_an_example(command) -> None:
    assert f"Example: raypost {command}" in CliRunner().invoke(app, [*command.split(), "--help"]).output


def test_the_file_of_shapes_is_there_for_each_of_them() -> None:
    shapes = pathlib.Path(__file__).parent / "shapes"
    for command in ("recall", "reroute", "export", "export-FILE"):
        assert (shapes / f"transfer-{command}.json").exists()
