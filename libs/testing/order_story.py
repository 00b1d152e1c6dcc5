"""One order and everything that can happen to it, event by event: what is given to tests of the order service.

Three units of SKU-1 (worth 1100 together: an amount that three do not divide) and two of SKU-2, from two nodes.
"""

from datetime import timedelta

from libs.events.base import Destination, Pii, ReleaseLine, ReservedLine
from libs.events.order import (
    FulfillmentRequested,
    OrderAccepted,
    OrderCancelled,
    OrderCompleted,
    OrderConfirmed,
    OrderEvents,
    OrderLine,
    OrderPaymentCaptured,
    OrderReceived,
    OrderShipmentDelivered,
    PaymentAuthorizationRequested,
    PaymentCaptureRequested,
    PaymentMethodUpdateRequested,
    RequestedLine,
    StockReservationRequested,
    StockShipmentConfirmed,
)
from libs.testing.builders import order_placed, placed_line
from libs.testing.scenario import NOW

TOTAL = 2095
PLACED = order_placed(
    "W-1",
    placed_line("SKU-1", qty=3, amount=1000, tax=190, discount=90),
    placed_line("SKU-2", qty=2, amount=500),
    shipping=495,
)
ORDER = PLACED.order_id
RESERVATION, PAYMENT = f"{ORDER}-r1", f"{ORDER}-p"
BERLIN, HAMBURG = f"{ORDER}-berlin-1", f"{ORDER}-hamburg-1"
DESTINATION = Destination(country="DE", postal_code="10115", lat=52.5, lon=13.4)
RESERVED = (
    ReservedLine(line_id="SKU-1", sku="SKU-1", location="berlin", qty=2),
    ReservedLine(line_id="SKU-1", sku="SKU-1", location="hamburg", qty=1),
    ReservedLine(line_id="SKU-2", sku="SKU-2", location="hamburg", qty=2),
)

RECEIVED = OrderReceived(
    order_id=ORDER,
    channel="web",
    external_order_id="W-1",
    external_revision=1,
    content_hash="071b9c7f7f38caa49d1e69258c47d084dfcb36bf2a5245303a80805bccdf4d48",
    placed_at=NOW,
    currency="EUR",
    lines=(
        OrderLine(line_id="SKU-1", sku="SKU-1", qty=3, amount=1000, tax=190, discount=90),
        OrderLine(line_id="SKU-2", sku="SKU-2", qty=2, amount=500, tax=0, discount=0),
    ),
    shipping_method="STD",
    shipping_price=495,
    total=TOTAL,
    psp="sim",
    token="tok_visa",
    split="ALLOW",
    destination=DESTINATION,
    pii=Pii(),
)
STOCK_REQUESTED = StockReservationRequested(
    order_id=ORDER,
    request_id=f"res:{ORDER}:1",
    reservation_id=RESERVATION,
    attempt=1,
    lines=(RequestedLine(line_id="SKU-1", sku="SKU-1", qty=3), RequestedLine(line_id="SKU-2", sku="SKU-2", qty=2)),
    split="ALLOW",
    destination=DESTINATION,
    answer_by=NOW + timedelta(seconds=60),
    expires_at=NOW + timedelta(minutes=15),
)
AUTH_REQUESTED = PaymentAuthorizationRequested(
    order_id=ORDER,
    request_id=f"auth:{ORDER}:1:1",
    payment_id=PAYMENT,
    attempt=1,
    amount=TOTAL,
    currency="EUR",
    psp="sim",
    token="tok_visa",
    reserved=RESERVED,
    not_before=NOW,
    answer_by=NOW + timedelta(seconds=120),
    expires_at=NOW + timedelta(minutes=15),
)
METHOD_ASKED = PaymentMethodUpdateRequested(
    order_id=ORDER, attempt=1, code="stolen_card", expires_at=NOW + timedelta(hours=24)
)
CONFIRMED = OrderConfirmed(order_id=ORDER, payment_id=PAYMENT, auth_id="au_1", amount=TOTAL, release_at=NOW)


def release_line(sku: str, qty: int) -> ReleaseLine:
    return ReleaseLine(line_id=sku, sku=sku, qty=qty)


def release(release_id: str, node: str, *lines: ReleaseLine) -> FulfillmentRequested:
    return FulfillmentRequested(
        order_id=ORDER,
        request_id=f"rls:{release_id}",
        release_id=release_id,
        node=node,
        lines=lines,
        shipping_method="STD",
        destination=DESTINATION,
        ship_by=NOW + timedelta(days=2),
        deliver_by=NOW + timedelta(days=16),
        pii=Pii(),
    )


def shipment(node: str, amount: int, *lines: ReleaseLine) -> tuple[StockShipmentConfirmed, PaymentCaptureRequested]:
    """What the order says when a node's only shipment has left."""
    shipment_id = f"{ORDER}-{node}-1-1"
    reserved = tuple(ReservedLine(line_id=line.line_id, sku=line.sku, location=node, qty=line.qty) for line in lines)
    return (
        StockShipmentConfirmed(
            order_id=ORDER,
            request_id=f"ship:{shipment_id}",
            reservation_id=RESERVATION,
            shipment_id=shipment_id,
            lines=reserved,
        ),
        PaymentCaptureRequested(
            order_id=ORDER,
            request_id=f"cap:{ORDER}:{shipment_id}",
            payment_id=PAYMENT,
            capture_id=f"cap:{ORDER}:{shipment_id}",
            shipment_id=shipment_id,
            amount=amount,
            currency="EUR",
            lines=lines,
        ),
    )


BERLIN_LINES = (release_line("SKU-1", 2),)
HAMBURG_LINES = (release_line("SKU-1", 1), release_line("SKU-2", 2))
RELEASES = (release(BERLIN, "berlin", *BERLIN_LINES), release(HAMBURG, "hamburg", *HAMBURG_LINES))
BERLIN_AMOUNT, HAMBURG_AMOUNT = 1100 * 2 // 3 + 495, (1100 - 1100 * 2 // 3) + 500
BERLIN_SHIPPED = shipment("berlin", BERLIN_AMOUNT, *BERLIN_LINES)
HAMBURG_SHIPPED = shipment("hamburg", HAMBURG_AMOUNT, *HAMBURG_LINES)
BERLIN_PARCEL, HAMBURG_PARCEL = f"{BERLIN}-1", f"{HAMBURG}-1"


def captured(shipment_id: str, amount: int) -> OrderPaymentCaptured:
    return OrderPaymentCaptured(order_id=ORDER, shipment_id=shipment_id, amount=amount)


def delivered(shipment_id: str, *lines: ReleaseLine) -> OrderShipmentDelivered:
    return OrderShipmentDelivered(order_id=ORDER, shipment_id=shipment_id, lines=lines)


Story = tuple[OrderEvents, ...]
ACCEPTED: Story = (RECEIVED, OrderAccepted(order_id=ORDER), STOCK_REQUESTED)
PAYING: Story = (*ACCEPTED, AUTH_REQUESTED)
AWAITING_METHOD: Story = (*PAYING, METHOD_ASKED)
UNRELEASED: Story = (*PAYING, CONFIRMED.model_copy(update={"release_at": NOW + timedelta(minutes=30)}))
RELEASED: Story = (*PAYING, CONFIRMED, *RELEASES)
PARTLY_SHIPPED: Story = (*RELEASED, *BERLIN_SHIPPED)
SHIPPED: Story = (*PARTLY_SHIPPED, *HAMBURG_SHIPPED)
PAID: Story = (*SHIPPED, captured(BERLIN_PARCEL, BERLIN_AMOUNT), captured(HAMBURG_PARCEL, HAMBURG_AMOUNT))
DELIVERED: Story = (*SHIPPED, delivered(BERLIN_PARCEL, *BERLIN_LINES), delivered(HAMBURG_PARCEL, *HAMBURG_LINES))
COMPLETED: Story = (*PAID, *DELIVERED[len(SHIPPED) :], OrderCompleted(order_id=ORDER))
CANCELLED: Story = (*ACCEPTED, OrderCancelled(order_id=ORDER, reason="CUSTOMER"))
