"""Two transactions of PostgreSQL in the order that a test wants: one has written and not committed, another comes."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg

from libs.runtime.storage import Storage, Transaction
from libs.testing.deadline import eventually

A = TypeVar("A")
B = TypeVar("B")


class Watched:
    """A storage that counts its transactions; its first one after `hold` stays open, all written, until `let_go`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._free = asyncio.Event()
        self._free.set()
        self.written = asyncio.Event()
        self.transactions = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def hold(self) -> None:
        self._free.clear()

    def let_go(self) -> None:
        self._free.set()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        self.transactions += 1
        async with self._storage.transaction() as tx:
            yield tx
            self.written.set()
            await self._free.wait()


async def waits_or_ends(dsn: str, task: asyncio.Task[Any]) -> None:
    """Returns when a connection of the database waits for a lock, or the task has ended without."""
    connection = await asyncpg.connect(dsn)

    async def settled() -> bool:
        waits = await connection.fetchval(
            """SELECT EXISTS (SELECT FROM pg_stat_activity
                              WHERE datname = current_database() AND wait_event_type = 'Lock')"""
        )
        return bool(waits) or task.done()

    try:
        await eventually(settled, "the second waits for the first, or has ended")
    finally:
        await connection.close()


async def meeting(
    dsn: str, held: Watched, first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B]
) -> tuple[A, B]:
    """Runs `first` on the storage held until all is written, then `second` until it waits or ends, then both on."""
    held.hold()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        one = group.create_task(first)
        await held.written.wait()
        two = group.create_task(second)
        await waits_or_ends(dsn, two)
        held.let_go()
    return one.result(), two.result()
