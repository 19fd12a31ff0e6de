"""A site renews its keys while it works: the partner has them within seconds, and images go on."""

import pathlib

import pytest
from e2e_sites import CENTRE, Pair, make_study, send, settle, until

pytestmark = pytest.mark.slow


def test_renewed_keys_are_at_the_partner_within_seconds(pair: Pair, tmp_path: pathlib.Path) -> None:
    referrer, centre = pair.houses
    until("both said which keys they hold", lambda: referrer.one("select max(heard_number) from rp_contact"))
    renewed = referrer.cli("key", "renew")

    def held() -> set[str]:
        (one,) = [one for one in centre.cli("key", "list") if one["fingerprint"] == renewed["fingerprint"]]
        return {key["fingerprint"] for key in one["keys"]}

    until("the partner has the fresh keys", lambda: held() == {key["fingerprint"] for key in renewed["keys"]})
    assert len(renewed["keys"]) == 4
    (event,) = centre.events("keys renewed")
    assert event.fields["name"] == referrer.site.name != CENTRE
    study = make_study(tmp_path, seed=41, slices=3)
    send(referrer, study)
    settle(pair, study)
