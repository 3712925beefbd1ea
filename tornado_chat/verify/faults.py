"""The harm: what is done to devices, their network and the installation while everything must hold."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tornado_chat.verify.findings import Finding
from tornado_chat.verify.messages import OWN

if TYPE_CHECKING:
    from tornado_chat.verify.crowd import Crowd
    from tornado_chat.verify.device import Device
    from tornado_chat.verify.installation import Installation
    from tornado_chat.verify.ledger import Ledger
    from tornado_chat.verify.proxy import Proxy
    from tornado_chat.verify.replicas import Replicas

DEVICE, NETWORK = "any server", "the way to any server"
WORKERS, REDIS, POSTGRESQL = "its own server", "its own Redis", "its own PostgreSQL"
AGENTS = "agents of its own"

DEVICE_SECONDS = 15.0
"""Each device suffers each of the devices' faults about so often."""
LONGEST_REWIND = 500
RESENDS = 5
LONGEST_STOP = 12.0
"""Of a reader, in seconds: well below the server's `write_timeout`."""


class Scene:
    """Whom the harm is done to. `longest` is how long one may last, in seconds; `ending` is set when it must end."""

    def __init__(
        self,
        crowd: Crowd,
        installation: Installation | None,
        network: Proxy | None,
        dice: random.Random,
        longest: float,
        ending: asyncio.Event,
        replicas: Replicas | None = None,
    ) -> None:
        self.crowd = crowd
        self.ledger: Ledger = crowd.ledger
        self.dice = dice
        self.ending = ending
        self._installation = installation
        self._network = network
        self._replicas = replicas
        self.longest = longest

    @property
    def installation(self) -> Installation:
        assert self._installation is not None, "this fault needs an installation of our own"
        return self._installation

    @property
    def proxy(self) -> Proxy:
        """In front of its Redis."""
        proxy = self.installation.proxy
        assert proxy is not None, "this fault needs a Redis of our own"
        return proxy

    @property
    def network(self) -> Proxy:
        """Between some of the clients and the server."""
        assert self._network is not None, "this fault needs a proxy on the way"
        return self._network

    @property
    def replicas(self) -> Replicas:
        assert self._replicas is not None, "this fault needs an agent of our own"
        return self._replicas

    def device(self) -> Device:
        return self.dice.choice(self.crowd.devices)

    async def a_while(self) -> float:
        """As long as a harm lasts; how long that was."""
        seconds = self.dice.uniform(self.longest / 5, self.longest)
        await self.pause(seconds)
        return seconds

    async def pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.ending.wait()
        except TimeoutError:
            return


# To devices. Each is done to one of them, at once.


async def stop_reader(scene: Scene) -> None:
    scene.device().stop_reading(scene.dice.uniform(1.0, min(LONGEST_STOP, 4 * scene.longest)))


async def cut(scene: Scene) -> None:
    device = scene.device()
    half = scene.dice.random() < 0.7 and device.connected and device.spoken
    device.cut(scene.crowd.command(device) if half else None, scene.dice.random())


async def resend(scene: Scene) -> None:
    for _ in range(RESENDS):
        device = scene.device()
        sent = scene.crowd.old(device)
        if sent is not None:
            other = scene.crowd.sibling(device) if scene.dice.random() < 0.5 else device
            # A setting is known again only while its event is there; a `begin` would move its message.
            moves = sent.growth is not None and sent.growth.end is None
            if sent.room in other.rooms and sent.setting is None and not moves:
                other.commands.repeat(sent)


async def reconnect(scene: Scene) -> None:
    scene.device().go_away(scene.dice.choice((0.1, 0.5, 3.0)))


async def join_again(scene: Scene) -> None:
    device = scene.device()
    room = scene.dice.choice(list(device.rooms))
    if room == OWN and scene.dice.random() < 0.5:
        device.begin_anew()
    else:
        device.join_again(room, scene.dice.randrange(LONGEST_REWIND))


async def leave(scene: Scene) -> None:
    """Right after a command in the same room, whose ack must come first; or one's own log."""
    device = scene.device()
    if device.connected and device.spoken:
        command = scene.crowd.command(device)
        device.commands.speak(command)
        room = OWN if OWN in device.rooms and scene.dice.random() < 0.2 else command["room"]
        device.leave(room, scene.dice.choice((0.0, 0.2, 2.0)))


async def die(scene: Scene) -> None:
    if scene.dice.random() < 0.3:
        scene.device().die_writing()


async def stop_growing(scene: Scene) -> None:
    """By its author's user, or whom it answers: one message, or all that grow in the room for them."""
    growing = scene.ledger.still_growing()
    if not growing or scene.dice.random() < 0.4:
        return
    growth = scene.dice.choice(growing)
    mine = [one for one in scene.crowd.devices if one.user in (growth.user, growth.asker) and growth.room in one.rooms]
    if mine:
        scene.dice.choice(mine).authoring.ask_stop(growth.room, growth.seq if scene.dice.random() < 0.7 else None)


async def change(scene: Scene) -> None:
    device = scene.device()
    others = [kind for kind in scene.crowd.transports if kind != device.kind]
    if others:
        device.change(scene.dice.choice(others))


# To the network, for those of the devices that are behind the proxy. Each returns when the damage is mended.


async def cut_network(scene: Scene) -> None:
    scene.ledger.note("connections of clients cut")
    scene.network.cut()


async def delay_network(scene: Scene) -> None:
    await _delay(scene, scene.network, "what the server said was")


async def stall_network(scene: Scene) -> None:
    await _stall(scene, scene.network, "connections of clients")


async def buffer_network(scene: Scene) -> None:
    network, size = scene.network, scene.dice.choice((4, 16, 64))
    network.hold(0.7, size * 1024, scene.dice.uniform(0.5, 4.0))
    network.cut()  # what is connected already is not held back
    try:
        seconds = await scene.a_while()
    finally:
        network.hold(0, 0, 0.0)
    network.cut()
    scene.ledger.note(f"what the server said was held back until it was {size} KiB, for {seconds:.1f} s")


async def _delay(scene: Scene, proxy: Proxy, what: str) -> None:
    delay = scene.dice.choice((0.05, 0.3, 1.0))
    proxy.delay(delay)
    try:
        seconds = await scene.a_while()
    finally:
        proxy.delay(0)
    scene.ledger.note(f"{what} late by {delay:g} s, for {seconds:.1f} s")


async def _stall(scene: Scene, proxy: Proxy, what: str) -> None:
    proxy.stall()
    try:
        seconds = await scene.a_while()
    finally:
        proxy.flow()
    scene.ledger.note(f"{what} were open, but deaf, for {seconds:.1f} s")


# To the installation. Each returns when the damage is mended.


async def kill_worker(scene: Scene) -> None:
    pid = scene.dice.choice(scene.installation.workers())
    scene.ledger.note(f"kill -9 of worker {pid}")
    await _while_cut(scene, scene.installation.kill_worker(pid), f"worker {pid} was killed, and not replaced in time")


async def roll(scene: Scene) -> None:
    scene.ledger.note("roll of the workers")
    await _while_cut(scene, scene.installation.roll(), "the workers were not rolled in time")


async def _while_cut(scene: Scene, harm: Awaitable[bool], late: str) -> None:
    scene.ledger.begin_harm()
    began = time.monotonic()
    try:
        if not await harm:
            scene.ledger.report(Finding("stuck", late))
    finally:
        scene.ledger.breaks.append((began, time.monotonic()))
        scene.ledger.end_harm()


async def restart_redis(scene: Scene) -> None:
    redis = scene.installation.redis
    assert redis is not None
    scene.ledger.note("Redis stopped")
    await asyncio.to_thread(redis.stop)
    try:
        await scene.a_while()
    finally:
        await asyncio.to_thread(redis.start)
        scene.ledger.note("Redis started")


async def cut_redis(scene: Scene) -> None:
    scene.ledger.note("connections to Redis cut")
    scene.proxy.cut()


async def drop_redis(scene: Scene) -> None:
    proxy, part = scene.proxy, scene.dice.choice((0.1, 0.5, 1.0))
    proxy.drop(part)
    try:
        seconds = await scene.a_while()
    finally:
        proxy.drop(0)
    scene.ledger.note(f"{part:.0%} of Redis's messages were dropped, for {seconds:.1f} s")


async def delay_redis(scene: Scene) -> None:
    await _delay(scene, scene.proxy, "Redis's messages were")


async def stall_redis(scene: Scene) -> None:
    await _stall(scene, scene.proxy, "connections to Redis")


async def restart_postgresql(scene: Scene) -> None:
    postgres = scene.installation.postgres
    assert postgres is not None
    hard = scene.dice.random() < 0.5
    scene.ledger.note(f"PostgreSQL stopped{' at once' if hard else ''}")
    await asyncio.to_thread(postgres.stop, "immediate" if hard else "fast")
    try:
        await scene.pause(scene.dice.uniform(0.0, 2.0))
    finally:
        await asyncio.to_thread(postgres.start)
        scene.ledger.note("PostgreSQL started")


# To the agent. Each returns when all of its processes run.


async def kill_agent(scene: Scene) -> None:
    replicas, number = scene.replicas, scene.dice.randrange(scene.replicas.count)
    scene.ledger.note(f"kill -9 of agent {number + 1}")
    replicas.kill(number)
    try:
        if scene.dice.random() < 0.5:
            await scene.a_while()
    finally:
        replicas.run(number)


async def restart_agent(scene: Scene) -> None:
    replicas, number = scene.replicas, scene.dice.randrange(scene.replicas.count)
    scene.ledger.note(f"agent {number + 1} restarted")
    ended = await replicas.end(number)
    replicas.run(number)
    if not ended:
        scene.ledger.report(Finding("stuck", f"agent {number + 1} did not end in time"))


async def freeze_agent(scene: Scene) -> None:
    replicas, number = scene.replicas, scene.dice.randrange(scene.replicas.count)
    replicas.freeze(number)
    try:
        seconds = await scene.a_while()
    finally:
        replicas.thaw(number)
    scene.ledger.note(f"agent {number + 1} frozen for {seconds:.1f} s")


async def kill_agents(scene: Scene) -> None:
    if scene.dice.random() < 0.5:
        return
    scene.ledger.note("kill -9 of all agents")
    for number in range(scene.replicas.count):
        scene.replicas.kill(number)
    try:
        await scene.pause(scene.dice.uniform(0.0, scene.longest / 2))
    finally:
        for number in range(scene.replicas.count):
            scene.replicas.run(number)


@dataclass(frozen=True, slots=True)
class Fault:
    """`needs` says what must be ours for it."""

    harm: Callable[[Scene], Awaitable[None]]
    needs: str
    help: str


FAULTS = {
    "slow-readers": Fault(stop_reader, DEVICE, "clients that read nothing for some seconds"),
    "cuts": Fault(cut, DEVICE, "connections cut, also in the middle of a frame"),
    "resends": Fault(resend, DEVICE, "ids sent again, also long after, and from another device"),
    "reconnects": Fault(reconnect, DEVICE, "clients that go away in good order and come back"),
    "joins": Fault(join_again, DEVICE, "rooms joined again from an older seq on"),
    "leaves": Fault(leave, DEVICE, "rooms left, and joined again soon after"),
    "authors": Fault(die, DEVICE, "authors of growing messages that are gone in the middle, and never come back"),
    "stops": Fault(stop_growing, DEVICE, "growing messages that somebody wants to be stopped"),
    "changes": Fault(change, DEVICE, "clients that go on by another way in, from where they are"),
    "network-cut": Fault(cut_network, NETWORK, "connections of clients cut between them and the server"),
    "network-delay": Fault(delay_network, NETWORK, "what the server says delayed"),
    "network-stall": Fault(stall_network, NETWORK, "connections of clients that stay open and carry nothing"),
    "network-buffer": Fault(buffer_network, NETWORK, "what the server says held back until it is some KiB"),
    "kill-worker": Fault(kill_worker, WORKERS, "kill -9 of a worker"),
    "roll": Fault(roll, WORKERS, "SIGHUP: all workers replaced (one alone: stopped and started)"),
    "redis-restart": Fault(restart_redis, REDIS, "Redis stopped for some seconds"),
    "redis-cut": Fault(cut_redis, REDIS, "connections to Redis cut"),
    "redis-drop": Fault(drop_redis, REDIS, "messages of Redis dropped"),
    "redis-delay": Fault(delay_redis, REDIS, "messages of Redis delayed"),
    "redis-stall": Fault(stall_redis, REDIS, "connections to Redis that stay open and carry nothing"),
    "postgresql-restart": Fault(restart_postgresql, POSTGRESQL, "PostgreSQL stopped and started"),
    "agent-kill": Fault(kill_agent, AGENTS, "kill -9 of one of an agent's processes"),
    "agent-restart": Fault(restart_agent, AGENTS, "SIGTERM to one of an agent's processes, and another"),
    "agent-freeze": Fault(freeze_agent, AGENTS, "SIGSTOP of one of an agent's processes for some seconds"),
    "agents-kill": Fault(kill_agents, AGENTS, "kill -9 of all of an agent's processes, now and then"),
}


def harms(scene: Scene, names: Collection[str], pause: float) -> list[Coroutine[None, None, None]]:
    """What is to run side by side until `scene.ending`.

    Devices are harmed all the time; the network, workers, Redis and PostgreSQL at once, each by one thing after another
    with `pause` seconds between.
    """
    running = [_harm_devices(scene, name) for name in names if FAULTS[name].needs == DEVICE]
    for needs in (NETWORK, WORKERS, REDIS, POSTGRESQL, AGENTS):
        some = [name for name in names if FAULTS[name].needs == needs]
        if some:
            # Between two restarts of the database a worker has to have the time to start, on a slow machine too.
            rest = min(2 * scene.installation.started_in, 4 * scene.longest) if needs == POSTGRESQL else 0.0
            running.append(_harm_installation(scene, some, max(pause, rest)))
    return running


async def _harm_devices(scene: Scene, name: str) -> None:
    every = DEVICE_SECONDS / len(scene.crowd.devices)
    while not scene.ending.is_set():
        await scene.pause(scene.dice.uniform(0, 2 * every))
        await _do(scene, name)


async def _harm_installation(scene: Scene, names: list[str], pause: float) -> None:
    while True:
        for name in scene.dice.sample(names, len(names)):
            await scene.pause(pause)
            if scene.ending.is_set():
                return
            await _do(scene, name)


async def _do(scene: Scene, name: str) -> None:
    if not scene.ending.is_set():
        scene.ledger.faults[name] += 1
        began = time.monotonic()
        try:
            await FAULTS[name].harm(scene)
        finally:
            if FAULTS[name].needs != DEVICE:
                scene.ledger.take_harm(began)
