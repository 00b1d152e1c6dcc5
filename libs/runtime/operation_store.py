"""The statements of what operators ask and change by hand, in PostgreSQL; the rest of the port is in event_store."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from libs.runtime.storage import OperatorAction, ParkedKey, ParkedRecord

CHUNK = 100_000
"""Positions a statement looks through: the application's role may not run a statement for long."""


class OperatorStatements:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def list_parked(self, consumer: str, after: tuple[str, bytes], limit: int) -> Sequence[ParkedKey]:
        rows = await self._connection.fetch(
            """SELECT topic, key, reason, parked_at,
                      (SELECT count(*) FROM parked_record r
                       WHERE r.consumer = k.consumer AND r.topic = k.topic AND r.key = k.key) AS records
               FROM parked_key k WHERE consumer = $1 AND (topic, key) > ($2, $3) ORDER BY topic, key LIMIT $4""",
            consumer,
            *after,
            limit,
        )
        return [ParkedKey(**row) for row in rows]

    async def count_parked(self, consumer: str, topic: str, key: bytes) -> int:
        count: int = await self._connection.fetchval(
            "SELECT count(*) FROM parked_record WHERE consumer = $1 AND topic = $2 AND key = $3", consumer, topic, key
        )
        return count

    async def replace_parked(self, consumer: str, record: ParkedRecord) -> None:
        await self._connection.execute(
            """UPDATE parked_record SET headers = $5, value = $6, stream_id = $7, stream_version = $8, reason = $9
               WHERE consumer = $1 AND topic = $2 AND partition = $3 AND record_offset = $4""",
            consumer,
            record.partition.topic,
            record.partition.number,
            record.offset,
            record.headers,
            record.value,
            record.stream_id,
            record.stream_version,
            record.reason,
        )

    async def forget_topic(self, consumer: str, topic: str) -> tuple[int, int]:
        # The positions first: they are the fence, and every batch locks them before it looks at the park.
        positions = await self._connection.fetch(
            """UPDATE consumer_position SET next_offset = 0 WHERE (consumer, topic, partition) IN
                   (SELECT consumer, topic, partition FROM consumer_position WHERE consumer = $1 AND topic = $2
                    ORDER BY partition FOR UPDATE)
               RETURNING partition""",
            consumer,
            topic,
        )
        await self._connection.execute(
            "SELECT FROM parked_key WHERE consumer = $1 AND topic = $2 ORDER BY key FOR UPDATE", consumer, topic
        )
        records = await self._connection.fetch(
            "DELETE FROM parked_record WHERE consumer = $1 AND topic = $2 RETURNING 1", consumer, topic
        )
        await self._connection.execute("DELETE FROM parked_key WHERE consumer = $1 AND topic = $2", consumer, topic)
        return len(positions), len(records)

    async def take_lease(self, name: str, holder: str, seconds: float, instead_of: str) -> bool:
        rows = await self._connection.fetch(
            """INSERT INTO lease VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
               ON CONFLICT (name) DO UPDATE SET holder = EXCLUDED.holder, expires_at = EXCLUDED.expires_at
               WHERE NOT starts_with(lease.holder, $4) OR lease.expires_at < clock_timestamp()
               RETURNING holder""",
            name,
            holder,
            seconds,
            instead_of,
        )
        return bool(rows)

    async def end_lease(self, name: str, holder: str) -> bool:
        # Deleted, so that another's INSERT waits for this transaction to end.
        rows = await self._connection.fetch(
            "DELETE FROM lease WHERE name = $1 AND holder = $2 AND expires_at > clock_timestamp() RETURNING 1",
            name,
            holder,
        )
        return bool(rows)

    async def publish_again(self, categories: Sequence[str]) -> int:
        last = await self._connection.fetchval("SELECT COALESCE(max(global_position), 0) FROM events")
        pointers = 0
        for start in range(0, last, CHUNK):
            done = await self._connection.execute(
                """INSERT INTO outbox SELECT global_position FROM events
                   WHERE global_position > $1 AND global_position <= $2 AND split_part(stream_id, '-', 1) = ANY($3)
                   ORDER BY global_position ON CONFLICT DO NOTHING""",
                start,
                start + CHUNK,
                categories,
            )
            pointers += int(done.rpartition(" ")[2])
        return pointers

    async def write_action(self, action: OperatorAction) -> None:
        await self._connection.execute(
            """INSERT INTO operator_action (at, action, operator, reason, consumer, topic, key, details)
               VALUES (clock_timestamp(), $1, $2, $3, $4, $5, $6, $7::text::jsonb)""",
            action.action,
            action.operator,
            action.reason,
            action.consumer,
            action.topic,
            action.key,
            action.details.decode(),
        )

    async def actions(self, limit: int) -> Sequence[tuple[datetime, OperatorAction]]:
        rows = await self._connection.fetch(
            """SELECT at, action, operator, reason, consumer, topic, key, details::text AS details
               FROM operator_action ORDER BY id DESC LIMIT $1""",
            limit,
        )
        return [(row["at"], _action(row)) for row in rows]


def _action(row: Any) -> OperatorAction:
    return OperatorAction(
        action=row["action"],
        operator=row["operator"],
        reason=row["reason"],
        consumer=row["consumer"],
        topic=row["topic"],
        key=row["key"],
        details=row["details"].encode(),
    )
