"""What was folded lately, kept as objects: a stream or row in use is not read and folded anew for every batch.

Only a cache: the head or the row, locked first, says which version is true. It changes only after a commit.
"""

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from libs.runtime.storage import ViewRow

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Folded(NamedTuple):
    """A stream's state at a version; `traceparent` is that of its last event."""

    version: int
    state: Any
    traceparent: str


class FoldedView(NamedTuple):
    """A view's row as the model it is; `versions` and `table_id` as in ViewRow."""

    view: Any
    versions: Mapping[str, int]
    table_id: int = 0

    def is_of(self, row: ViewRow) -> bool:
        """Whether it is this very row: other workers go on with it, and a rebuild corrects it at the same versions."""
        return self.table_id == row.table_id != 0 and self.versions == row.versions


class Recent(Generic[K, V]):
    """Keeps what was used last; `limit` 0 keeps nothing."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[K, V] = OrderedDict()

    def holds(self, count: int) -> bool:
        """Whether so many are kept at once."""
        return count <= self._limit

    def find(self, key: K) -> V | None:
        return self._kept.get(key)

    def put(self, key: K, value: V) -> None:
        self._kept[key] = value
        self._kept.move_to_end(key)
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)

    def drop(self, key: K) -> None:
        self._kept.pop(key, None)


class StateCache(Recent[str, Folded]):
    def get(self, stream_id: str, up_to: int) -> Folded | None:
        """The state kept, unless it is of a later version than the stream has (a restored database)."""
        folded = self.find(stream_id)
        return folded if folded is not None and folded.version <= up_to else None


ViewCache = Recent[tuple[str, str], FoldedView]
"""By view and key."""
