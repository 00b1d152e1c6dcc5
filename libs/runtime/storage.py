"""The port of a service's database: what one batch reads, locks and writes, in the order of design section 4.

`event_store.PostgresStorage` is the real one, `libs.testing.memory.MemoryStorage` its double; both pass
tests/contract/test_storage.py.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from libs.events.envelope import Envelope

MOST_VERSIONS = 2**31
"""More than a stream can have."""


class Partition(NamedTuple):
    """A tuple, because every record looks several things up by it, and a tuple is hashed without calling Python."""

    topic: str
    number: int


class Head(NamedTuple):
    """The last version of a stream and the snapshot kept with it (None: none, or version 0)."""

    stream_id: str
    stream_version: int
    snapshot: bytes | None = None
    snapshot_version: int = 0
    snapshot_fingerprint: str = ""


class NewHead(NamedTuple):
    """`existed` says whether the head was locked (update) or is new (insert: the loser of a race repeats)."""

    stream_id: str
    stream_version: int
    existed: bool
    due_at: datetime | None
    snapshot: bytes | None = None
    snapshot_version: int = 0
    snapshot_fingerprint: str = ""


class StoredEvent(NamedTuple):
    """An event as stored and published: the envelope, the exact bytes, and the Kafka key."""

    envelope: Envelope
    data: bytes
    key: str


@dataclass(slots=True)  # as ViewChange, not frozen: a batch has hundreds, and frozen takes three times as long
class ViewRow:
    """A row of a view: its JSON, and the last version folded of each stream that it is made of.

    `table_id` is the table that it was read from (0: not known): a rebuild puts another in its place.
    """

    data: bytes
    versions: Mapping[str, int]
    table_id: int = field(default=0, compare=False)


@dataclass(slots=True)
class ViewChange:
    """`row` None deletes; `existed` as in NewHead; `columns` are the indexed fields as text, all of them."""

    view: str
    key: str
    row: ViewRow | None
    existed: bool
    columns: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewEffect:
    id: str
    kind: str
    key: str
    stream_id: str
    stream_version: int
    due_at: datetime


@dataclass(frozen=True, slots=True)
class DueEffect:
    """An effect under lease, with the event that intended it."""

    id: str
    kind: str
    key: str
    attempts: int
    intent: StoredEvent


@dataclass(frozen=True, slots=True)
class ParkedRecord:
    """A record that waits in the database. `stream_id` and `stream_version` are empty where it had no headers."""

    partition: Partition
    offset: int
    key: bytes
    reason: str
    headers: bytes
    value: bytes | None
    recorded_at: datetime
    stream_id: str = ""
    stream_version: int = 0


@dataclass(frozen=True, slots=True)
class ParkedKey:
    """A parked key as an operator sees it first. `reason` is why it was parked."""

    topic: str
    key: bytes
    reason: str
    parked_at: datetime
    records: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorAction:
    """What a person changed by hand. `details` is JSON; it keeps what the change took away."""

    action: str
    operator: str
    reason: str
    consumer: str
    topic: str
    key: bytes | None = None
    details: bytes = b"{}"


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    body_hash: bytes
    answer: bytes


@dataclass(slots=True)
class Changes:
    """Everything one batch writes; all of it or nothing."""

    now: datetime
    consumer: str = ""
    positions: dict[Partition, int] = field(default_factory=dict)
    counts: dict[Partition, dict[str, int]] = field(default_factory=dict)
    heads: list[NewHead] = field(default_factory=list)
    events: list[StoredEvent] = field(default_factory=list)
    publish: bool = True
    views: list[ViewChange] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)
    effects: list[NewEffect] = field(default_factory=list)
    answers: dict[str, StoredAnswer] = field(default_factory=dict)
    parked: list[ParkedRecord] = field(default_factory=list)
    unparked: list[ParkedRecord] = field(default_factory=list)


class Transaction(Protocol):
    async def fence(self, consumer: str, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Locks the positions of a consumer and reads them: the offset each partition goes on with."""

    async def now(self) -> datetime:
        """The database's clock."""

    async def parked_keys(self, consumer: str, keys: Sequence[tuple[str, bytes]]) -> set[tuple[str, bytes]]:
        """Which of these (topic, key) are parked; their rows are locked."""

    async def parked_records(self, consumer: str, topic: str, key: bytes, limit: int) -> Sequence[ParkedRecord]:
        """What waits under a key, in order of stream and version; locks the key. Empty if it is not parked."""

    async def seen(self, consumer: str, stream_ids: Sequence[str]) -> Mapping[str, int]: ...

    async def answers(self, keys: Sequence[str]) -> Mapping[str, StoredAnswer]: ...

    async def lock_heads(self, stream_ids: Sequence[str]) -> Mapping[str, Head]:
        """Heads that exist, locked in order of id until the transaction ends."""

    async def read_heads(self, stream_ids: Sequence[str]) -> Mapping[str, Head]: ...

    async def take_effects(self, ids: Sequence[str]) -> set[str]:
        """Deletes these effects and says which of them were still there."""

    async def load_events(self, after: Mapping[str, int], most: int = MOST_VERSIONS) -> Sequence[StoredEvent]:
        """The events of each stream after the version named, the first `most` of each, by stream and version."""

    async def lock_views(self, view: str, keys: Sequence[str], known: Sequence[str] = ()) -> Mapping[str, ViewRow]:
        """Rows that exist, locked in order of key. Of those `known` to the caller only the versions are read."""

    async def write(self, changes: Changes) -> None: ...

    # What operators ask and change (operation.py).

    async def list_parked(self, consumer: str, after: tuple[str, bytes], limit: int) -> Sequence[ParkedKey]:
        """Parked keys after the one named, in order of topic and key."""

    async def count_parked(self, consumer: str, topic: str, key: bytes) -> int:
        """How many records wait under a key."""

    async def replace_parked(self, consumer: str, record: ParkedRecord) -> None:
        """Gives a parked record other headers, value, stream and reason; its place and key stay."""

    async def forget_topic(self, consumer: str, topic: str) -> tuple[int, int]:
        """Positions back to 0, and nothing of this topic parked: says how many positions and parked records."""

    async def take_lease(self, name: str, holder: str, seconds: float, instead_of: str) -> bool:
        """Takes a lease from whomever holds it; false while it is held by one whose name begins with `instead_of`."""

    async def end_lease(self, name: str, holder: str) -> bool:
        """Ends a lease that is still the holder's, keeping everybody else from it until the transaction ends."""

    async def publish_again(self, categories: Sequence[str]) -> int:
        """Points the outbox at every event of these stream categories; says how many were not in it."""

    async def write_action(self, action: OperatorAction) -> None: ...

    async def actions(self, limit: int) -> Sequence[tuple[datetime, OperatorAction]]:
        """What was changed by hand, the latest first."""


class Storage(Protocol):
    """Errors leave it sorted: VersionConflict, Unavailable, DataFault (errors.py)."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]: ...

    async def ensure_positions(self, consumer: str, beginnings: Mapping[Partition, int]) -> Mapping[Partition, int]:
        """Positions of partitions; one never read before begins at the log's beginning."""

    async def healed_keys(self, consumer: str) -> Sequence[tuple[str, bytes]]:
        """Each (topic, key) parked for a gap whose missing version waits with it by now."""

    async def due_streams(self, limit: int) -> Sequence[str]:
        """Streams whose `due_at` has passed by the database's clock."""

    async def clear_due(self, stream_id: str) -> None:
        """Stops waking a stream whose wake is a defect."""

    async def lease_effects(self, limit: int, lease_seconds: float) -> Sequence[DueEffect]: ...

    async def postpone_effect(self, effect_id: str, delay_seconds: float) -> None: ...

    async def read_outbox(self, limit: int) -> Sequence[tuple[int, StoredEvent]]:
        """Unpublished events in order of position."""

    async def delete_outbox(self, positions: Sequence[int]) -> None: ...

    async def hold_lease(self, name: str, holder: str, seconds: float) -> bool:
        """Takes or renews a lease by the database's clock; false while another holds it."""

    async def forget_answers(self, older_than_seconds: float) -> int:
        """Drops answers that nobody will ask for again; says how many."""

    async def drop_lease(self, name: str, holder: str) -> None:
        """Lets go of a lease at once, so that the next process need not wait for its end."""

    async def read_view(self, view: str, key: str) -> ViewRow | None: ...

    async def page_view(
        self, view: str, where: Mapping[str, str], after: str, limit: int
    ) -> Sequence[tuple[str, ViewRow]]: ...

    async def read_streams(self, stream_ids: Sequence[str]) -> Sequence[StoredEvent]:
        """Whole streams, in order of stream and version."""

    async def figures(self) -> Mapping[str, Any]:
        """What an operator asks first: outbox depth and age, parked keys, effects and streams that are due.

        Names that end in `_seconds` say for how long the oldest of them has been waiting.
        """

    async def count_rows(self, view: str, column: str) -> Mapping[str, int]:
        """Rows of a view by an indexed column."""
