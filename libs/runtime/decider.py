"""The records a service's write side is made of: aggregates, commands and one pure `decide`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from libs.events.base import Event

S = TypeVar("S")
C = TypeVar("C")
S_co = TypeVar("S_co", covariant=True)


class CommandRejected(Exception):
    """The domain says no. `code` is stable and public; a waiting caller gets it as problem+json."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(message or code)
        self.code = code


@dataclass(frozen=True)
class Wake:
    """A stream's `due` has passed. Part of every service's commands."""

    stream_id: str


def _never_due(_state: Any) -> datetime | None:
    return None


@dataclass(frozen=True)
class Stream(Generic[S_co]):
    """A typed handle of one stream: `states[STOCK.stream(sku)]` is a StockItem."""

    aggregate: "Aggregate[S_co]"
    stream_id: str

    def __hash__(self) -> int:
        return hash(self.stream_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.stream_id == self.stream_id


@dataclass(frozen=True, kw_only=True)
class Aggregate(Generic[S]):
    """One kind of stream: how its state begins, how an event changes it, and when it wants to be woken."""

    category: str
    initial_state: Callable[[], S]
    evolve: Callable[[S, Any], S]
    due: Callable[[S], datetime | None] = _never_due

    def stream(self, id: str) -> Stream[S]:
        return Stream(self, f"{self.category}-{id}")


class States:
    """The states of the streams that a command named, and only those."""

    def __init__(self, states: Mapping[str, Any]) -> None:
        self._states = states

    def __getitem__(self, stream: Stream[S]) -> S:
        state: S = self._states[stream.stream_id]
        return state


def _reads_nothing(_command: Any) -> Sequence[Stream[Any]]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Decider(Generic[C]):
    """The write side of a service: all three functions are pure.

    `streams` names what a command may append to (their heads are locked), `reads` what it only looks at.
    `decide` returns events; to which stream each belongs the event itself says.
    """

    aggregates: Sequence[Aggregate[Any]]
    streams: Callable[[C], Sequence[Stream[Any]]]
    decide: Callable[[C, States, datetime], Sequence[Event]]
    reads: Callable[[C], Sequence[Stream[Any]]] = field(default=_reads_nothing)

    def aggregate_of(self, stream_id: str) -> Aggregate[Any]:
        category = stream_id.partition("-")[0]
        return next(aggregate for aggregate in self.aggregates if aggregate.category == category)
