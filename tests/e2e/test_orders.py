"""What a technologist or a PACS user does: sends to a title, sends again, sends more; nobody else is asked."""

import pathlib

import pytest
from e2e_sites import Pair, Study, make_study, send, settle, until

pytestmark = pytest.mark.slow

TRANSFERS = (
    "select t.priority, t.supplement, t.state, count(i.id) as instances from rp_transfer t"
    " join rp_transfer_item i on i.transfer_id = t.id"
    " where t.direction = 'out' and t.study_instance_uid = :one group by t.id order by t.id"
)


def test_a_study_that_is_here_already_goes_where_it_is_sent(pair: Pair, tmp_path: pathlib.Path) -> None:
    """First into the house, later to the partner: the second C-STORE is an order, though nothing new comes."""
    study = make_study(tmp_path, seed=300, slices=4)
    send(pair.referrer, study, called="RAYPOST")
    until("routed", lambda: not pair.referrer.rows("select 1 from rp_instance where routed_at is null"))
    assert not pair.referrer.rows(TRANSFERS, one=study.study_instance_uid)
    send(pair.referrer, study, called="LUDWIGSHAFEN_N")
    settle(pair, study)
    (row,) = pair.referrer.rows(TRANSFERS, one=study.study_instance_uid)
    assert (row.priority, row.supplement, row.instances) == ("emergency", 0, 4)


def test_what_comes_twice_goes_once_and_what_comes_late_is_a_supplement(pair: Pair, tmp_path: pathlib.Path) -> None:
    whole = make_study(tmp_path, seed=301, slices=6)
    early, late = Study(whole.files[:4], whole.study_instance_uid), Study(whole.files[4:], whole.study_instance_uid)
    send(pair.referrer, early)
    settle(pair, early)
    send(pair.referrer, early)  # a modality that was not sure
    send(pair.referrer, late)
    settle(pair, whole)
    rows = pair.referrer.rows(TRANSFERS, one=whole.study_instance_uid)
    assert [(row.supplement, row.instances, row.state) for row in rows] == [(0, 4, "delivered"), (1, 2, "delivered")]
    assert (
        len(pair.centre.rows("select 1 from rp_case where study_instance_uid = :one", one=whole.study_instance_uid))
        == 1
    )


def test_a_more_urgent_title_makes_what_still_streams_more_urgent(pair: Pair, tmp_path: pathlib.Path) -> None:
    study = make_study(tmp_path, seed=302, slices=3)
    send(pair.referrer, Study(study.files[:2], study.study_instance_uid), called="LUDWIGSHAFEN_R")
    send(pair.referrer, study, called="LUDWIGSHAFEN_N")
    settle(pair, study)
    rows = pair.referrer.rows(TRANSFERS, one=study.study_instance_uid)
    assert rows[-1].priority == "emergency" and sum(row.instances for row in rows) == 3
