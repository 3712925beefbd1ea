"""The parent of several workers: starts them, watches them, replaces them, and holds the sockets that they accept from.

1. Its children are its workers, and beside them agents and the process of webhooks (children.py). Each worker is a new
   Python, made by exec: it takes new code and a changed file of settings, but listens on the sockets that were bound at
   the start.
2. A listening socket is closed by the parent alone, at the very end: who waits in its queue is never refused, but
   accepted by the next worker of that number.
3. A worker leaves by draining; only one that stands still, or is not ready or not gone in time, is killed.
4. What a worker counted is kept when it is gone: no counter of `/metrics` goes back.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tornado_chat.config import Settings
from tornado_chat.errors import ConfigError
from tornado_chat.log.serving import serving
from tornado_chat.metrics import Counts, Levels, WorkerReport, add
from tornado_chat.processes import listeners
from tornado_chat.processes.children import Children, WebhooksProcess, agents_of, program
from tornado_chat.processes.control import Message, reconnects, spread
from tornado_chat.processes.listeners import Listeners
from tornado_chat.processes.systemd import Systemd
from tornado_chat.processes.workers import Slot, Worker, all_ready, launch
from tornado_chat.tasks import Tasks

logger = logging.getLogger(__name__)

START_SECONDS = 60.0
"""A worker that is not ready by then is given up."""

LEAVE_SECONDS = 35.0
"""A worker that was told to drain is killed after this; by itself it is gone after 28."""

IMPATIENT_SECONDS = 1.0
"""A second SIGTERM or SIGINT after this kills the workers; one sooner is the first, sent to us and to our group."""

PAUSE_SECONDS = 5.0
"""How long a roll waits for the old workers to say that they accept no more."""

REPORTS_SECONDS = 0.5
"""How long a scrape waits for the reports of the workers; of one that says nothing the last report counts."""

SWEEP_SECONDS = 1.0
HUNG_SWEEPS = 30
"""A worker of which nothing was heard in so many sweeps stands still, and is killed. Not seconds: after a pause of the
parent itself (a machine that slept) what the workers said meanwhile is still to be read."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
"""Seconds before a worker is started again, doubled each time; the first time it is started at once."""

BOUND_AT_THE_START = "host", "port", "unix_socket", "workers", "agent"
"""Settings that a roll does not change: the sockets stay, one for each worker."""

PATIENT_SECONDS = 3.0
"""Newcomers wait so long for a worker that is started again at once; where it is started later, they are answered."""

LONG_LIFE_SECONDS = 10.0
"""A worker that lived this long is started again without a pause."""


def supervise(settings: Settings, arguments: Sequence[str], load: Callable[[], Settings]) -> int:
    """Run `settings.workers` processes until SIGTERM or SIGINT; the exit code.

    `arguments`: those of the command, from which each worker makes its settings anew, as `load` does here. ConfigError
    if the sockets cannot be had.
    """
    return asyncio.run(_supervise(settings, arguments, load))


async def _supervise(settings: Settings, arguments: Sequence[str], load: Callable[[], Settings]) -> int:
    made = listeners.listen(settings)
    try:
        return await Supervisor(settings, made, arguments, load, Systemd(os.environ, os.getpid())).run()
    finally:
        listeners.close(made)


class Supervisor:
    """See the module; `run` is its life."""

    def __init__(
        self,
        settings: Settings,
        made: list[Listeners],
        arguments: Sequence[str],
        load: Callable[[], Settings],
        systemd: Systemd,
    ) -> None:
        self.settings = settings
        self.slots = [Slot(number, some) for number, some in enumerate(made, 1)]
        self.workers: set[Worker] = set()  # every process that is not reaped, old and new
        self.systemd = systemd
        self._command = [*program(), *arguments]
        self._agents: Children | None = None  # until the workers serve
        self._webhooks = WebhooksProcess(settings)
        self._load = load
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks()
        self._changes = Tasks()  # those that may start a worker: a stop ends them first
        self._terminal = os.isatty(0)
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._stopped_at = 0.0
        self._killed = False
        self._started = False  # every worker has been ready once
        self._roll_wanted = asyncio.Event()
        self._report_numbers = itertools.count(1)
        self._asked: dict[int, tuple[set[Worker], asyncio.Future[None]]] = {}

    async def run(self) -> int:
        handlers = {
            signal.SIGCHLD: self._reap,
            signal.SIGTERM: self._stop,
            signal.SIGINT: self._stop,
            signal.SIGHUP: self._hang_up,
            signal.SIGUSR1: self._ask_for_load,
        }
        for number, handler in handlers.items():
            self._loop.add_signal_handler(number, handler)
        try:
            code = await self._start()
            if code is None:
                self._tasks.spawn(self._sweep())
                self._tasks.spawn(self._feed_watchdog())
                self._changes.spawn(self._roll_when_wanted())
                with serving(self.settings):
                    await self._stopped
                code = 0
            self.systemd.stopping()
            await self._stop_children()
            await self._drain_all()
        finally:
            await self._stop_children()
            await self._changes.stop()
            await self._tasks.stop()
            for worker in self.workers:  # after a fault of ours only
                worker.process.kill()
                worker.process.wait()
            for number in handlers:  # a further signal must not end us with its own exit code
                self._loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)
        return 1 if self._killed else code

    async def _stop_children(self) -> None:
        if self._agents is not None:
            await self._agents.stop()
        await self._webhooks.stop()

    # Start and stop

    async def _start(self) -> int | None:
        """Start all workers and wait until they are ready; the exit code if that fails, or is not wanted any more."""
        for slot in self.slots:
            slot.worker = await self._launch(slot)
        workers = list(self.workers)
        ready = asyncio.create_task(all_ready(workers))
        either: list[asyncio.Future[Any]] = [ready, self._stopped]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self._stopped.done():
            ready.cancel()
            return 0
        for worker in workers:
            if worker.refused is not None:
                print(f"tornado-chat: error: {worker.refused['error']}", file=sys.stderr, flush=True)
                return int(worker.refused["code"])
        if not ready.result():
            return 1  # how it ended was logged
        self._started = True
        # One port, or one socket file for each.
        lines = list(dict.fromkeys(listeners.address(slot.listeners) for slot in self.slots))
        for line in lines:
            print(f"listening on {line}", flush=True)
        self._agents = agents_of(self.settings, lines[0])
        self._agents.start()
        self._tell_ready()
        return None

    def _hang_up(self) -> None:
        if self._terminal and not os.isatty(0):
            self._stop()  # it says that our terminal was closed
        else:
            self._roll_wanted.set()

    def _ask_for_load(self) -> None:
        """Let each worker write to the log who causes load; one that leaves may not listen any more, and die of it."""
        for worker in self.workers:
            if not worker.leaving:
                worker.process.send_signal(signal.SIGUSR1)

    def _stop(self) -> None:
        now = self._loop.time()
        if not self._stopped.done():
            self._stopped.set_result(None)
            self._stopped_at = now
        elif not self._killed and now - self._stopped_at > IMPATIENT_SECONDS:
            self._killed = True
            logger.warning("killing the workers: a second signal came")
            for worker in self.workers:
                worker.process.kill()

    async def _drain_all(self) -> None:
        for slot in self.slots:
            slot.stop_timer()
            slot.stand_in.close()
        await self._changes.stop()
        logger.info("stopping workers=%d", len(self.workers))
        share = reconnects(len(self.slots), sharing=len(self.slots))
        await asyncio.gather(*(self._drain(worker, share) for worker in list(self.workers)))
        logger.info("stopped")

    async def _drain(self, worker: Worker, share: float) -> None:
        """Let `worker` leave, `share` clients a second coming back; it is gone when this returns."""
        worker.leaving = True
        if worker.is_ready:
            worker.pipe.send("drain", reconnects=share)
        elif not worker.exited.done():
            worker.process.terminate()  # it does not listen to us yet
        await asyncio.wait({worker.exited}, timeout=LEAVE_SECONDS)
        if not worker.exited.done():
            logger.error("worker killed: it did not leave in time worker=%d pid=%d", worker.number, worker.process.pid)
            worker.process.kill()
            await asyncio.wait({worker.exited})

    def _tell_ready(self) -> None:
        self.systemd.ready(f"{len(self.slots)} workers serve")

    # One worker

    async def _launch(self, slot: Slot) -> Worker:
        worker = await launch(slot, len(self.slots), self._command)
        self.workers.add(worker)
        self._tasks.spawn(self._attend(worker, slot))
        logger.info("worker started worker=%d pid=%d", slot.number, worker.process.pid)
        return worker

    async def _fill(self, slot: Slot) -> None:
        """Start the worker that `slot` lacks."""
        slot.timer = None
        try:
            worker = await self._launch(slot)
        except OSError as error:
            logger.error("worker not started worker=%d reason=%s", slot.number, error)
            self._fill_later(slot, 0.0)
        else:
            if slot.worker is None:
                slot.worker = worker
            else:  # a roll was quicker
                self._tasks.spawn(self._drain(worker, reconnects(len(self.slots))))

    def _fill_later(self, slot: Slot, life: float) -> None:
        """The worker of `slot` lived for `life` seconds, and another shall follow."""
        slot.worker = None
        if life >= LONG_LIFE_SECONDS:
            slot.failures = 0
        slot.restarts += 1
        pause = min(LONGEST_PAUSE, SHORTEST_PAUSE * 2 ** (slot.failures - 1)) if slot.failures else 0.0
        slot.failures += 1
        slot.stand_in.start(0.0 if pause else PATIENT_SECONDS)
        slot.timer = self._loop.call_later(pause, lambda: self._changes.spawn(self._fill(slot)))

    async def _attend(self, worker: Worker, slot: Slot) -> None:
        """Hear what `worker` says until it is gone, then see to what that means."""
        timer = self._loop.call_later(START_SECONDS, self._give_up, worker)
        while (message := await worker.pipe.receive()) is not None:
            worker.silent = 0
            try:
                self._on_message(worker, slot, message)
            except Exception:  # it may be of another version than we are
                logger.exception("worker killed: not understood worker=%d", worker.number)
                worker.process.kill()
        code = await worker.exited
        timer.cancel()
        await worker.pipe.close()
        self.workers.remove(worker)
        add(slot.ended, worker.counts)
        if not worker.ready.done():
            worker.ready.set_result(False)
        for asked, answered in self._asked.values():
            asked.discard(worker)
            if not asked and not answered.done():
                answered.set_result(None)
        self._tell_how_it_ended(worker, code)
        if worker.uid is not None:
            for other in self.workers:
                other.pipe.send("died", uid=worker.uid)
        if slot.worker is worker and self._started and not self._stopped.done():
            self._fill_later(slot, self._loop.time() - worker.started_at)

    def _give_up(self, worker: Worker) -> None:
        if not worker.ready.done() and not worker.leaving:
            logger.error("worker killed: it was not ready in time worker=%d pid=%d", worker.number, worker.process.pid)
            worker.process.kill()

    def _tell_how_it_ended(self, worker: Worker, code: int) -> None:
        if worker.refused is not None:
            if self._started:
                logger.error("worker cannot start worker=%d reason=%s", worker.number, worker.refused["error"])
            return
        expected = worker.leaving and code in (0, -signal.SIGTERM)  # the latter: it had hardly begun
        level = logging.INFO if expected else logging.ERROR
        if code < 0:
            # A real-time signal has no name.
            how = signal.Signals(-code).name if -code in {*signal.Signals} else str(-code)
            logger.log(level, "worker ended worker=%d pid=%d signal=%s", worker.number, worker.process.pid, how)
        else:
            logger.log(level, "worker ended worker=%d pid=%d code=%d", worker.number, worker.process.pid, code)

    def _on_message(self, worker: Worker, slot: Slot, message: Message) -> None:
        match message["type"]:
            case "ready":
                worker.uid = message["uid"]
                worker.ready.set_result(True)
                slot.stand_in.stop()
            case "failed":
                worker.refused = message
            case "report":
                worker.counts, worker.levels = message["counts"], message["levels"]
                if worker.levels.get("webhooks"):
                    self._webhooks.want()
                asked, answered = self._asked.get(message["answers"], (set(), None))
                asked.discard(worker)
                if answered is not None and not asked and not answered.done():
                    answered.set_result(None)
            case "scrape":
                self._tasks.spawn(self._answer_scrape(worker))
            case "paused":
                if not worker.paused.done():
                    worker.paused.set_result(None)
            case "leaving":
                worker.leaving = True
                if slot.worker is worker and not self._stopped.done():
                    self._fill_later(slot, self._loop.time() - worker.started_at)
                self._tasks.spawn(self._drain(worker, reconnects(len(self.slots) - 1)))  # for its time limit

    def _reap(self) -> None:
        for worker in self.workers:
            code = worker.process.poll()
            if code is not None and not worker.exited.done():
                worker.exited.set_result(code)
                if not worker.paused.done():
                    worker.paused.set_result(None)

    # Metrics and health

    async def _answer_scrape(self, scraped: Worker) -> None:
        asked = {worker for worker in self.workers if worker.is_ready}
        if asked:
            number = next(self._report_numbers)
            answered: asyncio.Future[None] = self._loop.create_future()
            self._asked[number] = asked, answered
            for worker in asked:
                worker.pipe.send("report", number=number)
            await asyncio.wait({answered}, timeout=REPORTS_SECONDS)
            del self._asked[number]
        scraped.pipe.send("metrics", workers=[self._report(slot) for slot in self.slots])

    def _report(self, slot: Slot) -> WorkerReport:
        """Of all processes that have or had this place; two of them while one takes over from the other."""
        counts: Counts = {}
        add(counts, slot.ended)
        levels: Levels = {}
        started = 0.0
        for worker in self.workers:
            if worker.number == slot.number:
                add(counts, worker.counts)
                for name, value in worker.levels.items():
                    levels[name] = levels.get(name, 0.0) + value
                started = max(started, worker.started)
        return WorkerReport(worker=slot.number, started=started, restarts=slot.restarts, counts=counts, levels=levels)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for worker in self.workers:
                worker.silent += 1
                if worker.is_ready and worker.silent == HUNG_SWEEPS:
                    logger.error("worker killed: it stands still worker=%d pid=%d", worker.number, worker.process.pid)
                    worker.process.kill()

    async def _feed_watchdog(self) -> None:
        while self.systemd.watchdog is not None:
            if all(worker.silent <= HUNG_SWEEPS for worker in self.workers if worker.is_ready):
                self.systemd.alive()
            await asyncio.sleep(self.systemd.watchdog)

    # A roll

    async def _roll_when_wanted(self) -> None:
        while True:
            await self._roll_wanted.wait()
            self._roll_wanted.clear()
            self.systemd.reloading()
            await self._roll()
            self._tell_ready()

    def _tell_what_stays(self) -> None:
        try:
            wanted = self._load()
        except ConfigError:
            return  # each new worker will say so
        for name in BOUND_AT_THE_START:
            stays = getattr(self.settings, name)
            if getattr(wanted, name) != stays:
                logger.warning("a setting changes with a restart only setting=%s stays=%s", name, stays)

    async def _roll(self) -> None:
        """Replace all workers: the new ones accept before the first of the old ones leaves."""
        logger.info("replacing the workers workers=%d", len(self.slots))
        self._tell_what_stays()
        new: list[Worker] = []
        try:
            for slot in self.slots:
                new.append(await self._launch(slot))
        except OSError as error:
            logger.error("worker not started worker=%d reason=%s", len(new) + 1, error)
        ready = await all_ready(new)
        if len(new) < len(self.slots) or not ready or any(worker.exited.done() for worker in new):
            logger.error("workers not replaced: a new one did not start; the old ones go on")
            share = reconnects(len(self.slots))
            await asyncio.gather(*(self._drain(worker, share) for worker in new))
            return
        for slot, worker in zip(self.slots, new, strict=True):
            slot.stop_timer()
            slot.worker, slot.failures = worker, 0
        old = sorted((worker for worker in self.workers if worker not in new), key=lambda worker: worker.number)
        for worker in old:
            worker.leaving = True
            worker.pipe.send("pause")
        if old:
            await asyncio.wait({worker.paused for worker in old}, timeout=PAUSE_SECONDS)
        share = reconnects(len(self.slots))
        for worker in old:
            clients = int(worker.levels.get("connections", 0))
            await self._drain(worker, share)
            if clients and worker is not old[-1]:
                await asyncio.sleep(spread(clients, share))  # the next one's clients come after these
        if self._agents is not None:
            self._agents.restart()
        self._webhooks.restart()
        logger.info("workers replaced")
