"""What is read first is sent first, whatever the scanner sent first; all of it arrives."""

import datetime

import pytest
import sqlalchemy as sa

from raypost.archive.cases import reading_ranks
from raypost.archive.tables import InstanceRow
from raypost.lab.sample_studies import write_study
from raypost.lab.stroke_set import StrokeSeries, StrokeSetSpec, stroke_set
from raypost.transfer.pacing import PacingLimits
from raypost.transfer.reading_order import ReadingClass, is_key_series, reading_class

THICK, THIN, CTA, PERFUSION = (series.value for series in StrokeSeries)
WHEN = datetime.datetime(2026, 11, 24, 3, 12, 5)
SPEC = StrokeSetSpec(
    WHEN,
    plain_thick=12,
    plain_thin=12,
    cta=4,
    perfusion=4,
    size_px=64,
    has_localizer=False,
    order=(StrokeSeries.PLAIN_THIN, StrokeSeries.PERFUSION, StrokeSeries.CTA, StrokeSeries.PLAIN_THICK),
)
SMALL_PARCELS = PacingLimits(first_parcel_max_bytes=12_000, parcel_min_bytes=1_000, parcel_max_bytes=24_000)

SENT = """select m.number, s.series_number, i.instance_number from rp_parcel_entry e
    join rp_message m on m.id = e.message_id join rp_transfer_item t on t.id = e.item_id
    join rp_instance i on i.id = t.instance_id join rp_series s on s.id = i.series_id
    where m.direction = 'out' order by m.number, e.id"""


@pytest.fixture(scope="module")
def stroke(tmp_path_factory) -> list:
    """Files in the order of the scanner: first the thin series, last the thick one."""
    return write_study(stroke_set(SPEC), tmp_path_factory.mktemp("stroke"))


@pytest.fixture
def slow(neustadt):
    """A site that sends a few small images in a parcel."""
    neustadt.pacing = SMALL_PARCELS
    return neustadt


def receive(site, files) -> None:
    for file in files:
        assert site.receive(file) == 0


def test_the_thick_plain_ct_goes_before_the_thin_series_that_came_first(slow, ludwigshafen, postman, stroke) -> None:
    receive(slow, stroke)
    postman.run()
    postman.pass_time(40)
    sent = slow.rows(SENT)
    of_series = [series for _, series, _ in sent]
    assert len(sent) == SPEC.slices
    assert of_series == [THICK] * 12 + [CTA] * 4 + [PERFUSION] * 4 + [THIN] * 12
    with_thin = {parcel for parcel, series, _ in sent if series == THIN}
    with_thick = {parcel for parcel, series, _ in sent if series == THICK}
    assert 1 in with_thick and len(with_thick) > 1 and max(with_thick) < min(with_thin)
    assert slow.transfer("out").state == "delivered"
    assert ludwigshafen.scalar("select count(*) from rp_instance") == SPEC.slices


def test_within_the_series_the_head_is_seen_coarsely_at_first(slow, stroke) -> None:
    receive(slow, stroke)
    slow.work()
    numbers = [number for _, series, number in slow.rows(SENT) if series == THICK]
    assert numbers == [8, 4, 12, 2, 6, 10, 1, 3, 5, 7, 9, 11][: len(numbers)] and len(numbers) > 1


def test_the_thick_series_overtakes_thin_ones_that_are_waiting_already(slow, ludwigshafen, postman, stroke) -> None:
    """The study streams: the first parcels are full of what there was, and then what is read first comes."""
    first, last = stroke[:-12], stroke[-12:]
    receive(slow, first)
    slow.work()
    before = [series for _, series, _ in slow.rows(SENT)]
    assert before and THICK not in before and len(before) < len(first), "some left, and some wait"
    receive(slow, last)
    postman.run()
    sent = [series for _, series, _ in slow.rows(SENT)]
    behind = sent[len(before) :]
    assert behind[:12] == [THICK] * 12
    assert sorted(sent) == sorted([THICK] * 12 + [THIN] * 12 + [CTA] * 4 + [PERFUSION] * 4)


def test_an_instance_cut_into_slices_is_finished_before_a_more_urgent_one_begins(slow, postman, stroke) -> None:
    slow.pacing = PacingLimits(first_parcel_max_bytes=2_000, parcel_min_bytes=1_000, parcel_max_bytes=3_000)
    receive(slow, stroke[:2])
    slow.work()
    receive(slow, stroke[-1:])
    postman.run()
    postman.pass_time(40)
    sent = [(series, number) for _, series, number in slow.rows(SENT)]
    assert len(sent) > len(set(sent)), "cut"
    for one in set(sent):
        places = [place for place, other in enumerate(sent) if other == one]
        assert places == list(range(places[0], places[-1] + 1)), "its slices follow each other"
    assert slow.transfer("out").state == "delivered"


def test_a_localizer_goes_first_though_it_comes_last(neustadt, ludwigshafen, postman, stroke, tmp_path) -> None:
    spec = StrokeSetSpec(WHEN, plain_thick=2, plain_thin=0, cta=0, perfusion=0, size_px=64)
    scout, *slices = write_study(stroke_set(spec), tmp_path / "study")
    receive(neustadt, [*slices, scout])
    postman.run()
    assert [(series, number) for _, series, number in neustadt.rows(SENT)] == [(1, 1), (THICK, 2), (THICK, 1)]


def test_ranks_are_of_the_series_as_the_scanner_made_it(slow, stroke) -> None:
    receive(slow, stroke)
    with slow.archive.database.transaction() as tx:
        instances = list(tx.scalars(sa.select(InstanceRow)))
        ranks = reading_ranks(tx, instances)
        assert reading_ranks(tx, []) == {}
    assert len(ranks) == SPEC.slices
    found = {reading_class(rank) for rank in ranks.values()}
    assert found == {
        ReadingClass.PLAIN_THICK,
        ReadingClass.VESSELS,
        ReadingClass.PERFUSION,
        ReadingClass.THIN,
    }
    assert sum(is_key_series(rank) for rank in ranks.values()) == SPEC.plain_thick
