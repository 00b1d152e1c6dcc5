"""Event ids: ordered by time, and the same again where the work is the same again.

An id is the 48-bit time of its cause followed by a hash of cause, service, consumer and index, in UUID form. So a
batch that is repeated after an unknown outcome makes the ids it made before.
"""

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import uuid_utils

_RANDOM_BITS = (1 << 80) - 1


@dataclass(frozen=True, kw_only=True)
class Cause:
    """What made a command: an event heard, a channel's record, a request, a timer or an effect's answer.

    `causation_id` is what the resulting events name as their cause, `at` when it happened.
    """

    causation_id: str
    at: datetime
    correlation_id: str = ""
    channel: str = ""
    actor: str = ""
    idempotency_key: str = ""
    traceparent: str = ""


def event_ids(cause: Cause, service: str, consumer: str) -> Iterator[str]:
    """Ids for the events of one cause, in order."""
    milliseconds = int(cause.at.timestamp() * 1000) & ((1 << 48) - 1)
    index = 0
    while True:
        name = f"{cause.causation_id}|{service}|{consumer}|{index}".encode()
        low = int.from_bytes(hashlib.blake2b(name, digest_size=10).digest()) & _RANDOM_BITS
        # version 8 and the RFC variant: "made by the application"
        value = (milliseconds << 80 | low) & ~(0xF << 76) & ~(0x3 << 62) | 0x8 << 76 | 0x2 << 62
        yield str(uuid.UUID(int=value))
        index += 1


def new_id() -> str:
    """An id for what has no cause: a request from outside, a wake, a lease holder."""
    return str(uuid_utils.uuid7())
