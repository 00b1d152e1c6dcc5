"""What inventory shows after its events."""

from datetime import timedelta
from typing import Any

from libs.events.base import ReservedLine
from libs.events.inventory import (
    LocationRegistered,
    NodeDisabled,
    NodeEnabled,
    ReservationConsumed,
    ReservationReleased,
    ShortLine,
    StockAdjusted,
    StockHeld,
    StockHoldReleased,
    StockReceived,
    StockReservationRejected,
    StockReserved,
    StockShipped,
)
from libs.events.order import OrderAccepted
from libs.testing.scenario import NOW, projected, recorded
from services.inventory.views import (
    AVAILABILITY,
    LOCATIONS,
    RESERVATIONS,
    AvailabilityView,
    LevelView,
    LocationView,
    ReservationView,
)

LATER = NOW + timedelta(minutes=15)
R: dict[str, Any] = {"reservation_id": "O1-r1", "order_id": "O1", "request_id": "q"}
RECEIVED = StockReceived(sku="X", location="HAM", qty=10, receipt_id="PO-1")
HELD = StockHeld(sku="X", location="HAM", qty=4, reservation_id="O1-r1")
ALL = (ReservedLine(line_id="1", sku="X", location="HAM", qty=4),)
ONE = (ReservedLine(line_id="1", sku="X", location="HAM", qty=1),)
THREE = (ReservedLine(line_id="1", sku="X", location="HAM", qty=3),)
RESERVED = StockReserved(**R, lines=ALL, expires_at=LATER)


def availability(*events: Any) -> AvailabilityView:
    view = projected(AVAILABILITY, *events)
    assert view is not None
    return view


def reservation(*events: Any) -> ReservationView:
    view = projected(RESERVATIONS, *events)
    assert view is not None
    return view


def test_availability_is_kept_per_location_and_in_all() -> None:
    elsewhere = StockReceived(sku="X", location="MUC", qty=5, receipt_id="PO-1")
    found = StockAdjusted(sku="X", location="MUC", qty=-2, reason="count", by="ann")
    assert availability(RECEIVED, elsewhere, HELD, found) == AvailabilityView(
        sku="X",
        on_hand=13,
        reserved=4,
        atp=9,
        locations={
            "HAM": LevelView(on_hand=10, reserved=4, atp=6),
            "MUC": LevelView(on_hand=3, reserved=0, atp=3),
        },
    )


def test_released_hold_can_be_promised_again_and_shipped_stock_is_gone() -> None:
    released = StockHoldReleased(sku="X", location="HAM", qty=1, reservation_id="O1-r1")
    shipped = StockShipped(sku="X", location="HAM", qty=3, reservation_id="O1-r1", shipment_id="S1")
    here = LevelView(on_hand=7, reserved=0, atp=7)
    assert availability(RECEIVED, HELD, released, shipped).locations == {"HAM": here}


def test_reservation_is_held_until_all_has_left_it() -> None:
    assert reservation(RESERVED) == ReservationView(
        reservation_id="O1-r1", order_id="O1", status="HELD", reserved=ALL, expires_at=LATER
    )
    first = ReservationConsumed(**R, shipment_id="S1", lines=ONE)
    assert reservation(RESERVED, first).status == "HELD"
    rest = ReservationConsumed(**R, shipment_id="S2", lines=THREE)
    done = reservation(RESERVED, first, rest)
    assert (done.status, done.consumed) == ("CONSUMED", ONE + THREE)


def test_reservation_is_released_when_its_rest_is() -> None:
    shipped = ReservationConsumed(**R, shipment_id="S1", lines=ONE)
    released = ReservationReleased(**R, lines=THREE, reason="CUSTOMER")
    view = reservation(RESERVED, shipped, released)
    assert (view.status, view.consumed, view.released, view.release_reason) == ("RELEASED", ONE, THREE, "CUSTOMER")
    part = ReservationReleased(**R, lines=ONE, reason="CUSTOMER")
    assert reservation(RESERVED, part).status == "HELD"


def test_release_of_nothing_leaves_a_consumed_reservation_consumed() -> None:
    consumed = ReservationConsumed(**R, shipment_id="S1", lines=ALL)
    nothing = ReservationReleased(**R, lines=(), reason="LATE")
    assert reservation(RESERVED, consumed, nothing).status == "CONSUMED"


def test_rejected_reservation_shows_what_is_short() -> None:
    missing = (ShortLine(line_id="1", sku="X", qty=4, available=1),)
    rejected = StockReservationRejected(**R, short_lines=missing)
    view = reservation(rejected)
    assert (view.status, view.short_lines, view.expires_at) == ("REJECTED", missing, None)
    nothing = ReservationReleased(**R, lines=(), reason="LATE")
    assert reservation(rejected, nothing).status == "RELEASED"
    assert reservation(nothing, rejected).status == "RELEASED"


def test_shipment_of_an_unknown_reservation_shows_nothing() -> None:
    assert projected(RESERVATIONS, ReservationConsumed(**R, shipment_id="S1", lines=())) is None


def test_location_shows_its_data_and_who_switched_it() -> None:
    registered = LocationRegistered(location="HAM", name="Hamburg", country="DE", lat=53.5, lon=10.0)
    moved = LocationRegistered(location="HAM", name="Hamburg 2", country="DE", lat=53.6, lon=10.1)
    disabled = NodeDisabled(location="HAM", by="ann", reason="flood")
    enabled = NodeEnabled(location="HAM", by="bob", reason="dry")
    assert projected(LOCATIONS, registered) == LocationView(
        location="HAM", name="Hamburg", country="DE", lat=53.5, lon=10.0
    )
    assert projected(LOCATIONS, registered, disabled, moved) == LocationView(
        location="HAM",
        name="Hamburg 2",
        country="DE",
        lat=53.6,
        lon=10.1,
        status="DISABLED",
        changed_by="ann",
        reason="flood",
    )
    back = projected(LOCATIONS, registered, disabled, enabled)
    assert back is not None
    assert (back.status, back.changed_by, back.reason) == ("ENABLED", "bob", "dry")


def test_each_view_takes_only_its_own_streams() -> None:
    registered = LocationRegistered(location="HAM", name="Hamburg", country="DE", lat=53.5, lon=10.0)
    keys = {
        projection.name: [projection.key(recorded(event)) for event in (RECEIVED, RESERVED, registered)]
        for projection in (AVAILABILITY, RESERVATIONS, LOCATIONS)
    }
    assert keys == {
        "availability": ["X", None, None],
        "reservation_view": [None, "O1-r1", None],
        "locations": [None, None, "HAM"],
    }
    for projection in (AVAILABILITY, RESERVATIONS, LOCATIONS):
        assert projection.evolve(None, recorded(OrderAccepted(order_id="O1"))) is None


def test_indexed_fields_are_fields_of_their_views() -> None:
    for projection in (AVAILABILITY, RESERVATIONS, LOCATIONS):
        assert set(projection.indexed) <= projection.view.model_fields.keys()
