"""Whenever the order asks, inventory is told."""

from datetime import timedelta

from libs.events.base import Destination, ReservedLine
from libs.events.order import (
    OrderAccepted,
    RequestedLine,
    ReservationReleaseRequested,
    StockReservationRequested,
    StockShipmentConfirmed,
)
from libs.testing.scenario import NOW, recorded
from services.inventory.domain.command import ConsumeReservation, ReleaseReservation, ReserveStock
from services.inventory.policy import WANTS, react
from services.inventory.service import service

PARTS = (ReservedLine(line_id="1", sku="X", location="HAM", qty=2),)
BERLIN = Destination(country="DE", lat=52.5, lon=13.4)
LINES = (RequestedLine(line_id="1", sku="X", qty=2),)

RESERVATION_REQUESTED = StockReservationRequested(
    order_id="O1",
    request_id="res:O1:1",
    reservation_id="O1-r1",
    attempt=1,
    lines=LINES,
    split="NO",
    destination=BERLIN,
    answer_by=NOW,
    expires_at=NOW + timedelta(minutes=15),
)
RELEASE_REQUESTED = ReservationReleaseRequested(
    order_id="O1", request_id="rel:1", reservation_id="O1-r1", reason="LATE", lines=PARTS
)
SHIPMENT_CONFIRMED = StockShipmentConfirmed(
    order_id="O1", request_id="ship:1", reservation_id="O1-r1", shipment_id="S1", lines=PARTS
)


def test_reservation_requested_reserves() -> None:
    assert react(recorded(RESERVATION_REQUESTED)) == [
        ReserveStock("O1-r1", "O1", "res:O1:1", LINES, "NO", BERLIN, NOW + timedelta(minutes=15))
    ]


def test_release_requested_releases() -> None:
    assert react(recorded(RELEASE_REQUESTED)) == [ReleaseReservation("O1-r1", "O1", "rel:1", "LATE", PARTS)]


def test_shipment_confirmed_consumes() -> None:
    assert react(recorded(SHIPMENT_CONFIRMED)) == [ConsumeReservation("O1-r1", "O1", "ship:1", "S1", PARTS)]


def test_other_events_are_none_of_its_business() -> None:
    assert react(recorded(OrderAccepted(order_id="O1"))) == []


def test_every_wanted_event_is_reacted_to() -> None:
    events = (RESERVATION_REQUESTED, RELEASE_REQUESTED, SHIPMENT_CONFIRMED)
    assert {type(event) for event in events} == WANTS == service().wants
    assert all(react(recorded(event)) for event in events)
