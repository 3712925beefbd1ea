"""One run: start what is to be verified, talk and do harm, let it settle, judge, clean up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

from tornado_chat.errors import ConfigError
from tornado_chat.verify import report
from tornado_chat.verify.address import ServerAddress
from tornado_chat.verify.calls import judge
from tornado_chat.verify.crowd import Crowd, NotStarted, Plan
from tornado_chat.verify.faults import FAULTS, NETWORK, Scene, harms
from tornado_chat.verify.findings import Finding
from tornado_chat.verify.installation import Installation
from tornado_chat.verify.ledger import Ledger
from tornado_chat.verify.model_server import ModelServer
from tornado_chat.verify.options import Options
from tornado_chat.verify.proxy import Proxy
from tornado_chat.verify.replicas import Replicas

LONGEST_HARM = 8.0
"""Seconds that a fault of the installation lasts, and that pass between two; a tenth of a short run."""


async def verify(options: Options) -> int:
    """The exit code: 0 if every promise held, 1 if not or if nothing could be verified. Ctrl-C ends it early."""
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    running: asyncio.Task[int] | None = None

    def stop() -> None:
        if ending.is_set() and running is not None:
            running.cancel()  # the second time: no report, only cleaning up, which nothing interrupts
        ending.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        async with _installation(options) as installation, _network(options, installation) as network:
            running = asyncio.create_task(_run(options, installation, network, ending))
            return await running
    except NotStarted as error:
        print(f"tornado-chat: error: {error}", file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        return 130
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def _installation(options: Options) -> AsyncIterator[Installation | None]:
    """Started, and gone in the end; None if a running one is driven."""
    if options.url is not None:
        yield None
        return
    with contextlib.ExitStack() as stack:
        if options.directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tornado-chat-verify-")))
            made = True
        else:
            directory = Path(options.directory)
            made = not directory.exists()
            directory.mkdir(parents=True, exist_ok=True)
            if any(directory.iterdir()):
                raise ConfigError(f"--directory: {options.directory!r} is not empty; give one that is, or a new one")
        if made and os.geteuid() == 0:
            directory.chmod(0o711)  # PostgreSQL runs as another user, who must get to its own directory
        installation = Installation(
            directory, workers=options.workers, postgresql=options.database == "postgresql", redis=options.redis
        )
        try:
            await installation.start()
            yield installation
        finally:
            await installation.stop()


def _url(options: Options, installation: Installation | None) -> str:
    url = installation.url if installation is not None else options.url
    assert url is not None
    return url


@contextlib.asynccontextmanager
async def _network(options: Options, installation: Installation | None) -> AsyncIterator[Proxy | None]:
    """What stands between some of the clients and the server; None if no harm is to be done there."""
    if not any(FAULTS[name].needs == NETWORK for name in options.faults):
        yield None
        return
    address = ServerAddress.of(_url(options, installation))
    async with Proxy(address.host, address.port) as proxy:
        yield proxy


async def _run(
    options: Options, installation: Installation | None, network: Proxy | None, ending: asyncio.Event
) -> int:
    dice = random.Random(options.seed)
    run = f"{random.getrandbits(40):010x}"  # not of the seed: rooms of a run are new
    ledger = Ledger([f"verify-{run}-{number + 1}" for number in range(options.rooms)])
    url = _url(options, installation)
    crowd = Crowd(
        ServerAddress.of(url),
        Plan(options.clients, options.rooms, options.rate, options.transports, options.faults),
        ledger,
        dice,
        secret=installation.secret if installation is not None else options.secret,
        token=options.token,
        through=network.port if network is not None else None,
        agent=options.agents > 0,
    )
    title = str(installation or url)
    out = sys.stderr if options.json else sys.stdout
    print(f"verify {title}, seed {options.seed}, faults: {', '.join(options.faults) or 'none'}", file=out, flush=True)
    trouble: list[str] = []
    try:
        await crowd.start()
        async with _agent(options, url, network, crowd) as agent:
            show = asyncio.create_task(report.watch(title, crowd, out))
            try:
                replicas = agent[0] if agent is not None else None
                scene = Scene(crowd, installation, network, dice, _harm_seconds(options), ending, replicas)
                await _load(options, scene)
                await crowd.settle(options.patience)
            finally:
                show.cancel()
                await asyncio.wait([show])
            if not show.cancelled():
                show.result()  # the output could not be written
            if agent is not None:
                trouble = agent[0].trouble()
                _judge_calls(ledger, agent[1])
    finally:
        await crowd.stop()
    if options.max_late is not None and ledger.late.longest > options.max_late:
        room, seq, device = ledger.latest
        finding = Finding("late", f"came {ledger.late.longest:.3f} s after the first device heard of it")
        ledger.report(finding, room=room, seq=seq, device=device)
    about: dict[str, object] = {
        "installation": title,
        "seed": options.seed,
        "clients": options.clients,
        "rooms": options.rooms,
    }
    about["transports"] = crowd.began_as
    about["agents"] = options.agents
    trouble += installation.trouble() if installation is not None else []
    result = report.result(ledger, about, trouble)
    print(json.dumps(result) if options.json else report.text(ledger, result))
    return 0 if result["ok"] else 1


@contextlib.asynccontextmanager
async def _agent(
    options: Options, url: str, network: Proxy | None, crowd: Crowd
) -> AsyncIterator[tuple[Replicas, ModelServer] | None]:
    """Its processes and its model; None if none is wanted. One in three processes is behind the network's proxy."""
    if not options.agents:
        yield None
        return
    token = crowd.credential(crowd.agent, agent=True)
    assert token is not None
    urls = [url] if network is None else [url, url, _through(url, network)]
    rooms = list(crowd.ledger.records)[::2]  # to the others it comes when it is named
    with tempfile.TemporaryDirectory(prefix="tornado-chat-agents-") as made:
        directory = Path(made if options.directory is None else options.directory)
        async with ModelServer(crowd.ledger.report) as model:
            replicas = Replicas(directory, options.agents, urls, token=token, rooms=rooms, model=model.url)
            try:
                await replicas.start()
                yield replicas, model
            finally:
                await replicas.stop()


def _through(url: str, network: Proxy) -> str:
    return urlsplit(url)._replace(netloc=f"127.0.0.1:{network.port}").geturl()


def _judge_calls(ledger: Ledger, model: ModelServer) -> None:
    assert ledger.answers is not None
    judged = judge(model.calls, ledger.answers, ledger.was_harmed, time.monotonic())
    for room, finding in judged.findings:
        ledger.report(finding, room=room)
    for seconds in judged.left_after:
        ledger.left.add(seconds)
    ledger.counts["calls of the model"] += len(model.calls)
    ledger.counts["calls again"] += judged.again
    ledger.counts["pieces after a stop"] += judged.said_after
    for seconds in ledger.answers.first_words():
        ledger.first_words.add(seconds)


def _harm_seconds(options: Options) -> float:
    return max(1.0, min(LONGEST_HARM, options.seconds / 10))


async def _load(options: Options, scene: Scene) -> None:
    """Talk and harm for the time that was asked for, or until `scene.ending`."""
    talked = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(scene.crowd.talk(talked))
            for harm in harms(scene, options.faults, _harm_seconds(options) / 2):
                group.create_task(harm)
            await scene.pause(options.seconds)
            scene.ending.set()
            talked.set()
    except ExceptionGroup as group_of:
        raise group_of.exceptions[0] from None
