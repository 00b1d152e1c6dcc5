"""A tiny service for tests of the machine: it counts units per SKU, and its records say what to do in one word.

`add:SKU` and `take:SKU` count up and down by `qty`, `call:SKU` counts up and intends a call to the outside, `boom:SKU`
raises in `decide`, `react` raises in `react`. A total of 13 is due and stays so, one of 14 comes to rest when woken,
one of 17 refuses to be woken.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pydantic import BaseModel

from libs.events.codec import encode
from libs.events.envelope import Envelope, Recorded, to_headers
from libs.events.inventory import StockHeld, StockReceived
from libs.events.order import OrderDuplicateDetected
from libs.events.topics import ORDER_EVENTS
from libs.runtime.decider import Aggregate, CommandRejected, Decider, States, Wake
from libs.runtime.effect import Effect
from libs.runtime.identity import Cause, event_ids
from libs.runtime.intake import Record
from libs.runtime.projection import Projection
from libs.runtime.service import Effects, Service
from libs.runtime.storage import Partition

AT = datetime(2026, 1, 5, 10, 0, tzinfo=UTC)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Add:
    sku: str
    qty: int
    ref: str = "ref"


@dataclass(frozen=True)
class Take:
    sku: str
    qty: int


@dataclass(frozen=True)
class Boom:
    sku: str


Command = Add | Take | Boom | Wake


@dataclass(frozen=True)
class Tally:
    total: int = 0
    events: int = 0


def evolve(tally: Tally, event: StockReceived | StockHeld) -> Tally:
    sign = 1 if isinstance(event, StockReceived) else -1
    return replace(tally, total=tally.total + sign * event.qty, events=tally.events + 1)


def due(tally: Tally) -> datetime | None:
    return LONG_AGO if tally.total in (13, 14, 17) else None


TALLY = Aggregate(category="stock", initial_state=Tally, evolve=evolve, due=due)


def _streams(tally: Aggregate[Any], command: Command) -> Sequence[Any]:
    return [] if isinstance(command, Wake) else [tally.stream(command.sku)]


def _decide(
    tally: Aggregate[Any], command: Command, states: States, _now: datetime
) -> Sequence[StockReceived | StockHeld]:
    match command:
        case Add(sku, qty, ref):
            return [StockReceived(sku=sku, location="main", qty=qty, receipt_id=ref)]
        case Take(sku, qty):
            if states[tally.stream(sku)].total < qty:
                raise CommandRejected("short", f"fewer than {qty}")
            return [StockHeld(sku=sku, location="main", qty=qty, reservation_id="r")]
        case Boom(sku):
            raise RuntimeError(sku)
        case Wake(stream_id):
            sku = stream_id.partition("-")[2]
            match states[tally.stream(sku)].total:
                case 14:
                    return [StockReceived(sku=sku, location="main", qty=1, receipt_id="woken")]
                case 17:
                    raise CommandRejected("not_now")
                case _:
                    return []


class TallyView(BaseModel):
    sku: str
    total: int = 0
    events: int = 0


def _view(view: TallyView | None, recorded: Recorded[Any]) -> TallyView:
    view = view or TallyView(sku=recorded.event.sku)
    sign = 1 if isinstance(recorded.event, StockReceived) else -1
    return view.model_copy(update={"total": view.total + sign * recorded.event.qty, "events": view.events + 1})


TALLIES = Projection(
    name="tally", view=TallyView, key=lambda recorded: recorded.event.sku, evolve=_view, indexed=("total",)
)


def _react(recorded: Recorded[Any]) -> Sequence[Command]:
    event = recorded.event
    assert isinstance(event, OrderDuplicateDetected)
    word, _, sku = event.content_hash.partition(":")
    match word:
        case "add" | "call":
            return [Add(sku, event.external_revision, f"{word}-{recorded.event_id}")]
        case "take":
            return [Take(sku, event.external_revision)]
        case "boom":
            return [Boom(sku)]
        case "react":
            raise RuntimeError("react")
        case _:
            return []


def _follow(recorded: Recorded[Any]) -> Sequence[Effect]:
    event = recorded.event
    wanted = isinstance(event, StockReceived) and event.receipt_id.startswith("call")
    return [Effect(kind="call", key=event.receipt_id, intent=event)] if wanted else []


async def _perform(effect: Effect, _gateway: Any) -> Command:
    assert isinstance(effect.intent, StockReceived)
    return Add(effect.intent.sku, 1, "answered")


def tally_service(tally: Aggregate[Any] = TALLY) -> Service[Command]:
    return Service(
        name="inventory",
        subscribes=[ORDER_EVENTS],
        wants=frozenset({OrderDuplicateDetected}),
        decider=Decider(aggregates=[tally], streams=partial(_streams, tally), decide=partial(_decide, tally)),
        react=_react,
        effects=Effects(follow=_follow, perform=_perform, gateway=None),
        projections=[TALLIES],
    )


def envelope(stream_id: str, version: int, event_type: str = "oms.order.OrderDuplicateDetected") -> Envelope:
    return Envelope(
        event_id=next(event_ids(Cause(causation_id=f"{stream_id}@{version}", at=AT), "order", "test")),
        event_type=event_type,
        schema_version=1,
        stream_id=stream_id,
        stream_version=version,
        occurred_at=AT,
        recorded_at=AT,
        correlation_id=stream_id,
        causation_id="test",
        source="/order-service",
    )


def word(order_id: str, version: int, does: str, qty: int = 1, *, offset: int, partition: int = 0) -> Record:
    """The record of version `version` of an order's stream, telling the tally what to do."""
    event = OrderDuplicateDetected(order_id=order_id, external_revision=qty, content_hash=does)
    place = Partition(ORDER_EVENTS.name, partition)
    return Record(place, offset, order_id.encode(), to_headers(envelope(event.stream_id, version)), encode(event), AT)
