"""States of streams as they were at a version, so that a stream in use is not folded anew for every batch.

Only a cache: the head, locked first, says which version is true, and what is newer is read from the log. It changes
only after a commit.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Folded:
    """A stream's state at a version; `traceparent` is that of its last event."""

    version: int
    state: Any
    traceparent: str


class StateCache:
    """Keeps the states used last; `limit` 0 keeps none."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._folded: OrderedDict[str, Folded] = OrderedDict()

    def get(self, stream_id: str, up_to: int) -> Folded | None:
        """The state kept, unless it is of a later version than the stream has (a restored database)."""
        folded = self._folded.get(stream_id)
        return folded if folded is not None and folded.version <= up_to else None

    def put(self, stream_id: str, folded: Folded) -> None:
        self._folded[stream_id] = folded
        self._folded.move_to_end(stream_id)
        while len(self._folded) > self._limit:
            self._folded.popitem(last=False)
