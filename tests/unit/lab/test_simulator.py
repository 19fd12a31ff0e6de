"""The simulator: every weather keeps its promises, a seed says the same twice, a trace can be read."""

import pytest

from raypost.lab.simulator.play import Play
from raypost.lab.simulator.run import main, play_seeds, tally
from raypost.lab.simulator.weather import WEATHERS, weather_of
from raypost.transfer import responsibility
from raypost.transfer.responsibility import Decision

SEEDS = 56


def test_every_weather_keeps_its_promises_and_budgets() -> None:
    outcomes = play_seeds([(seed, weather_of(seed).name) for seed in range(SEEDS)], 1)
    tallies, broken = tally(outcomes)
    assert not broken, broken[0].broken
    assert {one.weather for one in outcomes} == set(WEATHERS)
    assert not [word for one in tallies for word in one.broken()]
    assert sum(one.transfers for one in tallies) >= 8 * SEEDS


@pytest.mark.parametrize("name", WEATHERS)
def test_a_seed_is_the_same_twice(name) -> None:
    prints = []
    for _ in range(2):
        play = Play(7, WEATHERS[name], is_traced=True)
        play.run()
        prints.append(play.world.fingerprint())
    assert prints[0] == prints[1]


def test_a_trace_can_be_read(capsys) -> None:
    assert main(["--seed", "3", "--weather", "relay-dead"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("seed 3, weather relay-dead") and "all promises kept" in said
    assert "delivered" in said


def test_a_broken_promise_names_its_seed(capsys, monkeypatch) -> None:
    monkeypatch.setattr(responsibility, "decide_take", lambda asking, *_, **__: Decision(asking, is_new=True))
    assert main(["--seeds", "8", "--weather", "chaos", "--processes", "1"]) == 1
    assert "BROKEN BrokenPromiseError: the case of one centre was given to another one: make seed S=" in (
        capsys.readouterr().out
    )
