"""What the books are checked against: the services' stored events and the PSP's own ledger, read as they stand."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import orjson

TYPES: Mapping[str, Sequence[str]] = {
    "order": (
        "OrderReceived",
        "OrderRejected",
        "OrderDuplicateDetected",
        "OrderHoldPlaced",
        "OrderHoldReleased",
        "OrderCompleted",
        "OrderCancelled",
        "OrderCancellationRefused",
        "PaymentMethodUpdateRequested",
    ),
    "inventory": ("StockReceived", "StockAdjusted", "StockHeld", "StockHoldReleased", "StockShipped"),
    "payment": (
        "PaymentAuthorizationSubmitted",
        "PaymentAuthorized",
        "PaymentDeclined",
        "PaymentAuthorizationVoided",
        "PaymentVoidSubmitted",
        "PaymentVoidFailed",
        "PaymentCaptureSubmitted",
        "PaymentCaptured",
        "PaymentCaptureFailed",
        "RefundSubmitted",
        "PaymentRefunded",
        "RefundFailed",
    ),
    "fulfillment": ("ShipmentDispatched",),
}
"""The events that the checks read; the others only lead from one of these to the next."""

WRITING = ("order", "inventory", "payment", "fulfillment")


@dataclass(frozen=True, slots=True)
class Fact:
    """A stored event. `type` is its bare name."""

    stream_id: str
    type: str
    data: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Facts in order of stream and version. `waiting` is what a service has still to publish, to call, or parked."""

    order: Sequence[Fact] = ()
    inventory: Sequence[Fact] = ()
    payment: Sequence[Fact] = ()
    fulfillment: Sequence[Fact] = ()
    availability: Mapping[str, Mapping[str, Any]]
    ledger: Sequence[Mapping[str, Any]] = ()
    balances: Sequence[Mapping[str, Any]] = ()
    waiting: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class Sources:
    """`dsns` by service, of a role that may read its tables; the PSP's address."""

    dsns: Mapping[str, str]
    psp_url: str


async def collect(sources: Sources) -> Evidence:
    # The ledger first: what the PSP did was meant before, so while orders flow no row is without its intent.
    async with httpx.AsyncClient(base_url=sources.psp_url, timeout=30.0, trust_env=False) as psp:
        ledger, balances = await _pages(psp, "/ledger"), await _pages(psp, "/ledger/balances")
    others = [name for name in TYPES if name != "inventory"]
    facts, (inventory, availability), waiting = await asyncio.gather(
        asyncio.gather(*(_query(sources.dsns[name], _facts, TYPES[name]) for name in others)),
        _query(sources.dsns["inventory"], _stock),
        pending(sources),
    )
    return Evidence(
        **dict(zip(others, facts, strict=True)),
        inventory=inventory,
        availability=availability,
        ledger=ledger,
        balances=balances,
        waiting=waiting,
    )


async def order_facts(sources: Sources) -> Sequence[Fact]:
    facts: Sequence[Fact] = await _query(sources.dsns["order"], _facts, TYPES["order"])
    return facts


async def _stock(connection: Any) -> tuple[list[Fact], dict[str, Mapping[str, Any]]]:
    """Both of one moment, so that they agree while orders flow, too."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        return await _facts(connection, TYPES["inventory"]), await _availability(connection)


async def pending(sources: Sources) -> Mapping[str, Mapping[str, int]]:
    counts = await asyncio.gather(*(_query(dsn, _waiting) for dsn in sources.dsns.values()))
    return dict(zip(sources.dsns, counts, strict=True))


async def _query(dsn: str, read: Callable[..., Any], *arguments: Any) -> Any:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        return await read(connection, *arguments)
    finally:
        await connection.close()


async def _facts(connection: Any, types: Sequence[str]) -> list[Fact]:
    # The bytes as stored: jsonb would only be parsed once more.
    rows = await connection.fetch(
        "SELECT stream_id, event_type, data FROM events WHERE split_part(event_type, '.', 3) = ANY($1)"
        " ORDER BY stream_id, stream_version",
        list(types),
    )
    return [
        Fact(stream_id=row["stream_id"], type=row["event_type"].rpartition(".")[2], data=orjson.loads(row["data"]))
        for row in rows
    ]


async def _availability(connection: Any) -> dict[str, Mapping[str, Any]]:
    rows = await connection.fetch("SELECT key, data FROM view_availability")
    return {row["key"]: orjson.loads(row["data"]) for row in rows}


async def _waiting(connection: Any) -> dict[str, int]:
    row = await connection.fetchrow(
        "SELECT (SELECT count(*) FROM outbox) AS outbox, (SELECT count(*) FROM effect) AS effects,"
        " (SELECT count(*) FROM parked_key) AS parked_keys, (SELECT count(*) FROM parked_record) AS parked_records,"
        " (SELECT coalesce(max(global_position), 0) FROM events) AS events"
    )
    return dict(row)


async def _pages(psp: httpx.AsyncClient, path: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        page = (await psp.get(path, params={"after": after, "limit": 1000})).raise_for_status().json()
        rows += page["rows"]
        after = page["next_after"]
    return rows
