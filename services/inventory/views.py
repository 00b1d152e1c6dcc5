"""What inventory shows: availability per SKU, reservations, and the locations of the network."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from libs.events.base import ReservedLine
from libs.events.envelope import Recorded
from libs.events.inventory import (
    LocationRegistered,
    NetworkEvent,
    NodeDisabled,
    NodeEnabled,
    ReleaseReason,
    ReservationConsumed,
    ReservationEvent,
    ReservationReleased,
    ShortLine,
    StockAdjusted,
    StockEvent,
    StockHeld,
    StockHoldReleased,
    StockReceived,
    StockReservationRejected,
    StockReserved,
    StockShipped,
)
from libs.runtime.projection import Projection


class View(BaseModel):
    model_config = ConfigDict(frozen=True)


class LevelView(View):
    """`atp` is what can be promised: on hand and not reserved."""

    on_hand: int = 0
    reserved: int = 0
    atp: int = 0


class AvailabilityView(LevelView):
    """One SKU over all locations, also those that are disabled for now (see `/locations`)."""

    sku: str
    locations: dict[str, LevelView] = {}


def _changed(level: LevelView, on_hand: int, reserved: int) -> dict[str, int]:
    return {
        "on_hand": level.on_hand + on_hand,
        "reserved": level.reserved + reserved,
        "atp": level.atp + on_hand - reserved,
    }


def _availability(view: AvailabilityView | None, recorded: Recorded[Any]) -> AvailabilityView | None:
    match recorded.event:
        case StockReceived(qty=qty) | StockAdjusted(qty=qty):
            change = (qty, 0)
        case StockHeld(qty=qty):
            change = (0, qty)
        case StockHoldReleased(qty=qty):
            change = (0, -qty)
        case StockShipped(qty=qty):
            change = (-qty, -qty)
        case _:
            return view
    view = view or AvailabilityView(sku=recorded.event.sku)
    here = LevelView(**_changed(view.locations.get(recorded.event.location, LevelView()), *change))
    locations = {**view.locations, recorded.event.location: here}
    return AvailabilityView(sku=view.sku, locations=locations, **_changed(view, *change))


AVAILABILITY = Projection(
    name="availability",
    view=AvailabilityView,
    key=lambda recorded: recorded.event.sku if isinstance(recorded.event, StockEvent) else None,
    evolve=_availability,
)


class ReservationView(View):
    """`reserved` is what was held at first; what left it again is in `released` and `consumed`."""

    reservation_id: str
    order_id: str
    status: Literal["HELD", "REJECTED", "RELEASED", "CONSUMED"]
    reserved: tuple[ReservedLine, ...] = ()
    released: tuple[ReservedLine, ...] = ()
    consumed: tuple[ReservedLine, ...] = ()
    short_lines: tuple[ShortLine, ...] = ()
    release_reason: ReleaseReason | None = None
    expires_at: datetime | None = None

    @property
    def held(self) -> int:
        return _qty(self.reserved) - _qty(self.released) - _qty(self.consumed)


def _qty(lines: tuple[ReservedLine, ...]) -> int:
    return sum(line.qty for line in lines)


def _reservation(view: ReservationView | None, recorded: Recorded[Any]) -> ReservationView | None:
    match recorded.event:
        case StockReserved() as event:
            return _blank(event, "HELD").model_copy(update={"reserved": event.lines, "expires_at": event.expires_at})
        case StockReservationRejected() as event:
            return (view or _blank(event, "REJECTED")).model_copy(update={"short_lines": event.short_lines})
        case ReservationReleased() as event:
            return _released(view or _blank(event, "RELEASED"), event)
        case ReservationConsumed() as event:
            return _consumed(view, event)
        case _:
            return view


def _blank(event: ReservationEvent, status: Literal["HELD", "REJECTED", "RELEASED"]) -> ReservationView:
    return ReservationView(reservation_id=event.reservation_id, order_id=event.order_id, status=status)


def _released(view: ReservationView, event: ReservationReleased) -> ReservationView:
    after = view.model_copy(update={"released": view.released + event.lines, "release_reason": event.reason})
    if after.held or view.status == "CONSUMED":
        return after
    return after.model_copy(update={"status": "RELEASED"})


def _consumed(view: ReservationView | None, event: ReservationConsumed) -> ReservationView | None:
    if view is None or not event.lines:
        return view
    after = view.model_copy(update={"consumed": view.consumed + event.lines})
    return after if after.held else after.model_copy(update={"status": "CONSUMED"})


RESERVATIONS = Projection(
    name="reservation_view",
    view=ReservationView,
    key=lambda recorded: recorded.event.reservation_id if isinstance(recorded.event, ReservationEvent) else None,
    evolve=_reservation,
    indexed=("status", "order_id"),
)


class LocationView(View):
    """`changed_by` and `reason` say who last disabled or enabled it, and why."""

    location: str
    name: str
    country: str
    lat: float
    lon: float
    status: Literal["ENABLED", "DISABLED"] = "ENABLED"
    changed_by: str = ""
    reason: str = ""


def _location(view: LocationView | None, recorded: Recorded[Any]) -> LocationView | None:
    match recorded.event:
        case LocationRegistered() as event:
            data = event.model_dump(include={"location", "name", "country", "lat", "lon"})
            return view.model_copy(update=data) if view else LocationView(**data)
        case NodeDisabled() as event if view:
            return _switched(view, "DISABLED", event)
        case NodeEnabled() as event if view:
            return _switched(view, "ENABLED", event)
        case _:
            return view


def _switched(
    view: LocationView, status: Literal["ENABLED", "DISABLED"], event: NodeDisabled | NodeEnabled
) -> LocationView:
    return view.model_copy(update={"status": status, "changed_by": event.by, "reason": event.reason})


LOCATIONS = Projection(
    name="locations",
    view=LocationView,
    key=lambda recorded: recorded.event.location if isinstance(recorded.event, NetworkEvent) else None,
    evolve=_location,
    indexed=("status",),
)
