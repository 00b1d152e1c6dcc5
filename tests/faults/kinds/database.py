"""PostgreSQL alive and unhelpful: sessions ended, rows and tables locked, no connection left, a deadlock."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from oms.cluster.databases import LIMITS
from tests.faults.arena import SERVICES
from tests.faults.kinds.kind import Kind, Make, Scene
from tests.faults.kinds.processes import OWNERS
from tests.faults.kinds.records import patiently

LOST = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
HOT = "stream_id IN (SELECT 'stock-SKU-0' || n FROM generate_series(0, 5) n)"


@dataclass
class SessionsEnded(Kind):
    async def strike(self, scene: Scene) -> None:
        connection = await asyncpg.connect(scene.arena.dsn(), timeout=10)
        try:
            ended = await connection.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1", f"oms_{self.target}"
            )
            self.notes.append(f"{ended} sessions")
        finally:
            await connection.close()


@dataclass
class Locked(Kind):
    """Another transaction holds the lock for longer than anybody waits for it."""

    statement: str = ""
    session: Any = None

    async def strike(self, scene: Scene) -> None:
        self.session = await patiently(lambda: asyncpg.connect(scene.arena.dsn(f"oms_{self.target}"), timeout=10))
        await self.session.execute(f"BEGIN; SET LOCAL lock_timeout = '20s'; {self.statement}")

    async def heal(self, scene: Scene) -> None:
        with suppress(*LOST):
            await self.session.execute("ROLLBACK")
            await self.session.close()


@dataclass
class LockedWhileRebalancing(Locked):
    """Its batch hangs in an open transaction while its partitions go to another member."""

    async def strike(self, scene: Scene) -> None:
        await super().strike(scene)
        member = scene.arena.second(self.target)
        await asyncio.sleep(4)
        await scene.arena.stop(member)


@dataclass
class StatementsCutShort(Kind):
    """The service's statements run into their time limit: which of them, and where in its work, is chance."""

    limit: str = "1ms"

    async def strike(self, scene: Scene) -> None:
        await self._limited(scene, self.limit)
        self.notes.append(self.limit)

    async def heal(self, scene: Scene) -> None:
        await patiently(lambda: self._limited(scene, LIMITS["app"]["statement_timeout"]))

    async def _limited(self, scene: Scene, limit: str) -> None:
        """For new sessions; those that are open end."""
        role = f"oms_{self.target}_app"
        connection = await asyncpg.connect(scene.arena.dsn(), timeout=10)
        try:
            await connection.execute(f"ALTER ROLE {role} SET statement_timeout = '{limit}'")
            await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", role)
        finally:
            await connection.close()


@dataclass
class Exhausted(Kind):
    """Every connection that the server allows is taken, and the service's own are ended."""

    sessions: list[Any] = field(default_factory=list)

    async def strike(self, scene: Scene) -> None:
        await self._take(scene)
        with suppress(*LOST):
            await self.sessions[0].execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'oms\\_%'"
            )
        await self._take(scene)
        self.notes.append(f"{len(self.sessions)} connections")

    async def _take(self, scene: Scene) -> None:
        for _ in range(210):
            try:
                self.sessions.append(await asyncpg.connect(scene.arena.dsn(), timeout=10))
            except LOST:
                return

    async def heal(self, scene: Scene) -> None:
        for session in self.sessions:
            with suppress(*LOST):
                session.terminate()


@dataclass
class Deadlock(Kind):
    """Somebody locks heads against the order in which everybody else does."""

    rounds: int = 6

    async def strike(self, scene: Scene) -> None:
        for _ in range(self.rounds):
            session = await asyncpg.connect(scene.arena.dsn(f"oms_{self.target}"), timeout=10)
            with suppress(*LOST):
                await session.execute("BEGIN; SET LOCAL lock_timeout = '3s'")
                for n in (3, 2, 1, 0):
                    await session.execute(f"SELECT 1 FROM stream_head WHERE stream_id = 'stock-SKU-0{n}' FOR UPDATE")
                    await asyncio.sleep(0.2)
                await session.execute("ROLLBACK")
            session.terminate()


KINDS: dict[str, Make] = {
    "sessions_ended": lambda dice: SessionsEnded(name="sessions_ended", target=dice.choice(SERVICES), bound=10),
    "hot_rows_locked": lambda dice: Locked(
        name="hot_rows_locked",
        target="inventory",
        lasts=8,
        statement=f"SELECT count(*) FROM (SELECT 1 FROM stream_head WHERE {HOT} FOR UPDATE) held",
    ),
    "table_locked": lambda dice: Locked(
        name="table_locked", target=dice.choice(OWNERS), lasts=7, statement="LOCK TABLE events IN ACCESS EXCLUSIVE MODE"
    ),
    "rebalance_in_transaction": lambda dice: LockedWhileRebalancing(
        name="rebalance_in_transaction", target="inventory", lasts=1, statement="LOCK TABLE outbox IN EXCLUSIVE MODE"
    ),
    "statement_timeouts": lambda dice: StatementsCutShort(
        name="statement_timeouts", target=dice.choice(SERVICES), lasts=8, limit=dice.choice(("1ms", "2ms", "5ms"))
    ),
    "connections_exhausted": lambda dice: Exhausted(name="connections_exhausted", target="postgres", lasts=8),
    "deadlock": lambda dice: Deadlock(name="deadlock", target="inventory"),
}
