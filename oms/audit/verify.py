"""`oms verify`'s work: every check there is on a running system, one finding each. Reads only."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from libs.events.topics import TOPICS
from oms.audit.books import endings
from oms.audit.evidence import Evidence, Sources, collect, order_facts, pending
from oms.audit.finding import Finding, finding
from oms.audit.log import log_is_published
from oms.audit.scope import books
from oms.audit.view import VIEWS, view_is_its_log

SETTLE_SECONDS = 10.0
POLL_SECONDS = 0.25
QUIET_POLLS = 4

Tell = Callable[[str], None]
"""Called with what is being done now."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """`wait_seconds`: for how long the system may take to come to rest before it is checked under way."""

    sources: Sources
    bootstrap: str
    wait_seconds: float = 15.0
    all_ended: bool = False


async def verify(asked: Asked, tell: Tell) -> AsyncIterator[Finding]:
    tell("waiting for the system to come to rest")
    at_rest = await _rests(asked.sources, asked.wait_seconds)
    ended = _ended(await order_facts(asked.sources))
    if not at_rest:
        tell(f"orders flow: what had ended by now is checked in {SETTLE_SECONDS:.0f} s")
        await asyncio.sleep(SETTLE_SECONDS)
    tell("collecting the evidence")
    evidence = await collect(asked.sources)
    if at_rest:
        ended = _ended(evidence.order)
    yield await nothing_parked(asked.sources.dsns)
    for one in books(evidence, ended, at_rest=at_rest, all_ended=asked.all_ended):
        yield one
    for topic in TOPICS:
        if topic.owner in asked.sources.dsns:
            tell(f"reading {topic.name}")
            yield await log_is_published(asked.sources.dsns[topic.owner], topic, asked.bootstrap, _counted(tell, topic))
    for service, projections in VIEWS.items():
        for projection in projections:
            tell(f"folding {service}'s {projection.name}")
            yield await view_is_its_log(service, asked.sources.dsns[service], projection, _share(tell, projection))


def _counted(tell: Tell, topic: Any) -> Callable[[int], None]:
    return lambda records: tell(f"reading {topic.name}: {records:,} records")


def _share(tell: Tell, projection: Any) -> Callable[[int, int], None]:
    return lambda done, total: tell(f"folding {projection.name}: {done:,} of {total:,} events")


def _ended(facts: Sequence[Any]) -> frozenset[str]:
    known = endings(Evidence(order=facts, availability={}, waiting={}))
    return frozenset(order_id for order_id, how in known.items() if how != "OPEN")


async def _rests(sources: Sources, seconds: float) -> bool:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    before: Mapping[str, Mapping[str, int]] = {}
    quiet = 0
    while quiet < QUIET_POLLS:
        now = await pending(sources)
        idle = all(not counts["outbox"] and not counts["effects"] for counts in now.values())
        quiet = quiet + 1 if idle and now == before else 0
        before = now
        if loop.time() > deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True


async def nothing_parked(dsns: Mapping[str, str]) -> Finding:
    offenders: list[str] = []
    for service, dsn in dsns.items():
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            rows = await connection.fetch(
                "SELECT topic, encode(key, 'escape') AS key, reason FROM parked_key ORDER BY parked_at"
            )
        finally:
            await connection.close()
        offenders += [f"{service}: key {row['key']} of {row['topic']}: {row['reason']}" for row in rows]
    return finding("nothing is parked", f"{len(offenders)} keys", offenders)
