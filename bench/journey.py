"""One order's journey as it was stored: the template that the floor replays and that stores are filled with.

It is also the list that RESULTS.md shows: every event by name, and who reads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import asyncpg

from bench.rig import Rig
from libs.events.envelope import to_headers
from libs.events.topics import CATEGORIES
from libs.runtime.event_store import PostgresStorage
from libs.runtime.intake import recorded_of
from libs.runtime.service import Service

Called = Literal["", "effect", "callback"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One event of the journey. `cause` is the step that it follows from; None: the order as the channel placed it.

    `called` says what lies between the two: `effect`, the service's own call; `callback`, the outside's; or nothing.
    Steps of one service that were decided together have the same `decision`, the number of the first of them.
    `views` are the rows of its own service that it changes.
    """

    service: str
    event_type: str
    schema_version: int
    stream_id: str
    stream_version: int
    data: bytes
    metadata: bytes
    headers: Sequence[tuple[str, bytes]]
    key: str
    topic: str
    cause: int | None
    called: Called
    views: Sequence[tuple[str, str]]
    decision: int
    wanted_by: Sequence[str]

    @property
    def name(self) -> str:
        return self.event_type.rpartition(".")[2]


@dataclass(frozen=True, kw_only=True)
class Journey:
    order_id: str
    channel: str
    external_id: str
    steps: Sequence[Step]
    view_bytes: dict[str, bytes]
    """The last JSON of each view's row, by `service/view`."""


async def capture(rig: Rig, order_id: str) -> Journey:
    """Reads what five databases have of one completed order."""
    found: list[tuple[str, Any, Any]] = []
    view_bytes: dict[str, bytes] = {}
    for name, service in rig.services.items():
        async with asyncpg.create_pool(rig.cluster.dsn(name, "owner"), min_size=1, max_size=1) as pool:
            storage = PostgresStorage(pool, f"/{name}-service")
            if service.decider is not None:
                found += [(name, *row) for row in await _events(pool, storage, order_id)]
            for projection in service.projections:
                row = await pool.fetchval(
                    f"""SELECT data FROM view_{projection.name}
                        WHERE key LIKE $1 OR convert_from(data, 'UTF8') LIKE $1 LIMIT 1""",
                    f"%{order_id}%",
                ) or await pool.fetchval(f"SELECT data FROM view_{projection.name} LIMIT 1")
                view_bytes[f"{name}/{projection.name}"] = row or b""
    found.sort(key=lambda item: item[1].envelope.recorded_at)  # stable: within a service, its own order stays
    steps = _steps(rig, found)
    received = next(item[1].envelope for item in found if item[0] == "order")
    external = received.idempotency_key.split(":")[1]
    return Journey(
        order_id=order_id, channel=received.channel, external_id=external, steps=steps, view_bytes=view_bytes
    )


async def _events(pool: asyncpg.Pool, storage: PostgresStorage, order_id: str) -> list[tuple[Any, bytes]]:
    rows = await pool.fetch(
        """SELECT stream_id, stream_version, e.metadata FROM event_log l JOIN events e
           USING (stream_id, stream_version) WHERE l.metadata->>'correlation_id' = $1 ORDER BY e.global_position""",
        order_id,
    )
    events = {
        (event.envelope.stream_id, event.envelope.stream_version): event
        for event in await storage.read_streams(sorted({row["stream_id"] for row in rows}))
    }
    return [(events[row["stream_id"], row["stream_version"]], bytes(row["metadata"])) for row in rows]


def _steps(rig: Rig, found: Sequence[tuple[str, Any, bytes]]) -> list[Step]:
    number = {stored.envelope.event_id: place for place, (_, stored, _) in enumerate(found)}
    last: dict[str, int] = {}  # of each service
    decisions: dict[tuple[str, str], int] = {}
    steps: list[Step] = []
    for place, (name, stored, metadata) in enumerate(found):
        envelope = stored.envelope
        recorded = recorded_of(stored)
        assert recorded is not None
        cause = number.get(envelope.causation_id)
        called: Called = ""
        decision = decisions.setdefault((name, envelope.causation_id), place)
        if decision != place:
            cause, called = steps[decision].cause, steps[decision].called
        elif cause is None and name in last:
            # no event of the journey: an answer from outside, or a callback, after what the service did last
            cause, called = last[name], _called(envelope.causation_id)
        steps.append(
            Step(
                service=name,
                event_type=envelope.event_type,
                schema_version=envelope.schema_version,
                stream_id=envelope.stream_id,
                stream_version=envelope.stream_version,
                data=stored.data,
                metadata=metadata,
                headers=to_headers(envelope),
                key=stored.key,
                topic=CATEGORIES[envelope.stream_id.partition("-")[0]].topic.name,
                cause=cause,
                called=called,
                decision=decision,
                views=[
                    (projection.name, key)
                    for projection in rig.services[name].projections
                    if (key := projection.key(recorded)) is not None
                ],
                wanted_by=[other.name for other in rig.services.values() if _wants(other, recorded.event)],
            )
        )
        last[name] = place
    return steps


def _called(causation_id: str) -> Called:
    """Ids that are derived, as effects' are, have version 8; those of requests from outside have 7."""
    return "effect" if UUID(causation_id).version == 8 else "callback"


def _wants(service: Service[Any], event: Any) -> bool:
    return type(event) in service.wants


def readers(rig: Rig, step: Step) -> str:
    """Who does something with an event: policies by their `wants`, and views by their key."""
    tracked = [projection.name for projection in rig.services["tracking"].projections]
    own = [view for view, _ in step.views]
    heard = step.topic in {topic.name for topic in rig.services["tracking"].subscribes}
    parts = [f"{name} (policy)" for name in step.wanted_by]
    parts += [f"{step.service} ({', '.join(own)})"] if own else []
    parts += [f"tracking ({', '.join(tracked)})"] if heard else []
    return "; ".join(parts) or "its own stream's state"
