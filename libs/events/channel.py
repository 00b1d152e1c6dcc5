"""What sales channels publish on `oms.channel.orders`: the inbound contract, owned by us and checked strictly."""

import uuid
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from libs.events.base import Destination, Event, Id, Minor, Moment, Pii, Quantity, Text, Value

_ORDERS = uuid.UUID("6f7d0c5e-41a5-5f0e-9d57-0a4e3b5c2f10")

Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]


def order_id_of(channel: str, external_order_id: str) -> str:
    """The same order by any door is the same stream: uuid5 of its channel and the channel's own id."""
    return str(uuid.uuid5(_ORDERS, f"{channel}:{external_order_id}"))


class Inbound(Value):
    """A part of what comes from outside: unknown fields are refused, not ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class PlacedLine(Inbound):
    """One line. `amount`, `tax` and `discount` are line totals and the truth; `unit_price` informs."""

    line_id: Id
    sku: Id
    qty: Quantity
    unit_price: Minor = 0
    amount: Minor
    tax: Minor = 0
    discount: Minor = 0
    fulfillment: Literal["SHIP", "PICKUP"] = "SHIP"
    node: Id | None = None


class PlacedShipping(Inbound):
    method: Id = "STD"
    price: Minor = 0
    requested_by: Moment | None = None


class PlacedTotals(Inbound):
    items: Minor
    shipping: Minor = 0
    tax: Minor = 0
    discount: Minor = 0
    grand: Minor


class PlacedPayment(Inbound):
    mode: Literal["AUTHORIZE", "ADOPT", "ON_ACCOUNT"] = "AUTHORIZE"
    psp: Id = "default"
    token: Text = ""
    auth_ref: Text | None = None


class PlacedPolicies(Inbound):
    stock: Literal["ALL_OR_NOTHING", "ALLOW_PARTIAL", "ALLOW_BACKORDER"] = "ALL_OR_NOTHING"
    split: Literal["ALLOW", "NO"] = "ALLOW"
    substitute: Literal["NO", "ALLOW"] = "NO"


class PlacedDestination(Inbound, Destination):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class PlacedPii(Inbound, Pii):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class ChannelEvent(Event):
    """Its stream is the order's, which the order service writes: a channel's record carries no version."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    category: ClassVar[str] = "order"
    stream_field: ClassVar[str] = "order_id"

    channel: Id
    external_order_id: Id
    external_revision: Annotated[int, Field(ge=1, le=1_000_000)] = 1

    @property
    def order_id(self) -> str:
        return order_id_of(self.channel, self.external_order_id)


class OrderPlaced(ChannelEvent):
    placed_at: Moment
    currency: Currency
    lines: Annotated[tuple[PlacedLine, ...], Field(min_length=1, max_length=500, strict=False)]
    shipping: PlacedShipping = PlacedShipping()
    totals: PlacedTotals
    payment: PlacedPayment = PlacedPayment()
    policies: PlacedPolicies = PlacedPolicies()
    destination: PlacedDestination
    pii: PlacedPii = PlacedPii()


class OrderCancellationRequested(ChannelEvent):
    reason: Text = "CUSTOMER"


class Fault(Value):
    """One thing wrong with what a channel sent: a stable code, where, and in words without the value."""

    code: str
    field: str = ""
    message: str = ""


class UnreadableOrder(ChannelEvent):
    """Made by the codec, never published: identity could be read, the rest of the body could not."""

    reasons: tuple[Fault, ...]


ChannelEvents = OrderPlaced | OrderCancellationRequested
