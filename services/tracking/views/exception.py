"""What people must look at: open holds, and orders whose answer is overdue. A row goes when nothing is open."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from libs.events.envelope import Recorded
from libs.events.order import (
    HoldType,
    OrderCancelled,
    OrderCompleted,
    OrderConfirmed,
    OrderHoldPlaced,
    OrderHoldReleased,
    OrderStuckDetected,
    PaymentAuthorizationRequested,
    PaymentMethodUpdateRequested,
)
from libs.runtime.projection import Projection

WaitingFor = Literal["STOCK", "PAYMENT", "FULFILLMENT"]

MOVED_ON = (
    PaymentAuthorizationRequested,
    PaymentMethodUpdateRequested,
    OrderConfirmed,
    OrderCompleted,
    OrderCancelled,
)
"""After these the order waits for something else, or for nothing. That one of its shipments moves or is paid for is
not among them: it says nothing of the others, so what was overdue stays on the list until the order ends."""


class Hold(BaseModel):
    """An open hold. It stays until it is released, also on an order that has ended: its money may not have."""

    model_config = ConfigDict(frozen=True)

    hold_id: str
    type: HoldType
    reason: str
    since: datetime


class Overdue(BaseModel):
    """The order waits for an answer since `since`."""

    model_config = ConfigDict(frozen=True)

    waiting_for: WaitingFor
    since: datetime


class OpenException(BaseModel):
    """One order that someone must look at: its open holds, and the answer that is overdue."""

    model_config = ConfigDict(frozen=True)

    order_id: str
    type: HoldType | Literal["STUCK"]
    reason: str
    since: datetime
    owner: Literal["operations"] = "operations"
    holds: tuple[Hold, ...] = ()
    overdue: Overdue | None = None


def holds_after(holds: tuple[Hold, ...], recorded: Recorded[Any]) -> tuple[Hold, ...]:
    match recorded.event:
        case OrderHoldPlaced(hold_id=hold_id, type=type_, reason=reason):
            placed = Hold(hold_id=hold_id, type=type_, reason=reason, since=recorded.occurred_at)
            return (*_without(holds, hold_id), placed)
        case OrderHoldReleased(hold_id=hold_id):
            return _without(holds, hold_id)
        case _:
            return holds


def _without(holds: tuple[Hold, ...], hold_id: str) -> tuple[Hold, ...]:
    return tuple(hold for hold in holds if hold.hold_id != hold_id)


def overdue_after(overdue: Overdue | None, recorded: Recorded[Any]) -> Overdue | None:
    match recorded.event:
        case OrderStuckDetected(waiting_for=waiting_for, since=since):
            return Overdue(waiting_for=waiting_for, since=since)
        case event if isinstance(event, MOVED_ON):
            return None
        case _:
            return overdue


def evolve(view: OpenException | None, recorded: Recorded[Any]) -> OpenException | None:
    holds = holds_after(view.holds if view else (), recorded)
    overdue = overdue_after(view.overdue if view else None, recorded)
    return _exception(recorded.event.order_id, holds, overdue)


def _exception(order_id: str, holds: tuple[Hold, ...], overdue: Overdue | None) -> OpenException | None:
    if holds:
        first = holds[0]
        row = OpenException(order_id=order_id, type=first.type, reason=first.reason, since=first.since)
    elif overdue:
        reason = f"no answer about {overdue.waiting_for.lower()}"
        row = OpenException(order_id=order_id, type="STUCK", reason=reason, since=overdue.since)
    else:
        return None
    return row.model_copy(update={"holds": holds, "overdue": overdue})


_SEEN = (OrderHoldPlaced, OrderHoldReleased, OrderStuckDetected, *MOVED_ON)


def key(recorded: Recorded[Any]) -> str | None:
    event = recorded.event
    return event.order_id if isinstance(event, _SEEN) else None


OPEN_EXCEPTIONS = Projection(
    name="open_exceptions",
    view=OpenException,
    key=key,
    evolve=evolve,
    indexed=("type",),
    counted_by="type",
)
