"""What can go wrong below the domain, sorted by what the machine does about it (design, section 6)."""

import asyncpg


class VersionConflict(Exception):
    """Someone else wrote first: repeat from fresh state."""


class Unavailable(Exception):
    """PostgreSQL or Kafka is away or overloaded: wait and repeat, never skip, never park."""


class DataFault(Exception):
    """The data itself cannot be handled: repeated alone, and parked if it fails alone."""


class PartitionHalted(Exception):
    """This partition must not go on until someone has looked: the reason is the message."""


class NewerRelease(PartitionHalted):
    """A newer release has gone on with one of our streams in words that this one cannot read.

    Nothing is wrong with the data: this process leaves it to that release, which runs beside it or has been taken back.
    """


_WRITTEN_BY_OTHERS = frozenset({"40001", "40P01"})
_RACES = frozenset({"stream_head_pkey", "events_stream_id_stream_version_key", "idempotency_pkey"})
_AWAY = frozenset({"08", "40", "53", "55", "57", "58"})
_DATA = frozenset({"21", "22", "23"})


def sorted_error(error: BaseException) -> BaseException:
    """A driver's error as one of ours; anything unknown stays what it is and ends the process."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        constraint = getattr(error, "constraint_name", None) or ""
        if state in _WRITTEN_BY_OTHERS:
            return VersionConflict(state)
        if state == "23505" and (constraint in _RACES or constraint.startswith("view_")):
            return VersionConflict(constraint)
        if state[:2] in _AWAY:
            return Unavailable(f"{type(error).__name__} {state}")
        if state[:2] in _DATA:
            return DataFault(f"{type(error).__name__} {state}")
        return error
    if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
        # The driver could not encode an argument (an integer beyond its column's, a malformed uuid): the data's fault.
        return DataFault(type(error).__name__)
    # The driver's own "internal" error is a connection that was cut in the middle of an answer and used once more.
    if isinstance(error, OSError | TimeoutError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return Unavailable(f"{type(error).__name__}: {error}")
    return error
