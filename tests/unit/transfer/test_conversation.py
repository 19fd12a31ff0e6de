"""A sender and a receiver under any weather: it ends delivered, or with a person told; never in silence, never twice."""

import pathlib
import sys

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raypost.transfer.receiver import ReceiverState
from raypost.transfer.sender import OPEN, SenderState

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from conversation import LIMITS, Network  # noqa: E402

HOURS = 3_600.0
PERSONS_MAX = 5
TAKES_IMAGES = (SenderState.ANNOUNCED, SenderState.STREAMING)


class Conversation(RuleBasedStateMachine):
    """Any order of: images, mails delivered, lost or doubled, time, a relay that goes away, persons who interfere."""

    @initialize(weather=st.sampled_from(["fair", "dead"]), sizes=st.lists(st.integers(1, 90), max_size=4))
    def begin(self, weather, sizes) -> None:
        self.network = Network()
        self.weather = weather
        self.takes = 0
        for size in sizes:
            self.network.image(size)

    @precondition(lambda self: self.network.sender.state in TAKES_IMAGES and len(self.network.sender.instances) < 12)
    @rule(size=st.integers(1, 90))
    def image_comes(self, size) -> None:
        self.network.image(size)

    @precondition(lambda self: self.network.flight)
    @rule(data=st.data())
    def mail_arrives(self, data) -> None:
        self.network.deliver(data.draw(st.integers(0, len(self.network.flight) - 1)))

    @precondition(lambda self: self.network.flight)
    @rule(data=st.data())
    def mail_arrives_and_stays(self, data) -> None:
        self.network.deliver(data.draw(st.integers(0, len(self.network.flight) - 1)), keep=True)

    @precondition(lambda self: self.network.flight)
    @rule(data=st.data())
    def mail_is_lost(self, data) -> None:
        self.network.flight.pop(data.draw(st.integers(0, len(self.network.flight) - 1)))

    @precondition(lambda self: self.network.flight)
    @rule()
    def everything_arrives(self) -> None:
        for _ in range(len(self.network.flight)):
            self.network.deliver(0)

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0, 20.0, 60.0, 600.0, 2 * HOURS]))
    def time_passes(self, seconds) -> None:
        self.network.pass_time(seconds)

    @rule()
    def relay_goes_or_comes(self) -> None:
        self.network.relay_is_up = not self.network.relay_is_up
        self.network.look()

    @precondition(lambda self: self.network.receiver.state is not None and self.takes < PERSONS_MAX)
    @rule()
    def person_asks_for_the_case(self) -> None:
        self.takes += 1
        self.network.take()

    @precondition(lambda self: self.network.sender.state is not SenderState.RECALLED and self.network.sender.instances)
    @rule()
    def person_sends_again(self) -> None:
        self.network.order_again()

    @precondition(
        lambda self: len(self.network.sender.instances) > 2 and self.network.sender.state is not SenderState.RECALLED
    )
    @rule()
    def person_recalls(self) -> None:
        self.network.recall()

    @precondition(lambda self: self.network.sender.instances)
    @rule(data=st.data())
    def image_cannot_be_filed(self, data) -> None:
        self.network.receiver.broken.add(data.draw(st.sampled_from(self.network.sender.instances)).sha256)

    @invariant()
    def nothing_is_filed_twice(self) -> None:
        filings = self.network.receiver.filings
        assert len(set(filings)) == len(filings)

    @invariant()
    def delivered_is_true(self) -> None:
        if self.network.sender.state is SenderState.DELIVERED:
            assert set(self.network.receiver.filings) == {one.sha256 for one in self.network.sender.instances}

    @invariant()
    def whoever_waits_is_looked_after(self) -> None:
        sender, receiver = self.network.sender, self.network.receiver
        if sender.state in OPEN:
            assert sender.due_s is not None and sender.due_s > self.network.now_s
        if receiver.state in (ReceiverState.EXPECTED, ReceiverState.ARRIVING):
            assert receiver.due_s is not None and receiver.due_s > self.network.now_s

    @invariant()
    def receipts_keep_their_distance(self) -> None:
        receipts = self.network.receiver.receipts
        interval_s = LIMITS.receiver.receipt_idle_s
        close = sum(other - one < interval_s for (one, _), (other, _) in zip(receipts, receipts[1:], strict=False))
        assert close <= 2, "but the first filed parcel and the end"

    @invariant()
    def a_person_is_told_in_time(self) -> None:
        sender, now_s = self.network.sender, self.network.now_s
        if sender.facts().is_outstanding and now_s - sender.progress_s > LIMITS.sender.silent_emergency_s:
            assert sender.is_told
        if sender.state is SenderState.UNCONFIRMED:
            assert sender.told

    def teardown(self) -> None:
        if not hasattr(self, "network"):
            return
        network = self.network
        was_open = (
            network.sender.state in OPEN
            and network.sender.instances
            and not network.receiver.broken
            and network.sender.rounds == 0
        )
        network.relay_is_up = True
        network.look()
        mails_before = network.mails
        for _ in range(200):
            while network.flight and self.weather == "fair":
                network.deliver(0)
            network.flight.clear()
            if network.sender.due_s is None and network.receiver.due_s is None:
                break
            network.pass_time(0.25 * HOURS)
            assert network.mails - mails_before < 800, "mails go round for ever"
        assert network.sender.due_s is None and network.receiver.due_s is None, "somebody still waits for something"
        sender, receiver = network.sender, network.receiver
        ends = {SenderState.DELIVERED, SenderState.UNCONFIRMED, SenderState.RECALLED}
        assert sender.state in ends and (sender.told or sender.state is not SenderState.UNCONFIRMED)
        assert receiver.state not in (ReceiverState.EXPECTED, ReceiverState.ARRIVING)
        if receiver.state is ReceiverState.INCOMPLETE:
            assert receiver.told
        if was_open and self.weather == "fair":
            assert sender.state is SenderState.DELIVERED, "there was nothing in the way"
        if self.weather == "fair" and sender.state is SenderState.RECALLED:
            assert receiver.state in (None, ReceiverState.WITHDRAWN)


Conversation.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # add Phase.shrink to look for the shortest story: minutes
)
TestConversation = Conversation.TestCase


def test_fair_weather() -> None:
    """The shortest story: three images, every mail arrives, nothing is sent twice."""
    network = Network()
    for size in (8, 30, 90):
        network.image(size)
    for _ in range(60):
        network.pass_time(1.0)
        while network.flight:
            network.deliver(0)
    assert network.sender.state is SenderState.DELIVERED and network.receiver.state is ReceiverState.COMPLETE
    assert not network.sender.told and not network.receiver.told
    parcels = len(network.receiver.parcels)
    assert network.mails <= parcels + 2 + len(network.receiver.receipts)


@pytest.mark.parametrize("way", ["sender", "receiver"])
def test_one_way_dead(way) -> None:
    """Everything that goes to one side is lost."""
    network = Network()
    network.image(30)
    for _ in range(400):
        network.pass_time(60.0)
        network.flight = [one for one in network.flight if one[0] != way]
        while network.flight:
            network.deliver(0)
            network.flight = [one for one in network.flight if one[0] != way]
    assert network.sender.state is SenderState.UNCONFIRMED and network.sender.told
    if way == "sender":
        assert network.receiver.state is ReceiverState.COMPLETE, "it was filed, and only the receipts were lost"
        assert len(network.receiver.filings) == 1
    assert network.mails < 100
