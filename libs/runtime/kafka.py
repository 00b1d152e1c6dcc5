"""Kafka clients as this product needs them. aiokafka's defaults (acks=1, latest, auto-commit) would lose orders."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError
from aiokafka.partitioner import murmur2

from libs.runtime.link import kafka_link
from libs.runtime.settings import Settings

MAX_REQUEST_BYTES = 1024 * 1024
METADATA_MS = 5_000
FETCH_BYTES = 64 * 1024


def new_producer(settings: Settings) -> AIOKafkaProducer:
    return AIOKafkaProducer(
        **kafka_link(settings),
        acks="all",
        enable_idempotence=True,
        linger_ms=0,
        # A record batch a partition and round: the default of 16 KB would cut it to pieces.
        max_batch_size=MAX_REQUEST_BYTES,
        max_request_size=MAX_REQUEST_BYTES + 64 * 1024,
        request_timeout_ms=10_000,
    )


def new_consumer(settings: Settings, group: str) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        **kafka_link(settings),
        group_id=group,
        # Positions are in PostgreSQL; what is committed to Kafka only feeds lag tools.
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=settings.kafka_session_ms,
        heartbeat_interval_ms=settings.kafka_heartbeat_ms,
        rebalance_timeout_ms=settings.kafka_rebalance_ms,
        # One fetch a broker is under way at a time, and a partition read empty meanwhile waits for its end: the default
        # of half a second would be waited out at every hop. Until then the broker gathers: small batches cost more.
        fetch_max_wait_ms=settings.kafka_fetch_ms,
        fetch_min_bytes=FETCH_BYTES,
        # A topic that is made anew while we run is noticed by this alone; the default is five minutes.
        metadata_max_age_ms=METADATA_MS,
    )


def new_admin(settings: Settings, seconds: float) -> AIOKafkaAdminClient:
    """`seconds` bounds each of its requests."""
    return AIOKafkaAdminClient(**kafka_link(settings), request_timeout_ms=max(1, int(seconds * 1000)))


def _or_close(send: Callable[..., Any]) -> Callable[..., Any]:
    """A connection that the broker has just reset is a broken one. uvloop raises RuntimeError where asyncio only warns,
    which aiokafka does not catch (its issue 1038): the task that finds brokers again dies of it unheard, and the client
    waits for brokers for ever."""

    @wraps(send)
    def send_or_close(connection: AIOKafkaConnection, *arguments: Any, **options: Any) -> Any:
        try:
            return send(connection, *arguments, **options)
        except RuntimeError as error:
            connection.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(str(error)) from error

    return send_or_close


# The two that write: requests, and the login.
AIOKafkaConnection.send = _or_close(AIOKafkaConnection.send)
AIOKafkaConnection._send_sasl_token = _or_close(AIOKafkaConnection._send_sasl_token)  # noqa: SLF001


@lru_cache(maxsize=20_000)  # in Python it costs more than all the rest of sending a record, and keys come again
def partition_of(key: bytes, partitions: int) -> int:
    """Kafka's own partitioner, over the partition count that the topic table names."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions  # type: ignore[no-any-return]
