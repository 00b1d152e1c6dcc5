"""Processes killed, at any moment and at named ones, and stopped as if their machine had frozen."""

import asyncio
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from oms.cluster import databases, kafka
from tests.faults.arena import SERVICES, SIMULATORS
from tests.faults.kinds.kind import Kind, Make, NeverHit, Scene
from tests.faults.kinds.records import heal_gap, open_gap, patiently
from tests.faults.oracle import collect

OWNERS = ("order", "inventory", "payment", "fulfillment")
FAILPOINTS = {
    "handler.before_commit": SERVICES,
    "handler.after_commit": SERVICES,
    "relay.acknowledged": OWNERS,
    "effect.before_call": ("payment", "fulfillment"),
    "effect.after_call": ("payment", "fulfillment"),
    "consumer.assigned": SERVICES,
    "timer.waking": ("order",),
    "park.releasing": ("inventory", "payment"),
}
HIT_SECONDS = 150.0
"""Another strike may have frozen Kafka for 90 s, and nothing passes anywhere meanwhile."""
BACK_SECONDS = 60.0
TAKEN_OVER_SECONDS = 60.0


@dataclass
class Kill(Kind):
    """Recovery of a service counts from its death; of Kafka and PostgreSQL from when they are back."""

    async def strike(self, scene: Scene) -> None:
        arena = scene.arena
        before = {name: arena.restarts(name) for name in self.target.split("+")}
        for name in before:
            arena.signal(name, signal.SIGKILL)
        self.over_at = time.monotonic()
        for name in before.keys() & {"kafka", "postgres"}:
            await arena.restarted(name, before[name])
            if name == "kafka":
                await kafka.wait_ready(arena.places.kafka, lambda: None, BACK_SECONDS)
            else:
                await databases.wait_ready(arena.dsn(), lambda: None, BACK_SECONDS)
            self.over_at = time.monotonic()


@dataclass
class KillAt(Kind):
    """Dies where its failpoint is, after having passed there a few times."""

    point: str = ""
    passes: int = 0

    async def strike(self, scene: Scene) -> None:
        file, before = scene.arena.failpoint_file(self.target), scene.arena.restarts(self.target)
        arm(file, f"{self.point} {self.passes}")
        member = ""
        try:
            if self.point == "consumer.assigned":
                member = scene.arena.second(self.target)
            if self.point == "park.releasing":
                gap = await open_gap(scene)
                await heal_gap(scene, gap)
            await disarmed(file, self.point)
            self.over_at = time.monotonic()
            if not member:
                await scene.arena.restarted(self.target, before)
        finally:
            file.unlink(missing_ok=True)
            if member:
                await scene.arena.stop(member)


def arm(file: Path, text: str) -> None:
    """At once and whole: it is read by others at any time."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


async def disarmed(file: Path, point: str) -> None:
    deadline = time.monotonic() + HIT_SECONDS
    while file.exists():
        if time.monotonic() > deadline:
            raise NeverHit(f"{point} was not passed within {HIT_SECONDS:.0f} s")
        await asyncio.sleep(0.1)


@dataclass
class Freeze(Kind):
    """SIGSTOP, and SIGCONT after a while: what wakes does not know how long it slept."""

    async def strike(self, scene: Scene) -> None:
        scene.arena.signal(self.target, signal.SIGSTOP)

    async def heal(self, scene: Scene) -> None:
        scene.arena.signal(self.target, signal.SIGCONT)


@dataclass
class Zombie(Kind):
    """A worker freezes while another one of its service takes over; then it wakes and goes on as if nothing were."""

    member: str = ""
    frozen: str = ""

    async def strike(self, scene: Scene) -> None:
        self.member = await scene.arena.joined(self.target)
        self.frozen = scene.random.choice((self.target, self.member))
        scene.arena.signal(self.frozen, signal.SIGSTOP)
        began = time.monotonic()
        await asyncio.sleep(2)  # for records to come that only the frozen one would have read
        await self._taken_over(scene)
        self.took_over = time.monotonic() - began
        self.notes.append(f"taken over from {self.frozen} after {self.took_over:.1f} s")

    async def _taken_over(self, scene: Scene) -> None:
        """Until every record of now is behind its position, and every event of now has left the outbox."""
        places = scene.arena.places
        ends = await patiently(lambda: collect.ends(places.kafka))
        connection = await asyncpg.connect(places.dsns[self.target], timeout=10)
        try:
            last = await connection.fetchval("SELECT max(global_position) FROM events")
            deadline = time.monotonic() + TAKEN_OVER_SECONDS
            while time.monotonic() < deadline:
                rows = await connection.fetch("SELECT topic, partition, next_offset FROM consumer_position")
                behind = [row for row in rows if row["next_offset"] < ends[row["topic"], row["partition"]]]
                left = 0
                if self.target in OWNERS:
                    left = await connection.fetchval("SELECT count(*) FROM outbox WHERE global_position <= $1", last)
                if not behind and not left:
                    return
                await asyncio.sleep(0.1)
        finally:
            await connection.close()
        raise TimeoutError(f"{self.frozen} froze, and {len(behind)} partitions and {left} events were left to it")

    async def heal(self, scene: Scene) -> None:
        if self.frozen:
            scene.arena.signal(self.frozen, signal.SIGCONT)
            await asyncio.sleep(5)
        if self.member:
            await scene.arena.stop(self.member)


@dataclass
class Storm(Kind):
    """Members join and leave every few seconds, some in order and some by kill -9."""

    rounds: int = 4

    async def strike(self, scene: Scene) -> None:
        for _ in range(self.rounds):
            member = scene.arena.second(self.target)
            await asyncio.sleep(scene.random.uniform(1.5, 3.5))
            if scene.random.random() < 0.5:
                scene.arena.signal(member, signal.SIGKILL)
            await scene.arena.stop(member)


def kill(*names: str, name: str, bound: float = 15.0) -> Make:
    return lambda dice: Kill(name=name, target=dice.choice(names), bound=bound)


def kill_at(point: str) -> Make:
    def make(dice: random.Random) -> Kind:
        passes = dice.randrange(6) if point.startswith(("handler", "relay", "effect")) else 0
        return KillAt(name=f"kill_at:{point}", target=dice.choice(FAILPOINTS[point]), point=point, passes=passes)

    return make


def freeze(name: str, names: tuple[str, ...], seconds: float, bound: float = 15.0) -> Make:
    return lambda dice: Freeze(name=name, target=dice.choice(names), lasts=seconds, bound=bound)


KINDS: dict[str, Make] = {
    "kill_service": kill(*SERVICES, name="kill_service"),
    "kill_simulator": kill(*SIMULATORS, name="kill_simulator"),
    "kill_kafka": kill("kafka", name="kill_kafka", bound=30),
    "kill_postgres": kill("postgres", name="kill_postgres", bound=10),
    "kill_kafka_and_postgres": kill("kafka+postgres", name="kill_kafka_and_postgres", bound=30),
    **{f"kill_at:{point}": kill_at(point) for point in FAILPOINTS},
    "freeze_service_3s": freeze("freeze_service_3s", SERVICES, 3),
    "freeze_service_20s": freeze("freeze_service_20s", SERVICES, 20),
    "freeze_service_90s": freeze("freeze_service_90s", SERVICES, 90),
    "freeze_kafka_3s": freeze("freeze_kafka_3s", ("kafka",), 3, 30),
    "freeze_kafka_20s": freeze("freeze_kafka_20s", ("kafka",), 20, 30),
    "freeze_kafka_90s": freeze("freeze_kafka_90s", ("kafka",), 90, 30),
    "freeze_postgres_3s": freeze("freeze_postgres_3s", ("postgres",), 3, 10),
    "freeze_postgres_20s": freeze("freeze_postgres_20s", ("postgres",), 20, 10),
    "freeze_postgres_90s": freeze("freeze_postgres_90s", ("postgres",), 90, 10),
    "two_owners": lambda dice: Zombie(name="two_owners", target=dice.choice(SERVICES), lasts=12),
    "rebalance_storm": lambda dice: Storm(name="rebalance_storm", target=dice.choice(SERVICES)),
}
