"""Group commit against a pool: 256 callers, each with a command on a stream of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bench.parts.bed import Bed, random_id
from bench.parts.callers import Answered, asked
from bench.rig import request
from libs.runtime.commit import GroupCommit
from libs.runtime.errors import Unavailable, VersionConflict
from libs.runtime.handler import Answer, Handler
from services.inventory.domain.command import ReceiptLine, ReceiveStock, RegisterLocation

CALLERS = 256


async def insisted(handler: Handler, command: Any) -> Answer:
    """One command a transaction; again when a race was lost, or when too many waited for a connection or a lock."""
    while True:
        try:
            return (await handler.handle_requests([request(command)]))[0]
        except (VersionConflict, Unavailable):
            continue


@asynccontextmanager
async def committing(handler: Handler) -> AsyncIterator[GroupCommit]:
    commit = GroupCommit(handler)
    running = asyncio.create_task(commit.run())
    try:
        yield commit
    finally:
        running.cancel()


async def group_commit(bed: Bed, seconds: float) -> tuple[Answered, Answered]:
    """Callers that share commits; and callers that each take a connection of the pool and commit alone."""
    handler = Handler(bed.service, bed.storage)
    await handler.handle_requests([request(RegisterLocation("BER", "Berlin", "DE", 52.5, 13.4))])

    def receipt(number: int, run: str) -> ReceiveStock:
        sku = random_id(f"{run}{number}")
        return ReceiveStock(f"{run}-{number}", (ReceiptLine(sku, "BER", 1),))

    async with committing(handler) as commit:
        grouped = await asked(CALLERS, seconds, lambda number: commit.submit(request(receipt(number, "grouped"))))

    async def alone(number: int) -> Answer:
        return await insisted(handler, receipt(number, "alone"))

    return grouped, await asked(CALLERS, seconds, alone)
