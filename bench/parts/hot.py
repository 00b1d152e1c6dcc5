"""The hot SKU: every order wants the same one, and there is less of it than is asked for."""

import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from bench.parts.bed import Bed
from bench.parts.callers import Answered, asked
from bench.parts.commit import committing, insisted
from bench.rig import request, stocked
from libs.events.base import Destination
from libs.events.order import RequestedLine
from libs.runtime.event_store import PostgresStorage
from libs.runtime.handler import Handler
from libs.runtime.storage import Head
from services.inventory.domain.command import ReserveStock
from services.inventory.domain.stock import STOCK

BERLIN = Destination(country="DE", postal_code="10115", lat=52.5, lon=13.4)


@dataclass(frozen=True)
class Hot:
    """Reservations a second: one SKU, many SKUs, and one SKU by optimistic retry. `oversold` units, over all runs."""

    callers: int
    one_per_s: float
    many_per_s: float
    optimistic_per_s: float
    oversold: int


async def hot_sku(bed: Bed, callers: int, seconds: float) -> Hot:
    handler = Handler(bed.service, bed.storage)
    many = [f"COOL-{secrets.token_hex(4)}-{n}" for n in range(1_000)]
    await stocked(handler, many, 1_000_000)
    async with committing(handler) as commit:
        cool = await asked(callers, seconds, lambda n: commit.submit(request(_wish(many[n % len(many)]))))
        scarce = max(10, int(cool.per_s * seconds / 10))
        hot, oversold = await _scarce(
            bed, handler, callers, seconds, scarce, lambda n, wish: commit.submit(request(wish))
        )
    rival = Handler(bed.service, _Optimistic(bed.storage), cached_states=0)

    slow, oversold_too = await _scarce(bed, handler, callers, seconds, scarce, lambda _n, wish: insisted(rival, wish))
    return Hot(callers, hot.per_s, cool.per_s, slow.per_s, oversold + oversold_too)


async def _scarce(
    bed: Bed, handler: Handler, callers: int, seconds: float, units: int, ask: Callable[[int, ReserveStock], Any]
) -> tuple[Answered, int]:
    """The rate of all answers, yes or no, and the units promised beyond those that were there."""
    sku = f"HOT-{secrets.token_hex(4)}"
    await stocked(handler, [sku], units)
    answered = await asked(callers, seconds, lambda number: ask(number, _wish(sku)))
    held = await bed.pool.fetchval(
        "SELECT count(*) FROM events WHERE stream_id = $1 AND event_type = 'oms.inventory.StockHeld'",
        STOCK.stream(sku).stream_id,
    )
    return answered, max(0, held - units)


def _wish(sku: str) -> ReserveStock:
    order_id = secrets.token_hex(16)
    line = RequestedLine(line_id="1", sku=sku, qty=1)
    until = datetime.now(UTC) + timedelta(minutes=15)
    return ReserveStock(f"{order_id}-r1", order_id, f"{order_id}-q", (line,), "ALLOW", BERLIN, until)


class _Optimistic:
    """The same storage without the lock before the load: who loses the race to a version begins again."""

    def __init__(self, storage: PostgresStorage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["_Unlocked"]:
        async with self._storage.transaction() as tx:
            yield _Unlocked(tx)


class _Unlocked:
    def __init__(self, tx: Any) -> None:
        self._tx = tx

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    async def lock_heads(self, stream_ids: Sequence[str]) -> Mapping[str, Head]:
        heads: Mapping[str, Head] = await self._tx.read_heads(stream_ids)
        return heads
