"""The tracking row after whole histories, and after the same histories heard in any order between the topics."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.events import fulfillment as f
from libs.events import inventory as i
from libs.events import order as o
from libs.events import payment as p
from libs.events.base import Destination, Event, Pii, ReleaseLine, ReservedLine
from libs.events.channel import Fault
from libs.events.codec import EVENT_CLASSES, decode, encode, event_type
from libs.events.envelope import Recorded
from libs.testing.scenario import NOW, recorded
from services.tracking.views.exception import OPEN_EXCEPTIONS, OpenException
from services.tracking.views.model import OrderTracking
from services.tracking.views.order import ORDER_TRACKING

ORDER = "5f0c6f4e-0001"
PAYMENT, RESERVATION = f"{ORDER}-p", f"{ORDER}-r1"
BERLIN = Destination(country="DE", postal_code="10115", lat=52.5, lon=13.4)
ANNA = Pii(customer_id="C-77", email="anna@example.org", ship_to={"name": "Anna Canary"})
LATER = NOW + timedelta(hours=1)
PLACED = datetime(2026, 1, 5, 9, 59, tzinfo=UTC)


def line(line_id: str, sku: str, qty: int) -> o.OrderLine:
    return o.OrderLine(line_id=line_id, sku=sku, qty=qty, amount=1999 * qty, tax=0, discount=0)


def held(line_id: str, sku: str, qty: int, location: str) -> ReservedLine:
    return ReservedLine(line_id=line_id, sku=sku, location=location, qty=qty)


def part(line_id: str, sku: str, qty: int) -> ReleaseLine:
    return ReleaseLine(line_id=line_id, sku=sku, qty=qty)


LINES = (line("1", "SKU-1", 2), line("2", "SKU-2", 1))
HELD = (held("1", "SKU-1", 2, "berlin"), held("2", "SKU-2", 1, "munich"))
TOTAL = 5997


def received(**fields: Any) -> o.OrderReceived:
    return o.OrderReceived(
        **{
            "order_id": ORDER,
            "channel": "web",
            "external_order_id": "W-1",
            "external_revision": 1,
            "content_hash": "abc",
            "placed_at": PLACED,
            "currency": "EUR",
            "lines": LINES,
            "shipping_method": "STD",
            "shipping_price": 0,
            "total": TOTAL,
            "psp": "sim",
            "token": "tok_visa",
            "split": "ALLOW",
            "destination": BERLIN,
            "pii": ANNA,
            **fields,
        }
    )


def stock_requested(attempt: int = 1) -> o.StockReservationRequested:
    return o.StockReservationRequested(
        order_id=ORDER,
        request_id=f"res:{ORDER}:1",
        reservation_id=RESERVATION,
        attempt=attempt,
        lines=tuple(o.RequestedLine(line_id=each.line_id, sku=each.sku, qty=each.qty) for each in LINES),
        split="ALLOW",
        destination=BERLIN,
        answer_by=LATER,
        expires_at=LATER,
    )


def reserved() -> i.StockReserved:
    return i.StockReserved(
        reservation_id=RESERVATION, order_id=ORDER, request_id=f"res:{ORDER}:1", lines=HELD, expires_at=LATER
    )


def released_stock(reason: i.ReleaseReason) -> i.ReservationReleased:
    return i.ReservationReleased(
        reservation_id=RESERVATION, order_id=ORDER, request_id=f"rel:{ORDER}", lines=HELD, reason=reason
    )


def authorization_requested(attempt: int = 1) -> o.PaymentAuthorizationRequested:
    return o.PaymentAuthorizationRequested(
        order_id=ORDER,
        request_id=f"auth:{ORDER}:1:{attempt}",
        payment_id=PAYMENT,
        attempt=attempt,
        amount=TOTAL,
        currency="EUR",
        psp="sim",
        token="tok_visa",
        reserved=HELD,
        not_before=NOW,
        answer_by=LATER,
        expires_at=LATER,
    )


def pay(cls: type[p.PaymentEvent], **fields: Any) -> p.PaymentEvent:
    return cls(payment_id=PAYMENT, order_id=ORDER, **fields)


def submitted(attempt: int = 1) -> p.PaymentEvent:
    return pay(
        p.PaymentAuthorizationSubmitted,
        attempt=attempt,
        psp="sim",
        idempotency_key=f"auth:{ORDER}:1:{attempt}",
        amount=TOTAL,
        currency="EUR",
        token="tok_visa",
        not_before=NOW,
    )


def authorized(amount: int = TOTAL, auth_id: str = "A-1", attempt: int = 1) -> p.PaymentEvent:
    fields = {"attempt": attempt, "auth_id": auth_id, "amount": amount, "currency": "EUR", "expires_at": LATER}
    return pay(p.PaymentAuthorized, **fields)


def voided(auth_id: str = "A-1") -> p.PaymentEvent:
    return pay(p.PaymentAuthorizationVoided, auth_id=auth_id)


def declined(attempt: int = 1) -> p.PaymentEvent:
    return pay(p.PaymentDeclined, attempt=attempt, code="insufficient_funds", retryable=False)


def captured(shipment_id: str, amount: int) -> p.PaymentEvent:
    return pay(
        p.PaymentCaptured,
        capture_id=f"cap:{ORDER}:{shipment_id}",
        shipment_id=shipment_id,
        amount=amount,
        currency="EUR",
        psp_reference="ch_1",
    )


def refunded(amount: int) -> p.PaymentEvent:
    return pay(p.PaymentRefunded, refund_id=f"R-{amount}", amount=amount, currency="EUR", psp_reference="re_1")


def unknown(key: str) -> p.PaymentEvent:
    return pay(p.PaymentOutcomeUnknown, operation="CAPTURE", idempotency_key=key)


def resolved(key: str) -> p.PaymentEvent:
    return pay(p.PaymentOutcomeResolved, operation="CAPTURE", idempotency_key=key, source="LOOKUP")


def confirmed() -> o.OrderConfirmed:
    return o.OrderConfirmed(order_id=ORDER, payment_id=PAYMENT, auth_id="A-1", amount=TOTAL, release_at=NOW)


class Parcel:
    """One release that becomes one shipment of one package, told by fulfillment and answered by the others."""

    def __init__(self, node: str, held: ReservedLine, amount: int) -> None:
        self.node, self.held, self.amount = node, held, amount
        self.release_id = f"{ORDER}-{node}-1"
        self.shipment_id = f"{self.release_id}-1"
        self.package_id = f"{self.shipment_id}-1"
        self.lines = (part(held.line_id, held.sku, held.qty),)
        self.packages = (f.Package(package_id=self.package_id, weight=500, lines=self.lines),)

    def release(self, cls: type[f.ReleaseEvent], **fields: Any) -> f.ReleaseEvent:
        return cls(release_id=self.release_id, order_id=ORDER, **fields)

    def shipment(self, cls: type[f.ShipmentEvent], **fields: Any) -> f.ShipmentEvent:
        return cls(shipment_id=self.shipment_id, order_id=ORDER, **fields)

    def requested(self) -> o.FulfillmentRequested:
        return o.FulfillmentRequested(
            order_id=ORDER,
            request_id=f"ful:{self.release_id}",
            release_id=self.release_id,
            node=self.node,
            lines=self.lines,
            shipping_method="STD",
            destination=BERLIN,
            ship_by=LATER,
            pii=ANNA,
        )

    def prepared(self) -> list[Event]:
        return [
            self.release(
                f.FulfillmentOrderCreated,
                node=self.node,
                lines=self.lines,
                shipping_method="STD",
                destination=BERLIN,
                pii=ANNA,
            ),
            self.release(f.FulfillmentAccepted, node=self.node),
            self.release(f.FulfillmentPicked, lines=self.lines),
            self.release(f.FulfillmentPacked, packages=self.packages),
            self.shipment(
                f.ShipmentCreated,
                release_id=self.release_id,
                node=self.node,
                packages=self.packages,
                destination=BERLIN,
                pii=ANNA,
            ),
            self.shipment(
                f.ShippingLabelPurchased,
                package_id=self.package_id,
                carrier="dhl",
                tracking_number=f"T-{self.node}",
                cost=399,
                currency="EUR",
            ),
        ]

    def dispatched(self) -> f.ShipmentEvent:
        return self.shipment(
            f.ShipmentDispatched,
            release_id=self.release_id,
            node=self.node,
            package_ids=(self.package_id,),
            carrier="dhl",
            tracking_numbers=(f"T-{self.node}",),
            lines=self.lines,
        )

    def settled(self) -> list[Event]:
        return [
            o.StockShipmentConfirmed(
                order_id=ORDER,
                request_id=f"ship:{self.shipment_id}",
                reservation_id=RESERVATION,
                shipment_id=self.shipment_id,
                lines=(self.held,),
            ),
            o.PaymentCaptureRequested(
                order_id=ORDER,
                request_id=f"cap:{ORDER}:{self.shipment_id}",
                payment_id=PAYMENT,
                capture_id=f"cap:{ORDER}:{self.shipment_id}",
                shipment_id=self.shipment_id,
                amount=self.amount,
                currency="EUR",
                lines=self.lines,
            ),
            i.ReservationConsumed(
                reservation_id=RESERVATION,
                order_id=ORDER,
                request_id=f"ship:{self.shipment_id}",
                shipment_id=self.shipment_id,
                lines=(self.held,),
            ),
            captured(self.shipment_id, self.amount),
            o.OrderPaymentCaptured(order_id=ORDER, shipment_id=self.shipment_id, amount=self.amount),
        ]

    def tracked(self, status: f.TrackingStatus, rank: int, at: datetime = LATER) -> f.ShipmentEvent:
        return self.shipment(
            f.ShipmentTrackingUpdated,
            package_id=self.package_id,
            status=status,
            rank=rank,
            carrier_event_id=f"{status}-1",
            carrier_time=at,
        )

    def delivered(self) -> list[Event]:
        return [
            self.tracked("IN_TRANSIT", 3),
            self.tracked("DELIVERED", 5),
            self.shipment(f.ShipmentDelivered, release_id=self.release_id, lines=self.lines),
            o.OrderShipmentDelivered(order_id=ORDER, shipment_id=self.shipment_id, lines=self.lines),
        ]


BERLIN_PARCEL = Parcel("berlin", HELD[0], 3998)
MUNICH_PARCEL = Parcel("munich", HELD[1], 1999)

ACCEPTED: list[Event] = [received(), o.OrderAccepted(order_id=ORDER), stock_requested()]
AUTHORIZED: list[Event] = [*ACCEPTED, reserved(), authorization_requested(), submitted(), authorized()]
CONFIRMED: list[Event] = [*AUTHORIZED, confirmed()]
RELEASED: list[Event] = [*CONFIRMED, BERLIN_PARCEL.requested(), MUNICH_PARCEL.requested()]
FIRST_GONE: list[Event] = [*RELEASED, *BERLIN_PARCEL.prepared(), BERLIN_PARCEL.dispatched()]
BOTH_GONE: list[Event] = [
    *FIRST_GONE,
    *BERLIN_PARCEL.settled(),
    *MUNICH_PARCEL.prepared(),
    MUNICH_PARCEL.dispatched(),
    *MUNICH_PARCEL.settled(),
]
HAPPY: list[Event] = [
    *BOTH_GONE,
    *MUNICH_PARCEL.delivered(),
    *BERLIN_PARCEL.delivered(),
    o.OrderCompleted(order_id=ORDER),
]


def cancelled(reason: o.CancelReason) -> o.OrderCancelled:
    return o.OrderCancelled(order_id=ORDER, reason=reason)


def release_requested(reason: o.CancelReason) -> o.ReservationReleaseRequested:
    return o.ReservationReleaseRequested(
        order_id=ORDER, request_id=f"rel:{ORDER}", reservation_id=RESERVATION, reason=reason, lines=HELD
    )


OUT_OF_STOCK: list[Event] = [
    *ACCEPTED,
    i.StockReservationRejected(
        reservation_id=RESERVATION,
        order_id=ORDER,
        request_id=f"res:{ORDER}:1",
        short_lines=(i.ShortLine(line_id="1", sku="SKU-1", qty=2, available=0),),
    ),
    cancelled("OUT_OF_STOCK"),
]
DECLINED: list[Event] = [
    *ACCEPTED,
    reserved(),
    authorization_requested(1),
    submitted(1),
    declined(1),
    o.PaymentMethodUpdateRequested(order_id=ORDER, attempt=1, code="insufficient_funds", expires_at=LATER),
    authorization_requested(2),
    submitted(2),
    declined(2),
    release_requested("PAYMENT_DECLINED"),
    cancelled("PAYMENT_DECLINED"),
    released_stock("PAYMENT_DECLINED"),
]
CANCELLED: list[Event] = [
    *CONFIRMED,
    release_requested("CUSTOMER"),
    o.PaymentVoidRequested(order_id=ORDER, request_id="void:A-1", payment_id=PAYMENT, auth_id="A-1", reason="CUSTOMER"),
    cancelled("CUSTOMER"),
    released_stock("CUSTOMER"),
    pay(p.PaymentVoidSubmitted, idempotency_key="void:A-1", auth_id="A-1"),
    voided(),
]
REJECTED: list[Event] = [
    received(),
    o.OrderRejected(
        order_id=ORDER,
        channel="web",
        external_order_id="W-1",
        external_revision=1,
        reasons=(Fault(code="TOTAL_MISMATCH", field="totals.grand"),),
    ),
]
CORRECTED: list[Event] = [
    *REJECTED,
    received(external_revision=2, lines=(line("2", "SKU-2", 1),), total=1999),
    o.OrderAccepted(order_id=ORDER),
]
LOST: list[Event] = [
    *BOTH_GONE,
    MUNICH_PARCEL.shipment(f.ShipmentLost, release_id=MUNICH_PARCEL.release_id, package_id=MUNICH_PARCEL.package_id),
    *BERLIN_PARCEL.delivered(),
]


def hold(hold_id: str = "H-1", type: o.HoldType = "PAYMENT") -> o.OrderHoldPlaced:
    return o.OrderHoldPlaced(order_id=ORDER, hold_id=hold_id, type=type, reason="capture failed")


def unhold(hold_id: str = "H-1") -> o.OrderHoldReleased:
    return o.OrderHoldReleased(order_id=ORDER, hold_id=hold_id, reason="settled")


def stuck(waiting_for: Any = "STOCK") -> o.OrderStuckDetected:
    return o.OrderStuckDetected(order_id=ORDER, waiting_for=waiting_for, since=NOW)


UNHAPPY: list[Event] = [
    *FIRST_GONE,
    *BERLIN_PARCEL.settled()[:2],
    unknown("cap:1"),
    resolved("cap:1"),
    pay(
        p.PaymentCaptureFailed,
        capture_id="cap:1",
        shipment_id=BERLIN_PARCEL.shipment_id,
        amount=3998,
        currency="EUR",
        code="expired",
    ),
    hold(),
    MUNICH_PARCEL.release(f.FulfillmentRejected, node="munich", reason="closed"),
    hold("H-2", "MANUAL"),
]

HISTORIES = {
    "happy": HAPPY,
    "out_of_stock": OUT_OF_STOCK,
    "declined": DECLINED,
    "cancelled": CANCELLED,
    "rejected": REJECTED,
    "corrected": CORRECTED,
    "lost": LOST,
    "unhappy": UNHAPPY,
}


def as_heard(events: Sequence[Event]) -> list[Recorded[Any]]:
    """A second between any two events, versions counted per stream."""
    versions: dict[str, int] = {}
    heard = []
    for nth, event in enumerate(events):
        versions[event.stream_id] = versions.get(event.stream_id, 0) + 1
        heard.append(recorded(event, stream_version=versions[event.stream_id], at=moment(nth)))
    return heard


def moment(nth: int) -> datetime:
    return NOW + timedelta(seconds=nth)


def tracked(heard: Sequence[Recorded[Any]]) -> OrderTracking:
    view: OrderTracking | None = None
    for item in heard:
        assert ORDER_TRACKING.key(item) == ORDER
        view = ORDER_TRACKING.evolve(view, item)
    assert view is not None
    return view


def after(*events: Event) -> OrderTracking:
    return tracked(as_heard(events))


def open_exception(*events: Event) -> OpenException | None:
    view: OpenException | None = None
    for item in as_heard(events):
        if OPEN_EXCEPTIONS.key(item):
            view = OPEN_EXCEPTIONS.evolve(view, item)
    return view


def axes(view: OrderTracking) -> tuple[str, str, str, str]:
    return view.status, view.order_status, view.payment_status, view.fulfillment_status


def when(events: Sequence[Event], cls: type[Event], last: bool = False) -> datetime:
    found = [nth for nth, event in enumerate(events) if isinstance(event, cls)]
    return moment(found[-1 if last else 0])


# the way of one order


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([received()], ("RECEIVED", "RECEIVED", "NONE", "UNFULFILLED")),
        (ACCEPTED, ("ACCEPTED", "ACCEPTED", "NONE", "UNFULFILLED")),
        ([*ACCEPTED, reserved()], ("ACCEPTED", "ACCEPTED", "NONE", "ALLOCATED")),
        (AUTHORIZED[:-1], ("ACCEPTED", "ACCEPTED", "PENDING", "ALLOCATED")),
        (AUTHORIZED, ("ACCEPTED", "ACCEPTED", "AUTHORIZED", "ALLOCATED")),
        (CONFIRMED, ("CONFIRMED", "CONFIRMED", "AUTHORIZED", "ALLOCATED")),
        (RELEASED, ("CONFIRMED", "CONFIRMED", "AUTHORIZED", "RELEASED")),
        (FIRST_GONE, ("IN_FULFILLMENT", "CONFIRMED", "AUTHORIZED", "PARTIALLY_SHIPPED")),
        (
            [*FIRST_GONE, *BERLIN_PARCEL.settled()],
            ("IN_FULFILLMENT", "IN_FULFILLMENT", "PARTIALLY_CAPTURED", "PARTIALLY_SHIPPED"),
        ),
        (BOTH_GONE, ("IN_FULFILLMENT", "IN_FULFILLMENT", "CAPTURED", "SHIPPED")),
        (
            [*BOTH_GONE, *MUNICH_PARCEL.delivered()],
            ("IN_FULFILLMENT", "IN_FULFILLMENT", "CAPTURED", "PARTIALLY_DELIVERED"),
        ),
        (HAPPY, ("COMPLETED", "COMPLETED", "CAPTURED", "DELIVERED")),
    ],
)
def test_order_on_its_way_shows_its_statuses(events: list[Event], expected: tuple[str, str, str, str]) -> None:
    assert axes(after(*events)) == expected


def test_completed_order_shows_amounts_lines_packages_and_times() -> None:
    view = after(*HAPPY)

    assert not view.exception
    assert (view.channel, view.external_order_id, view.currency) == ("web", "W-1", "EUR")
    assert view.placed_day == date(2026, 1, 5)
    assert view.amounts.model_dump() == {"total": TOTAL, "authorized": TOTAL, "captured": TOTAL, "refunded": 0}
    assert [each.model_dump() for each in view.lines] == [
        {"line_id": "1", "sku": "SKU-1", "ordered": 2, "reserved": 0, "shipped": 2, "delivered": 2},
        {"line_id": "2", "sku": "SKU-2", "ordered": 1, "reserved": 0, "shipped": 1, "delivered": 1},
    ]
    assert [(each.node, each.status) for each in view.releases] == [("berlin", "PACKED"), ("munich", "PACKED")]
    assert [(each.node, each.carrier, each.tracking_number, each.status) for each in view.packages] == [
        ("berlin", "dhl", "T-berlin", "DELIVERED"),
        ("munich", "dhl", "T-munich", "DELIVERED"),
    ]
    assert view.milestones.model_dump() == {
        "placed_at": PLACED,
        "received_at": moment(0),
        "accepted_at": moment(1),
        "reserved_at": when(HAPPY, i.StockReserved),
        "authorized_at": when(HAPPY, p.PaymentAuthorized),
        "confirmed_at": when(HAPPY, o.OrderConfirmed),
        "released_at": when(HAPPY, o.FulfillmentRequested),
        "dispatched_at": when(HAPPY, f.ShipmentDispatched),
        "captured_at": when(HAPPY, p.PaymentCaptured, last=True),
        "delivered_at": when(HAPPY, f.ShipmentDelivered, last=True),
        "completed_at": when(HAPPY, o.OrderCompleted),
        "ended_at": when(HAPPY, o.OrderCompleted),
    }


def test_order_heard_of_from_others_first_is_expected() -> None:
    paid = after(submitted(), authorized())
    assert axes(paid) == ("EXPECTED", "EXPECTED", "AUTHORIZED", "UNFULFILLED")
    gone = after(*BERLIN_PARCEL.prepared(), BERLIN_PARCEL.dispatched())
    assert axes(gone) == ("IN_FULFILLMENT", "EXPECTED", "NONE", "PARTIALLY_SHIPPED")
    there = after(*BERLIN_PARCEL.prepared(), BERLIN_PARCEL.dispatched(), BERLIN_PARCEL.delivered()[2])
    assert there.fulfillment_status == "PARTIALLY_DELIVERED"


def test_order_is_reserved_since_the_first_reservation() -> None:
    another = reserved().model_copy(update={"reservation_id": f"{ORDER}-r2"})
    assert after(reserved(), another).milestones.reserved_at == moment(0)


def test_day_of_an_order_placed_abroad_is_in_utc() -> None:
    at = datetime.fromisoformat("2026-01-05T23:30:00-05:00")
    assert after(received(placed_at=at)).placed_day == date(2026, 1, 6)


# the ways out


def test_order_out_of_stock_is_cancelled_with_nothing_held() -> None:
    view = after(*OUT_OF_STOCK)
    assert axes(view) == ("CANCELLED", "CANCELLED", "NONE", "UNFULFILLED")
    assert view.cancel_reason == "OUT_OF_STOCK"
    assert view.milestones.ended_at == when(OUT_OF_STOCK, o.OrderCancelled)
    assert view.milestones.completed_at is None


def test_declined_order_gives_its_stock_back() -> None:
    view = after(*DECLINED)
    assert axes(view) == ("CANCELLED", "CANCELLED", "DECLINED", "UNFULFILLED")
    assert (view.cancel_reason, view.attempt.decline_code) == ("PAYMENT_DECLINED", "insufficient_funds")
    assert [each.reserved for each in view.lines] == [0, 0]


def test_cancelled_order_holds_neither_stock_nor_money() -> None:
    view = after(*CANCELLED)
    assert axes(view) == ("CANCELLED", "CANCELLED", "VOIDED", "UNFULFILLED")
    assert view.amounts.authorized == 0


def test_cancellation_that_overtook_its_order_is_pending() -> None:
    started = o.OrderCancellationStarted(order_id=ORDER, channel="web", external_order_id="W-1", reason="CUSTOMER")
    ahead = after(started)
    assert (ahead.status, ahead.channel, ahead.external_order_id) == ("CANCEL_PENDING", "web", "W-1")
    assert after(started, received(), cancelled("CUSTOMER")).status == "CANCELLED"


def test_rejected_order_names_its_faults() -> None:
    view = after(*REJECTED)
    assert axes(view) == ("REJECTED", "REJECTED", "NONE", "UNFULFILLED")
    assert [fault.code for fault in view.rejections] == ["TOTAL_MISMATCH"]
    assert view.milestones.ended_at == moment(1)


def test_order_rejected_unread_is_found_by_its_reference() -> None:
    view = after(REJECTED[1])
    assert (view.status, view.channel, view.external_order_id) == ("REJECTED", "web", "W-1")


def test_rejected_order_that_was_corrected_begins_afresh() -> None:
    view = after(*CORRECTED)
    assert (view.status, view.external_revision, view.amounts.total) == ("ACCEPTED", 2, 1999)
    assert [(each.line_id, each.ordered) for each in view.lines] == [("2", 1)]
    assert view.rejections == ()
    assert view.milestones.ended_at is None


def test_lost_package_is_an_exception_of_fulfillment() -> None:
    view = after(*LOST)
    assert view.fulfillment_status == "EXCEPTION"
    assert [each.status for each in view.packages] == ["DELIVERED", "LOST"]


def test_returned_package_is_an_exception_of_fulfillment() -> None:
    parcel = BERLIN_PARCEL
    back = parcel.shipment(f.ShipmentReturnedToSender, release_id=parcel.release_id, package_id=parcel.package_id)
    view = after(*BOTH_GONE, back)
    assert view.fulfillment_status == "EXCEPTION"
    assert view.packages[0].status == "RETURN_TO_SENDER"


def test_rejected_release_is_an_exception_of_fulfillment() -> None:
    view = after(*RELEASED, BERLIN_PARCEL.release(f.FulfillmentRejected, node="berlin", reason="closed"))
    assert (view.fulfillment_status, view.releases[0].status) == ("EXCEPTION", "REJECTED")


def test_delivered_shipment_does_not_bring_a_lost_package_back() -> None:
    lost = BERLIN_PARCEL.shipment(
        f.ShipmentLost, release_id=BERLIN_PARCEL.release_id, package_id=BERLIN_PARCEL.package_id
    )
    assert after(*BOTH_GONE, lost, BERLIN_PARCEL.delivered()[2]).packages[0].status == "LOST"


def test_late_word_of_a_carrier_does_not_turn_a_package_back() -> None:
    at = LATER + timedelta(days=1)
    view = after(*FIRST_GONE, BERLIN_PARCEL.tracked("OUT_FOR_DELIVERY", 4, at), BERLIN_PARCEL.tracked("IN_TRANSIT", 3))
    assert (view.packages[0].status, view.packages[0].status_at) == ("OUT_FOR_DELIVERY", at)


# money


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([voided(), authorized(TOTAL - 1)], "PARTIALLY_AUTHORIZED"),
        ([captured("S-1", 1000)], "PARTIALLY_CAPTURED"),
        ([captured("S-1", 1000), voided()], "CAPTURED"),
        ([captured("S-1", TOTAL), refunded(1000)], "PARTIALLY_REFUNDED"),
        ([captured("S-1", TOTAL), refunded(1000), refunded(TOTAL - 1000)], "REFUNDED"),
        ([captured("S-1", TOTAL), captured("S-2", 1)], "OVERCHARGED"),
    ],
)
def test_money_moved_shows_in_the_payment_status(events: list[Event], expected: str) -> None:
    assert after(*AUTHORIZED, *events).payment_status == expected


def test_second_authorization_that_is_voided_leaves_the_first() -> None:
    both = [*AUTHORIZED, submitted(2), authorized(auth_id="A-2", attempt=2)]
    assert after(*both).amounts.authorized == 2 * TOTAL
    view = after(*both, voided("A-1"))
    assert (view.payment_status, view.amounts.authorized) == ("AUTHORIZED", TOTAL)
    assert [each.auth_id for each in view.authorizations] == ["A-2"]
    assert view.milestones.authorized_at == when(both, p.PaymentAuthorized)


def test_void_after_a_capture_leaves_what_was_captured() -> None:
    assert after(*AUTHORIZED, captured("S-1", 1000), voided()).amounts.authorized == 1000


def test_late_decline_of_an_earlier_attempt_changes_nothing() -> None:
    pending = [*ACCEPTED, submitted(1), submitted(2)]
    assert after(*pending, declined(1)).payment_status == "PENDING"
    assert after(*pending, declined(2)).payment_status == "DECLINED"
    assert after(*pending, authorized(auth_id="A-2", attempt=2), declined(1)).payment_status == "AUTHORIZED"


def test_outcome_is_unknown_until_it_is_resolved() -> None:
    assert after(*CONFIRMED, unknown("cap:1"), unknown("cap:2"), unknown("cap:1")).unknown_outcomes == (
        "cap:2",
        "cap:1",
    )
    assert after(*CONFIRMED, unknown("cap:1"), unknown("cap:2"), resolved("cap:1")).unknown_outcomes == ("cap:2",)


# what someone must look at


def test_open_hold_lies_over_the_status() -> None:
    view = after(*CONFIRMED, hold())
    assert (view.status, view.exception) == ("CONFIRMED", True)
    assert [(each.hold_id, each.since) for each in view.holds] == [("H-1", moment(len(CONFIRMED)))]
    assert not after(*CONFIRMED, hold(), unhold()).exception


def test_open_hold_has_a_row_until_it_is_released() -> None:
    row = open_exception(*CONFIRMED, hold())
    assert row is not None
    assert (row.type, row.reason, row.owner) == ("PAYMENT", "capture failed", "operations")
    assert row.since == moment(len(CONFIRMED))
    assert open_exception(*CONFIRMED, hold(), unhold()) is None


def test_two_holds_have_one_row_that_stays_for_the_second() -> None:
    row = open_exception(hold("H-1"), hold("H-2", "MANUAL"), unhold("H-1"))
    assert row is not None
    assert (row.type, [each.hold_id for each in row.holds]) == ("MANUAL", ["H-2"])


def test_hold_placed_twice_is_one() -> None:
    row = open_exception(hold(), hold())
    assert row is not None
    assert len(row.holds) == 1
    assert open_exception(hold(), hold(), unhold()) is None


def test_hold_outlives_the_order() -> None:
    assert open_exception(hold(), cancelled("CUSTOMER")) is not None


def test_stuck_order_has_a_row_until_the_answer_shows() -> None:
    row = open_exception(*ACCEPTED, stuck())
    assert row is not None
    assert (row.type, row.reason, row.since) == ("STUCK", "no answer about stock", NOW)
    assert open_exception(*ACCEPTED, stuck(), stock_requested(2)) is not None
    assert open_exception(*ACCEPTED, stuck(), authorization_requested()) is None
    assert after(*ACCEPTED, stuck()).exception
    assert not after(*ACCEPTED, stuck(), authorization_requested()).exception


def test_order_on_hold_and_stuck_keeps_its_row_for_either() -> None:
    assert open_exception(stuck(), hold(), unhold()) is not None
    assert open_exception(stuck(), hold(), cancelled("MANUAL")) is not None
    assert open_exception(stuck(), hold(), cancelled("MANUAL"), unhold()) is None


@pytest.mark.parametrize(
    "moved", [BERLIN_PARCEL.settled()[0], BERLIN_PARCEL.settled()[4], BERLIN_PARCEL.delivered()[3]]
)
def test_one_shipment_that_moves_does_not_hide_another_that_is_overdue(moved: Event) -> None:
    assert open_exception(*RELEASED, stuck("FULFILLMENT"), moved) is not None
    assert open_exception(*RELEASED, stuck("FULFILLMENT"), moved, o.OrderCompleted(order_id=ORDER)) is None


def test_exceptions_look_at_the_order_s_own_events_only() -> None:
    assert [OPEN_EXCEPTIONS.key(item) for item in as_heard([reserved(), authorized(), BERLIN_PARCEL.dispatched()])] == [
        None
    ] * 3


# any order between the topics


def interleaved(events: Sequence[Event]) -> st.SearchStrategy[list[Recorded[Any]]]:
    """The history heard in another order: only the events of one stream keep theirs."""
    heard = as_heard(events)

    def in_turns_of(streams: Sequence[str]) -> list[Recorded[Any]]:
        waiting = {stream: iter([item for item in heard if item.stream_id == stream]) for stream in streams}
        return [next(waiting[stream]) for stream in streams]

    return st.permutations([item.stream_id for item in heard]).map(in_turns_of)


@pytest.mark.parametrize("name", HISTORIES)
@settings(max_examples=40)
@given(data=st.data())
def test_order_between_streams_does_not_change_the_final_view(name: str, data: st.DataObject) -> None:
    events = HISTORIES[name]
    view = tracked(data.draw(interleaved(events)))
    assert view == after(*events)
    assert view.model_dump_json() == after(*events).model_dump_json()


@pytest.mark.parametrize("name", HISTORIES)
def test_topics_heard_one_after_the_other_in_reverse_give_the_same_view(name: str) -> None:
    """The extreme that chance rarely draws: fulfillment wholly before payment, before stock, before the order."""
    events = HISTORIES[name]
    ranks = {"release": 0, "shipment": 0, "payment": 1, "reservation": 2, "order": 3}
    assert tracked(sorted(as_heard(events), key=lambda item: ranks[item.event.category])) == after(*events)


@pytest.mark.parametrize("name", HISTORIES)
def test_view_stored_after_each_event_equals_the_fold(name: str) -> None:
    view: OrderTracking | None = None
    for item in as_heard(HISTORIES[name]):
        view = ORDER_TRACKING.evolve(view, item)
        view = view and OrderTracking.model_validate_json(view.model_dump_json())
    assert view == after(*HISTORIES[name])


@pytest.mark.parametrize("name", HISTORIES)
def test_view_of_decoded_events_is_the_same(name: str) -> None:
    events = HISTORIES[name]
    read = [decode(event_type(type(event)), event.schema_version, encode(event)) for event in events]
    assert after(*read) == after(*events)


@pytest.mark.parametrize("name", HISTORIES)
def test_first_word_of_an_order_makes_its_row(name: str) -> None:
    for event in HISTORIES[name]:
        view = ORDER_TRACKING.evolve(None, recorded(event))
        assert view is not None
        assert view.order_id == ORDER


def test_only_events_of_orders_have_a_row() -> None:
    shipped = i.StockHeld(sku="SKU-1", location="berlin", qty=1, reservation_id=RESERVATION)
    assert ORDER_TRACKING.key(recorded(shipped)) is None
    without = {"stock", "network"}
    for cls in EVENT_CLASSES.values():
        assert "order_id" in cls.model_fields or cls.category in without or ".channel." in event_type(cls)


@pytest.mark.parametrize("name", HISTORIES)
def test_no_personal_data_is_kept(name: str) -> None:
    text = after(*HISTORIES[name]).model_dump_json()
    assert all(word not in text for word in ("Anna", "anna@", "C-77", "tok_"))


def test_lines_are_sorted_by_number() -> None:
    view = after(received(lines=tuple(line(str(n), f"SKU-{n}", 1) for n in (10, 9, 2))))
    assert [each.line_id for each in view.lines] == ["2", "9", "10"]
