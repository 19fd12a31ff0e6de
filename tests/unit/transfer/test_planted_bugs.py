"""Faults planted into the machines, one at a time: each must be noticed by the simulator. The list stays as a record."""

import dataclasses

import pytest

from raypost.lab.simulator.run import play_seed, tally
from raypost.transfer import failover, receipts, receiver, responsibility, sender, taking
from raypost.transfer.receipts import FinalVerdict
from raypost.transfer.receiver import ReceiverState
from raypost.transfer.responsibility import Decision
from raypost.transfer.taking import ParcelNews

replace = dataclasses.replace


def step(**changes):
    return lambda machine, *facts: replace(machine(*facts), **changes)


def takes_everything(machine, state, entries, **known) -> ParcelNews:
    return ParcelNews(False, False, frozenset(one.instance.sha256 for one in entries))


def takes_recalled(machine, state, entries, **known) -> ParcelNews:
    return machine(ReceiverState.ARRIVING, entries, **known)


def all_filed(machine, receipt, instances) -> FinalVerdict:
    return FinalVerdict(instances, frozenset(), frozenset())


def always_final(machine, head, **said):
    return replace(machine(head, **said), is_final=True)


BUGS = {
    "a receipt is never written": ("fair", [(receiver, "next_step", step(write_receipt=False))]),
    "parcels are filed twice": ("storm", [(taking, "take_parcel", takes_everything)]),
    "what is missing is never asked for": ("storm", [(receiver, "next_step", step(asks=False))]),
    "delivered without a hash": (
        "storm",
        [(receipts, "write_receipt", always_final), (receipts, "judge_final", all_filed)],
    ),
    "small messages are never repeated": (
        "storm",
        [(sender, "note_due_s", lambda *_: None), (receiver, "note_due_s", lambda *_: None)],
    ),
    "nobody is told": ("centre-dead", [(sender, "next_step", step(tell=False))]),
    "back-off without bound": ("storm", [(sender, "_expires_s", lambda machine, *facts: machine(*facts) + 1e7)]),
    "a silent centre is never left": (
        "centre-dead",
        [(sender, "next_step", lambda machine, facts, *rest: machine(replace(facts, reroute_after_s=None), *rest))],
    ),
    "two centres are responsible": (
        "chaos",
        [(responsibility, "decide_take", lambda machine, asking, *_, **__: Decision(asking, is_new=True))],
    ),
    "a dead relay is never left": (
        "relay-dead",
        [(failover, "choose", lambda machine, relays, **_: min(relays, key=lambda one: one.position).name)],
    ),
    "a relay that swallows is never found out": ("relay-swallows", [(sender, "next_step", step(switch_relay=False))]),
    "what was recalled is filed": ("chaos", [(taking, "take_parcel", takes_recalled)]),
    "doubles are answered without bound": ("storm", [(receiver, "_may_write_s", lambda *_: 0.0)]),
    "an emergency goes by one relay": ("mild", [(failover, "goes_by_all", lambda *_: False)]),
    "a lost manifest is never repeated": ("storm", [(sender, "next_step", step(repeat_manifest=False))]),
}
SEEDS_MAX = 40


@pytest.mark.parametrize("name", BUGS)
def test_the_bug_is_noticed(name, monkeypatch) -> None:
    weather, planted = BUGS[name]
    for module, attribute, fault in planted:
        machine = getattr(module, attribute)
        monkeypatch.setattr(
            module, attribute, lambda *args, _machine=machine, _fault=fault, **kwargs: _fault(_machine, *args, **kwargs)
        )
    outcomes = []
    for seed in range(SEEDS_MAX):
        outcomes.append(play_seed((seed, weather)))
        tallies, broken = tally(outcomes)
        if broken or any(one.broken() for one in tallies):
            return
    raise AssertionError(f"{SEEDS_MAX} seeds in {weather} weather noticed nothing")
