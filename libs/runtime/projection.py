"""The record a read model is made of: a typed view and a pure `evolve`."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from libs.events.envelope import Recorded

V = TypeVar("V", bound=BaseModel)


def _no_durations(_before: BaseModel | None, _after: BaseModel) -> Mapping[str, float]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Projection(Generic[V]):
    """`key` says which row of the view an event changes (None: none); `evolve` gives the row (None: delete it).

    `indexed` fields become columns, so that lists filter by them and dashboards read them by SQL. Where rows go when
    they are done with, `counted_by` names an indexed field by which metrics count those that are left.
    `durations` gives seconds that a change of a row made known, by name: `oms.order.duration`.
    """

    name: str
    view: type[V]
    key: Callable[[Recorded[Any]], str | None]
    evolve: Callable[[V | None, Recorded[Any]], V | None]
    indexed: tuple[str, ...] = ()
    counted_by: str = ""
    durations: Callable[[V | None, V], Mapping[str, float]] = _no_durations

    def columns(self, view: V) -> Mapping[str, str | None]:
        """The indexed fields as text, as its JSON has them."""
        return {name: _text(getattr(view, name)) for name in self.indexed}


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    simple = to_jsonable_python(value)
    return simple if isinstance(simple, str) else json.dumps(simple)
