"""`raypost key`: what there is, renewed, taken out, revoked."""

import stat

from tests.unit.cli.test_json_shapes import check_shape, desk  # noqa: F401 (a fixture)


def test_the_life_of_a_key(desk, tmp_path) -> None:  # noqa: F811
    before = desk.ask("key", "list")
    check_shape("key list", before)
    mine = next(one for one in before if one["self"])
    assert all(one["unusable_because"] is None for one in before) and len(mine["keys"]) == 2
    renewed = desk.ask("key", "renew")
    check_shape("key renew", renewed)
    assert renewed["fingerprint"] == mine["fingerprint"] and len(renewed["keys"]) == 4
    assert "Partners get them with the next hello" in desk.say("key", "renew", "--days", 400)
    file = tmp_path / "revocation.asc"
    check_shape("key revocation", desk.ask("key", "revocation", file, "--keep"))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    refused = desk.ask("key", "revocation", file, exit_code=2)
    assert "cannot be written" in refused["error"]["what"]
    desk.ask("key", "revocation", tmp_path / "second.asc")
    gone = desk.ask("key", "revocation", tmp_path / "third.asc", exit_code=2)
    assert "not in the key ring any more" in gone["error"]["what"]
    text = desk.say("key", "list")
    assert "neustadt (this site)" in text and "in order" in text
    desk.ask("key", "revoke", tmp_path / "nothing.asc", "--why", "x", exit_code=2)
    check_shape("key revoke", desk.ask("key", "revoke", file, "--why", "machine stolen"))
    assert "revoked by its owner" in desk.say("key", "list")
    kinds = [one["kind"] for one in desk.ask("events")]
    assert "key revoked" in kinds and kinds.count("keys renewed") == 2
