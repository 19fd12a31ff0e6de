"""`raypost audit`: the trail is read, proven, exported; who saw a study; and each such question stands in the trail."""

import json
import stat
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from raypost.cli.output import person
from tests.unit.cli.test_json_shapes import check_shape
from tests.unit.cli.test_transfer_commands import Seat, deliver


@pytest.fixture
def here(neustadt) -> Seat:
    neustadt.clock.instant = datetime.now(UTC)
    return Seat(neustadt)


@pytest.fixture
def delivered(here, ludwigshafen, postman, head) -> Seat:
    deliver(here, postman, head)
    return here


def test_the_trail_is_listed(delivered) -> None:
    study = delivered.study()
    found = delivered.ask("audit", "list", "--study", study)
    check_shape("audit list", found)
    kinds = [one["kind"] for one in found]
    assert kinds.index("received") < kinds.index("sealed") < kinds.index("transfer delivered")
    assert {one["study_key"] for one in found} == {study}
    assert all(one["message"].startswith("<?xml") for one in found)
    everything = delivered.ask("audit", "list")
    check_shape("audit list", everything)
    assert everything[-1]["kind"] == "audit used", "the look before stands there"
    assert delivered.ask("audit", "list", "--since", "2999-01-01 00:00") == []
    assert "received" in delivered.read("audit", "list", "--study", study)
    wrong = delivered.ask("audit", "list", "--since", "yesterday", exit_code=2)
    assert "looks like" in wrong["error"]["what"]
    delivered.ask("audit", "list", "--study", "nothing", exit_code=2)


def test_verify_proves_it_and_names_where_it_breaks(delivered) -> None:
    good = delivered.ask("audit", "verify")
    check_shape("audit verify", good)
    assert good["good"] and good["rows"] > 10 and good["broken_at"] is None
    assert "stand as they were written" in delivered.read("audit", "verify")
    assert delivered.ask("audit", "verify", "--head", good["head"])["good"]
    forged = good["head"].split(":")[0] + ":" + "0" * 64
    assert delivered.ask("audit", "verify", "--head", forged, exit_code=1)["broken_at"] == good["rows"]
    assert delivered.ask("audit", "verify", "--head", "7", exit_code=2)["error"]["code"] == "RP-001"
    with delivered.site.archive.database.transaction() as tx:
        tx.execute(sa.text("set local session_replication_role = replica"))
        tx.execute(sa.text("update rp_audit set message = replace(message, 'CT1', 'CT2') where kind = 'received'"))
        changed = tx.scalar(sa.text("select min(sequence) from rp_audit where kind = 'received'"))
    bad = delivered.ask("audit", "verify", exit_code=1)
    check_shape("audit verify", bad)
    assert (bad["good"], bad["broken_at"], bad["what"]) == (False, changed, "a row was changed")
    assert f"breaks at entry {changed}" in " ".join(delivered.say("audit", "verify", exit_code=1).split())


def test_export_holds_what_the_hash_is_over(delivered, tmp_path) -> None:
    file = tmp_path / "audit.jsonl"
    answer = delivered.ask("audit", "export", file)
    check_shape("audit export", answer)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert answer["head"] == f"{lines[-1]['sequence']}:{lines[-1]['hash']}" and answer["rows"] == len(lines)
    assert delivered.ask("audit", "verify", "--head", answer["head"])["good"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "exists" in delivered.ask("audit", "export", file, exit_code=2)["error"]["what"]
    assert delivered.site.scalar("select count(*) from rp_event where kind = 'audit used'") == 1


def test_who_saw_a_study_and_who_asked(delivered) -> None:
    study = delivered.study()
    delivered.ask("study", "show", study)
    delivered.ask("study", "export", study, delivered.site.folder / "out")
    found = delivered.ask("audit", "who-saw", study)
    check_shape("audit who-saw", found)
    seen = [(one["who"], one["what"], one["place"]) for one in found]
    assert seen == [
        ("neustadt", "received", "ludwigshafen"),
        (person(), "looked at", "neustadt"),
        (person(), "exported", "neustadt"),
        (person(), "looked up in the audit trail", "neustadt"),
    ]
    assert delivered.ask("audit", "who-saw", study, "--patient")[-1]["times"] == 2
    assert "looked up in the audit trail" in delivered.read("audit", "who-saw", study)
    delivered.ask("audit", "who-saw", "nothing", exit_code=2)


def test_searching_is_a_query_without_the_words_searched_for(delivered) -> None:
    delivered.ask("study", "list", "--text", "Secret^Name")
    (one,) = [one for one in delivered.ask("audit", "list") if one["kind"] == "studies listed"]
    assert 'csd-code="110112"' in one["message"] and one["who"] == person()
    assert "Secret" not in str(delivered.site.rows("select * from rp_audit, rp_event"))
