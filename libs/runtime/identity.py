"""Event ids: ordered by time, and the same again where the work is the same again.

An id is the 48-bit time of its cause followed by a hash of cause, service, consumer and index, in UUID form. So a
batch that is repeated after an unknown outcome makes the ids it made before.
"""

import hashlib
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

import uuid_utils

# Version 8 and the RFC's variant.
_MADE_BY_APPLICATION = 0x8 << 76 | 0x2 << 62
_GIVEN = ((1 << 128) - 1) & ~(0xF << 76) & ~(0x3 << 62)


class Cause(NamedTuple):
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
        low = int.from_bytes(hashlib.blake2b(name, digest_size=10).digest())
        value = (milliseconds << 80 | low) & _GIVEN | _MADE_BY_APPLICATION
        digits = f"{value:032x}"  # by hand: `str(uuid.UUID(int=…))` takes as long as all the rest
        yield f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
        index += 1


def new_id() -> str:
    """An id for what has no cause: a request from outside, a wake, a lease holder."""
    return str(uuid_utils.uuid7())
