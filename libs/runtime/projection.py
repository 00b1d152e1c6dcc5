"""The record a read model is made of: a typed view and a pure `evolve`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from libs.events.envelope import Recorded

V = TypeVar("V", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Projection(Generic[V]):
    """`key` says which row of the view an event changes (None: none); `evolve` gives the row (None: delete it).

    `indexed` fields become generated columns, so that lists filter by them and dashboards read them by SQL.
    """

    name: str
    view: type[V]
    key: Callable[[Recorded[Any]], str | None]
    evolve: Callable[[V | None, Recorded[Any]], V | None]
    indexed: tuple[str, ...] = ()
