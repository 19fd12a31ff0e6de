"""Put a job into the queue in the same transaction as the change it belongs to; run jobs; rescue those of the dead.

A thin layer over procrastinate. Rows are the truth and jobs are wake-ups: losing one costs time, never an image,
because every row that is not final has a due instant which the sweep finds. What procrastinate does not do by itself
stands here: a job's end is written however long the database is away, jobs of dead workers come back within seconds,
and the worker survives a database restart.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import procrastinate
import psycopg
import sqlalchemy as sa
import structlog
from procrastinate import exceptions, jobs, manager
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from raypost.archive.database import Database, Transaction
from raypost.errors import RaypostError

HEARTBEAT_S = 2
DEAD_AFTER_S = 6
POLL_S = 1.0
GRACE_S = 8
ATTEMPTS_MAX = 1000
RETRY_FIRST_MS = 100
RETRY_WAIT_MAX_S = 15
WRITE_PAUSE_MAX_S = 5.0
LISTEN_PAUSE_S = 0.5
RESCUER = 4711
WORKERS = 4712
QUEUE = "stations"

log = structlog.get_logger("raypost.queue")

_in_transaction = manager.JobManager(procrastinate.SyncPsycopgConnector())
"""Never opened: writes jobs on the caller's own connection only."""


def enqueue(
    tx: Transaction,
    task: str,
    *,
    once: str | None = None,
    unless_running: bool = False,
    rank: int = 0,
    **arguments: int | str,
) -> None:
    """Queue a job in the transaction; it starts some milliseconds after the commit.

    Args:
        task: Name of a station's job.
        once: Not if a job with this lock is still waiting.
        unless_running: Not if one is at work either. It looks for more before it ends; what comes in the moment after
            that look is found by the sweep, so this is only for work whose rows have a due instant.
        rank: Higher starts first.
        arguments: Numbers and names of rows, never content.
    """
    tx.flush()
    if once and tx.scalar(_RUNNING if unless_running else _WAITING, {"lock": once}):
        return
    job = jobs.Job(
        id=None,
        queue=QUEUE,
        task_name=task,
        priority=rank,
        lock=None,
        queueing_lock=once,
        task_kwargs=dict(arguments),
        scheduled_at=None,
    )
    try:
        with tx.begin_nested():  # a savepoint: a duplicate must not spoil the whole transaction
            _in_transaction.defer_job(job, connection=tx.connection().connection.driver_connection)
    except exceptions.AlreadyEnqueued:
        pass


_WAITING = sa.text("select 1 from procrastinate_jobs where queueing_lock = :lock and status = 'todo'")
_RUNNING = sa.text("select 1 from procrastinate_jobs where queueing_lock = :lock and status in ('todo', 'doing')")


class _InsistentJobManager(manager.JobManager):
    """A job whose end cannot be written would stay `doing` for ever while its worker lives: keep trying."""

    async def finish_job(self, job: jobs.Job, status: jobs.Status, delete_job: bool) -> None:
        """Write a job's end."""
        await self._insist(super().finish_job, {"job": job, "status": status, "delete_job": delete_job})

    async def retry_job(self, job: jobs.Job, *decision: Any, **words: Any) -> None:
        """Write that a job shall run again."""
        names = ("retry_at", "priority", "queue", "lock")
        await self._insist(super().retry_job, {"job": job, **dict(zip(names, decision, strict=False)), **words})

    async def _insist(self, call: Callable[..., Any], words: dict[str, Any]) -> None:
        pause_s = 0.2
        while True:
            try:
                await call(**words)
                return
            except exceptions.UniqueViolation:  # its twin waits already and does the same work
                words = {"job": words["job"], "status": jobs.Status.FAILED, "delete_job": True}
                call = super().finish_job
            except exceptions.ConnectorException as error:
                if isinstance(error.__cause__, psycopg.errors.RaiseException):
                    return  # not `doing` any more: it was rescued meanwhile
                log.warning("job end not written yet", job=words["job"].task_name)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, WRITE_PAUSE_MAX_S)


class _InsistentConnector(procrastinate.PsycopgConnector):
    """The library's listener ends when the database is away at the moment it connects again: keep trying.

    Without it every job would wait for the next poll, a second each, for as long as the process lives.
    """

    async def listen_notify(self, on_notification: Any, channels: Iterable[str]) -> None:
        """Listen until cancelled."""
        names = list(channels)
        while True:
            try:
                await super().listen_notify(on_notification, names)
            except (exceptions.ConnectorException, psycopg.Error, OSError):
                await asyncio.sleep(LISTEN_PAUSE_S)


class Worker:
    """Runs the jobs of one process."""

    def __init__(self, database: Database, tasks: Mapping[str, Callable[..., None]], *, threads: int) -> None:
        """Register the stations' jobs.

        Args:
            tasks: Name of a job to the function that does it, in a thread.
            threads: How many run at once.
        """
        self._database = database
        self._threads = threads
        connector = _InsistentConnector(conninfo=database.url, min_size=1, max_size=4, timeout=10)
        self._app = procrastinate.App(connector=connector)
        self._app.job_manager = _InsistentJobManager(connector)
        for name, function in tasks.items():
            self._app.task(name=name, queue=QUEUE, retry=_Backoff())(_quiet(name, function))
        self._guard: sa.Connection | None = None

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; database trouble is waited out."""
        asyncio.run(self._run(stop))

    async def _run(self, stop: threading.Event) -> None:
        ended = asyncio.create_task(asyncio.to_thread(stop.wait))
        while not stop.is_set():
            working = asyncio.create_task(self._work())
            await asyncio.wait({working, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                working.cancel()
            try:
                await working
            except asyncio.CancelledError:
                pass
            except (exceptions.ProcrastinateException, psycopg.Error, OSError) as error:
                log.warning("worker starts again", cause=type(error).__name__)
            if not stop.is_set():
                await asyncio.wait({ended}, timeout=1)

    async def _work(self) -> None:
        async with self._app.open_async():
            await self._app.run_worker_async(
                concurrency=self._threads,
                fetch_job_polling_interval=POLL_S,
                update_heartbeat_interval=HEARTBEAT_S,
                stalled_worker_timeout=DEAD_AFTER_S,
                delete_jobs="successful",
                install_signal_handlers=False,
                shutdown_graceful_timeout=GRACE_S,
            )

    def rescue_at_start(self) -> None:
        """Put orphaned jobs back before this worker begins; all of them when no other worker lives."""
        try:
            is_alone = self._hold_worker_lock()
            with self._database.transaction() as tx:
                rescue_jobs(tx, 0 if is_alone else DEAD_AFTER_S)
        except RaypostError as error:
            log.warning("no rescue at start", code=error.code, what=error.what)

    def rescue(self) -> int:
        """Put jobs of dead workers back into the queue; return how many. Called every second, not a job itself.

        Raises:
            UnreachableError: The database is away.
        """
        self._hold_worker_lock()
        with self._database.transaction() as tx:
            return rescue_jobs(tx, DEAD_AFTER_S)

    def _hold_worker_lock(self) -> bool:
        """Hold the lock that says "a worker lives here"; say whether no other worker held it.

        PostgreSQL drops the lock when this process dies; a database restart takes it away, so it is looked after.
        """
        try:
            if self._guard is not None:
                self._guard.execute(sa.text("select 1"))
                return False
        except (OperationalError, InterfaceError):
            self._guard = None
        try:
            guard = self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            is_alone = bool(guard.scalar(sa.select(sa.func.pg_try_advisory_lock(WORKERS))))
            guard.execute(sa.select(sa.func.pg_advisory_lock_shared(WORKERS)))
            if is_alone:
                guard.execute(sa.select(sa.func.pg_advisory_unlock(WORKERS)))
        except (OperationalError, InterfaceError, PoolTimeoutError):
            return False
        self._guard = guard
        return is_alone


def rescue_jobs(tx: Transaction, dead_after_s: float) -> int:
    """Return jobs of workers without a heartbeat to the queue; at most one rescuer at a time.

    First the workers are pruned (that sets worker_id of their jobs to null), then the jobs are taken: the same lock
    order as procrastinate's own, else deadlocks.
    """
    if not tx.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(RESCUER))):
        return 0
    tx.execute(sa.text("select procrastinate_prune_stalled_workers_v1(:seconds)"), {"seconds": dead_after_s})
    orphans = tx.scalars(
        sa.text("select id from procrastinate_jobs where status = 'doing' and worker_id is null for update skip locked")
    ).all()
    for job_id in orphans:
        try:
            with tx.begin_nested():
                tx.execute(sa.text("select procrastinate_retry_job_v2(:id, now(), null, null, null)"), {"id": job_id})
        except IntegrityError:  # its twin waits already and does the same work
            tx.execute(sa.text("select procrastinate_finish_job_v1(:id, 'failed', true)"), {"id": job_id})
    if orphans:  # a retry wakes nobody by itself
        wake = '{"type":"job_inserted","job_id":0}'
        tx.execute(sa.select(sa.func.pg_notify("procrastinate_any_queue_v1", wake)))
    return len(orphans)


def workers_alive(tx: Transaction) -> int:
    """Return how many workers gave a sign of life lately."""
    query = "select count(*) from procrastinate_workers where last_heartbeat > now() - make_interval(secs => :seconds)"
    return int(tx.scalar(sa.text(query), {"seconds": DEAD_AFTER_S}) or 0)


class _Backoff(procrastinate.BaseRetryStrategy):
    """Wait twice as long after each failure, never longer than RETRY_WAIT_MAX_S."""

    def get_retry_decision(self, *, exception: BaseException, job: jobs.Job) -> procrastinate.RetryDecision | None:
        """Decide when a failed job runs again."""
        if job.attempts >= ATTEMPTS_MAX:
            return None
        wait_ms = min(RETRY_FIRST_MS * 2 ** min(job.attempts, 10), RETRY_WAIT_MAX_S * 1000)
        return procrastinate.RetryDecision(retry_in={"milliseconds": wait_ms})


def _quiet(name: str, function: Callable[..., None]) -> Callable[..., None]:
    """Log expected failures in one line: they are retried, the traceback helps nobody. Others are faults of ours."""

    def _job(**arguments: int | str) -> None:
        try:
            function(**arguments)
        except RaypostError as error:
            log.warning("job failed, tried again later", job=name, code=error.code, what=error.what, **arguments)
            raise
        except Exception:
            log.exception("job failed by a fault in this program, tried again later", job=name, **arguments)
            raise

    return _job
