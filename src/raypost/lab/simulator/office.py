"""A site's worker: jobs in the order of their urgency, the sweep that wakes what is due, and station 4, pack."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from raypost.lab.simulator import incoming, outgoing, parcels, planned
from raypost.lab.simulator.composing import by_wire, compose, listed_count
from raypost.lab.simulator.desk import Desk, Times
from raypost.lab.simulator.rows import Incoming, Ledger, MessageRow, Outgoing
from raypost.lab.simulator.world import World
from raypost.model.transfer import MessageState
from raypost.transfer.control import Message
from raypost.transfer.limits import is_due
from raypost.transfer.sender import OPEN

WORKERS = 4
SEAL_S = 0.040
FILE_S = 0.035
BYTES_PER_S = 60e6
CONTROL_BYTES = 3_000
ENTRY_BYTES = 260
SWEEP_S = 1.0

Job = Callable[[], "tuple[float, Callable[[], None]] | None"]
"""Begins when a worker is free; returns how long it takes and what it commits at the end, or None: nothing to do."""


class Office(Desk):
    """The jobs of a site.

    Attributes:
        life: Grows with each crash: what an earlier life began ends nowhere.
        key_expired: From when until when nobody can seal for this site or believe its signature, by the world's time.
        doom: The commit point at which the site is killed next; empty: none.
        greets: Says whether signs of life are sent at all now.
        greet: Lets everybody send them, for so many seconds.
        on_note: Hears of every event.
        on_arm: Hears of every decision what a transfer waits for.
    """

    def __init__(self, name: str, world: World, times: Times, ledger: Ledger, skew_s: float) -> None:
        self.name, self.world, self.times, self.ledger, self.skew_s = name, world, times, ledger, skew_s
        self.life = 0
        self.is_up = True
        self.up_since_s = 0.0
        self.doom = ""
        self.uses_wire = False
        self.key_expired: tuple[float, float] | None = None
        self.greets: Callable[[], bool] = lambda: False
        self.greet: Callable[[float], None] = lambda _: None
        self.neighbours: dict[str, Office] = {}
        self.on_note: Callable[[Office, str, Outgoing | Incoming, dict[str, Any]], None] = lambda *_: None
        self.on_arm: Callable[[Office, Outgoing | Incoming], None] = lambda *_: None
        self._forget_jobs()

    def _forget_jobs(self) -> None:
        self._jobs: list[tuple[int, int, Job]] = []
        self._serial = 0
        self._workers = WORKERS
        self._packing: set[str] = set()
        self._armed: dict[tuple[str, bool], float] = {}

    def has_key_expired(self) -> bool:
        """Say whether this site's certificate is out of date now."""
        return self.key_expired is not None and self.key_expired[0] <= self.world.now_s < self.key_expired[1]

    def dies_at(self, point: str) -> bool:
        """Say whether the site is killed at this commit point now."""
        return bool(self.doom) and self.doom == point

    def die(self) -> None:
        """Lose everything that is not committed."""
        raise NotImplementedError

    def ready(self, row: MessageRow) -> None:
        """Have a sealed message taken by a session of its relay."""
        raise NotImplementedError

    # jobs

    def enqueue(self, rank: int, job: Job) -> None:
        """Queue a job; the urgent ones go first."""
        self._serial += 1
        heapq.heappush(self._jobs, (-rank, self._serial, job))
        self._work()

    def _work(self) -> None:
        while self._workers and self._jobs:
            begun = heapq.heappop(self._jobs)[2]()
            if begun is not None:
                self._workers -= 1
                self.world.after(begun[0], self._end_job, self.life, begun[1])

    def _end_job(self, life: int, end: Callable[[], None]) -> None:
        if life == self.life:
            self._workers += 1
            end()
            self._work()

    # 2 settle: the sweep

    def arm(self, transfer: Outgoing | Incoming, due_s: float | None) -> None:
        """Write when somebody must look at a transfer again; the sweep looks every second."""
        transfer.due_s = due_s
        self.on_arm(self, transfer)
        if due_s is None:
            return
        word = (transfer.transfer_key, isinstance(transfer, Incoming))
        at_s = self._armed.get(word)
        if at_s is None or due_s < at_s:
            self._armed[word] = due_s
            wait_s = max(0.0, due_s - self.now())
            until_sweep_s = -(self.world.now_s + wait_s) % SWEEP_S
            self.world.after(wait_s + until_sweep_s, self._sweep, self.life, transfer, word, due_s)

    def _sweep(self, life: int, transfer: Outgoing | Incoming, word: tuple[str, bool], due_s: float) -> None:
        if life != self.life or self._armed.get(word) != due_s:
            return
        del self._armed[word]
        if transfer.due_s is None:
            return
        if not is_due(transfer.due_s, self.now() + 1e-6):
            self.arm(transfer, transfer.due_s)
        elif isinstance(transfer, Outgoing):
            outgoing.rearm_outgoing(self, transfer)
        else:
            incoming.rearm_incoming(self, transfer)

    def note(self, what: str, row: Outgoing | Incoming, **said: Any) -> None:
        """Record an event."""
        if self.world.lines is not None:
            words = " ".join(f"{name}={value}" for name, value in said.items())
            way = "to" if isinstance(row, Outgoing) else "from"
            self.world.say(self.name, f"{row.transfer_key[:6]} {way} {row.partner}: {what} {words}".rstrip())
        self.on_note(self, what, row, said)

    # 4 pack, and the job of 8 file

    def wake_file(self, transfer: Incoming, number: int) -> None:
        """Have a verified parcel filed."""
        seconds = FILE_S * len(transfer.entries[number])
        self.enqueue(transfer.priority.rank, lambda: (seconds, lambda: self._file(transfer, number)))

    def _file(self, transfer: Incoming, number: int) -> None:
        if self.dies_at("file"):
            self.die()
            return
        incoming.file_parcel(self, transfer, number)

    def wake_pack(self, transfer: Outgoing | Incoming) -> None:
        """Have the planned messages of a transfer packed; one job packs a transfer at a time."""
        if transfer.transfer_key not in self._packing:
            self._packing.add(transfer.transfer_key)
            self.enqueue(transfer.priority.rank, lambda: self._pack(transfer))

    def _pack(self, transfer: Outgoing | Incoming) -> tuple[float, Callable[[], None]] | None:
        if isinstance(transfer, Outgoing) and transfer.state in OPEN:
            parcels.plan_parcels(self, transfer)
        row = planned.next_planned(transfer)
        if row is None:
            self._packing.discard(transfer.transfer_key)
            return None
        seconds, message, size_bytes = self._composed(row, transfer.transfer_key)
        attempt = row.attempt
        return seconds, lambda: self._sealed(transfer, row, attempt, message, size_bytes)

    def _composed(self, row: MessageRow, key_of_message: str) -> tuple[float, Message, int]:
        message = compose(self, row, key_of_message)
        if self.uses_wire:
            message = by_wire(message)
        payload_bytes = sum(one.length_bytes for one in row.entries)
        size_bytes = CONTROL_BYTES + (payload_bytes + ENTRY_BYTES * listed_count(message)) * 66 // 48
        return SEAL_S + payload_bytes / BYTES_PER_S, message, size_bytes

    def _sealed(
        self, transfer: Outgoing | Incoming, row: MessageRow, attempt: int, message: Message, size_bytes: int
    ) -> None:
        if self.dies_at("seal"):
            self.die()
            return
        if row.state is MessageState.PLANNED and row.attempt == attempt:
            self._queue(row, message, size_bytes)
            if row.is_refused and isinstance(transfer, Outgoing):
                self.note("told", transfer, why="the partner's certificate has expired")
                outgoing.rearm_outgoing(self, transfer)
        self._packing.discard(transfer.transfer_key)
        self.wake_pack(transfer)

    def _queue(self, row: MessageRow, message: Message, size_bytes: int) -> None:
        relay = planned.relay_for(self, row)
        if self.neighbours[row.partner].has_key_expired() or relay is None:
            row.state = MessageState.REFUSED
            return
        row.state, row.relay, row.size_bytes = MessageState.QUEUED, relay, size_bytes
        row.sealed = message
        self.ready(row)

    def pack_hello(self, row: MessageRow, hello_key: str) -> None:
        """Have a sign of life sealed."""

        def _begin() -> tuple[float, Callable[[], None]]:
            seconds, message, size_bytes = self._composed(row, hello_key)
            return seconds, lambda: self._queue(row, message, size_bytes)

        self.enqueue(0, _begin)
