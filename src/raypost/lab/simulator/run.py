"""Plays many seeds on all processors, or one with a readable trace."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import monotonic

from raypost.errors import RaypostError
from raypost.lab.simulator.budgets import Tally, table
from raypost.lab.simulator.figures import Figures
from raypost.lab.simulator.play import Play
from raypost.lab.simulator.promises import BrokenPromiseError
from raypost.lab.simulator.weather import WEATHERS, weather_of
from raypost.lab.simulator.world import RunawayError

CHUNK = 8
COLLECT_EVERY = 20
SHOWN_MAX = 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a seed gave: figures, or what broke."""

    seed: int
    weather: str
    figures: Figures | None
    broken: str = ""


def play_seed(order: tuple[int, str]) -> Outcome:
    """Play a seed.

    Args:
        order: Its number and the name of the weather.
    """
    seed, name = order
    gc.disable()  # a seed is thrown away whole
    if seed % COLLECT_EVERY == 0:
        gc.collect()
    play = Play(seed, WEATHERS[name])
    try:
        return Outcome(seed, name, play.run())
    except (BrokenPromiseError, RunawayError, RaypostError, AssertionError, KeyError) as error:
        return Outcome(seed, name, None, f"{type(error).__name__}: {error}")


def play_seeds(orders: Iterable[tuple[int, str]], processes: int) -> list[Outcome]:
    """Play many seeds, in as many processes."""
    if processes == 1:
        return [play_seed(order) for order in orders]
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        return list(pool.imap_unordered(play_seed, orders, CHUNK))


def tally(outcomes: Iterable[Outcome]) -> tuple[list[Tally], list[Outcome]]:
    """Add the figures of each weather up; return them and the seeds that broke."""
    tallies = {name: Tally(name) for name in WEATHERS}
    broken = []
    for one in sorted(outcomes, key=lambda one: one.seed):
        if one.figures is None:
            broken.append(one)
        else:
            tallies[one.weather].add(one.seed, one.figures)
    return [one for one in tallies.values() if one.seeds], broken


def main(arguments: Sequence[str] | None = None) -> int:
    """Play what is ordered; return 1 when a promise or a budget was broken."""
    parser = argparse.ArgumentParser(prog="raypost.lab.simulator", description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="how many, from 0")
    parser.add_argument("--seed", type=int, help="this one alone, with its trace")
    parser.add_argument("--weather", choices=WEATHERS, help="the same for all; otherwise each seed has its own")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    words = parser.parse_args(arguments)
    if words.seed is not None:
        return _show(words.seed, words.weather)
    began_s = monotonic()
    orders = [(seed, words.weather or weather_of(seed).name) for seed in range(words.seeds)]
    tallies, broken = tally(play_seeds(orders, words.processes))
    took_s = monotonic() - began_s
    print(table(tallies))
    events, transfers = sum(one.events for one in tallies), sum(one.transfers for one in tallies)
    print(f"{words.seeds} seeds, {transfers} transfers, {events} events in {took_s:.0f} s")
    for one in broken[:SHOWN_MAX]:
        print(f"BROKEN {one.broken}: make seed S={one.seed} WEATHER={one.weather}")
    if len(broken) > SHOWN_MAX:
        print(f"BROKEN and {len(broken) - SHOWN_MAX} more")
    over = [word for one in tallies for word in one.broken()]
    for word in over:
        print(f"OVER BUDGET {word}")
    return 1 if broken or over else 0


def _show(seed: int, weather: str | None) -> int:
    play = Play(seed, WEATHERS[weather or weather_of(seed).name], is_traced=True)
    broken = ""
    try:
        play.run()
    except (BrokenPromiseError, RunawayError, RaypostError, AssertionError, KeyError) as error:
        broken = f"{type(error).__name__}: {error}"
    sys.stdout.write("\n".join([f"seed {seed}, weather {play.weather.name}", *(play.world.lines or ())]) + "\n")
    print(f"BROKEN {broken}" if broken else f"all promises kept; trace {play.world.fingerprint()[:16]}")
    return 1 if broken else 0
