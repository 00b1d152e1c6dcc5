"""A small history in which everything is right, made by hand, and the means to spoil it."""

import json
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.faults.oracle.history import TOPIC_OF, Counters, Fact, Head, History, Sent, Usage

AT = datetime(2026, 1, 5, 10, tzinfo=UTC)
NOW = AT + timedelta(minutes=5)
CHANNEL = "web"
SKU, NODE = "SKU-1", "node-a"
TOTAL = 2 * 500 + 100 + 50
"""Two units of 5.00 each with 1.00 tax, and 0.50 for shipping."""

GONE, CALLED_OFF = "order-a", "order-b"
HELD = [{"line_id": "1", "sku": SKU, "location": NODE, "qty": 2}]
LINES = [{"line_id": "1", "sku": SKU, "qty": 2}]
MATCH = {"order": "order", "reservation": "inventory", "stock": "inventory"}


def service_of(stream: str) -> str:
    category = stream.partition("-")[0]
    return {**MATCH, "payment": "payment", "release": "fulfillment", "shipment": "fulfillment"}[category]


class Maker:
    """Appends events as a service does, and keeps the books that follow from them."""

    def __init__(self) -> None:
        self.history = History(now=NOW)
        self._versions: Counter[str] = Counter()
        self._positions: Counter[str] = Counter()

    def add(self, stream: str, name: str, key: str = "", cause: str = "", **data: Any) -> Fact:
        service = service_of(stream)
        self._versions[stream] += 1
        self._positions[service] += 1
        fact = Fact(
            service=service,
            position=self._positions[service],
            stream=stream,
            version=self._versions[stream],
            id=str(uuid.uuid4()),
            type=f"oms.{service}.{name}",
            raw=json.dumps(data).encode(),
            meta={"key": data.get("order_id") or SKU, "idempotency_key": key, "causation_id": cause or stream},
            recorded_at=AT,
        )
        self.history.facts.setdefault(service, []).append(fact)
        return fact

    def order(self, order_id: str, key: str, token: str = "tok_visa") -> None:
        """Received, accepted, reserved and authorised."""
        stream, reservation = f"order-{order_id}", f"{order_id}-r1"
        line = {"line_id": "1", "sku": SKU, "qty": 2, "amount": 1000, "tax": 100, "discount": 0}
        self.add(
            stream,
            "OrderReceived",
            key,
            f"request-{key}",
            order_id=order_id,
            channel=CHANNEL,
            external_order_id=order_id,
            lines=[line],
            shipping_price=50,
            total=TOTAL,
            token=token,
        )
        self.add(stream, "OrderAccepted", key, f"request-{key}", order_id=order_id)
        self.add(stream, "StockReservationRequested", key, f"request-{key}", order_id=order_id)
        about = {"reservation_id": reservation, "order_id": order_id}
        self.add(f"reservation-{reservation}", "StockReserved", **about, lines=HELD)
        self.stock("StockHeld", 2, reservation)
        self.add(stream, "PaymentAuthorizationRequested", order_id=order_id)
        self.payment(order_id, "PaymentAuthorizationSubmitted", attempt=1, idempotency_key=f"auth:{order_id}")
        self.payment(order_id, "PaymentAuthorized", attempt=1, auth_id=f"A-{order_id}", amount=TOTAL, currency="EUR")
        self.charge("authorize", f"auth:{order_id}", order_id, TOTAL)
        self.add(stream, "OrderConfirmed", order_id=order_id)

    def complete(self, order_id: str) -> None:
        stream, release, shipment = f"order-{order_id}", f"{order_id}-n-1", f"{order_id}-n-1-1"
        self.add(stream, "FulfillmentRequested", order_id=order_id)
        about = {"release_id": release, "order_id": order_id}
        for name in ("FulfillmentOrderCreated", "FulfillmentAccepted", "FulfillmentPicked", "FulfillmentPacked"):
            self.add(f"release-{release}", name, **about)
        self.called("warehouse", "release", release, f"rls:{release}")
        about = {"shipment_id": shipment, "order_id": order_id}
        self.add(f"shipment-{shipment}", "ShipmentCreated", **about, packages=[{"package_id": "p1"}])
        self.add(f"shipment-{shipment}", "ShippingLabelPurchased", **about, package_id="p1")
        self.called("carrier", "label", shipment, f"lbl:{shipment}")
        self.add(f"shipment-{shipment}", "ShipmentDispatched", **about, lines=LINES)
        self.add(stream, "StockShipmentConfirmed", order_id=order_id)
        self.add(stream, "PaymentCaptureRequested", order_id=order_id)
        reservation = f"{order_id}-r1"
        left: dict[str, Any] = {
            "reservation_id": reservation,
            "order_id": order_id,
            "lines": HELD,
            "shipment_id": shipment,
        }
        self.add(f"reservation-{reservation}", "ReservationConsumed", **left)
        self.stock("StockShipped", 2, reservation)
        capture = {"capture_id": f"cap:{order_id}", "shipment_id": shipment, "amount": TOTAL, "currency": "EUR"}
        self.payment(order_id, "PaymentCaptureSubmitted", **capture, idempotency_key=f"cap:{order_id}")
        self.payment(order_id, "PaymentOutcomeUnknown", operation="CAPTURE", idempotency_key=f"cap:{order_id}")
        self.payment(order_id, "PaymentOutcomeResolved", operation="CAPTURE", idempotency_key=f"cap:{order_id}")
        self.payment(order_id, "PaymentCaptured", **capture)
        self.charge("capture", f"cap:{order_id}", order_id, TOTAL)
        self.add(f"shipment-{shipment}", "ShipmentDelivered", **about)
        for name in ("OrderPaymentCaptured", "OrderShipmentDelivered", "OrderCompleted"):
            self.add(stream, name, order_id=order_id)
        self.history.balances.append(_balance(order_id, captured=TOTAL))

    def refund(self, order_id: str, amount: int) -> None:
        refund = {"refund_id": "rf-1", "amount": amount, "currency": "EUR"}
        self.add(f"order-{order_id}", "RefundRequested", order_id=order_id, amount=amount)
        self.payment(order_id, "RefundSubmitted", **refund, idempotency_key=f"ref:{order_id}")
        self.payment(order_id, "PaymentRefunded", **refund)
        self.charge("refund", f"ref:{order_id}", order_id, amount)

    def cancel(self, order_id: str) -> None:
        stream, reservation = f"order-{order_id}", f"{order_id}-r1"
        self.add(stream, "ReservationReleaseRequested", order_id=order_id)
        self.add(stream, "PaymentVoidRequested", order_id=order_id)
        self.add(stream, "OrderCancelled", order_id=order_id)
        about = {"reservation_id": reservation, "order_id": order_id}
        self.add(f"reservation-{reservation}", "ReservationReleased", **about, lines=HELD)
        self.stock("StockHoldReleased", 2, reservation)
        void = {"auth_id": f"A-{order_id}"}
        self.payment(order_id, "PaymentVoidSubmitted", **void, idempotency_key=f"void:{order_id}")
        self.payment(order_id, "PaymentAuthorizationVoided", **void)
        self.charge("void", f"void:{order_id}", order_id, TOTAL)
        self.history.balances.append(_balance(order_id, voided=TOTAL))

    def stock(self, name: str, qty: int, reservation: str = "") -> None:
        self.add(f"stock-{SKU}", name, sku=SKU, location=NODE, qty=qty, reservation_id=reservation)

    def payment(self, order_id: str, name: str, **data: Any) -> None:
        self.add(f"payment-{order_id}-p", name, payment_id=f"{order_id}-p", order_id=order_id, **data)

    def charge(self, operation: str, key: str, order_id: str, amount: int) -> None:
        self.called("psp", operation, f"{order_id}-p", key, amount=amount, currency="EUR")

    def called(self, simulator: str, operation: str, reference: str, key: str, **more: Any) -> None:
        row = {"operation": operation, "reference": reference, "idempotency_key": key, "status_code": 201, **more}
        row["created_at"] = AT.isoformat()
        self.history.ledgers.setdefault(simulator, []).append(row)

    def placed(self, n: int, order_id: str, key: str, **done: Any) -> None:
        """By HTTP, with its answer."""
        types = [fact.name for fact in self.history.facts.get("order", []) if fact.meta["idempotency_key"] == key]
        about = {"do": "place", "door": "http", "service": "order", "method": "POST", "path": "/orders", "key": key}
        ids = {"channel": CHANNEL, "external": order_id, "expect": "order", "digest": order_id}
        self.history.journal.append({"e": "about", "n": n, **about, **ids})
        body = json.dumps({"events": types})
        answer = {"outcome": "ok", "status": 201, "body": body, "headers": {"content-type": "application/json"}}
        self.history.journal.append({"e": "done", "n": n, **answer, **done})

    def publish(self) -> None:
        """What a relay and the consumers make of it."""
        history, offsets = self.history, Counter[str]()
        for fact in history.all():
            topic = TOPIC_OF[fact.category]
            headers = {
                "ce_id": fact.id,
                "ce_type": fact.type,
                "ce_subject": fact.stream,
                "ce_aggregateversion": str(fact.version),
            }
            sent = [(name, value.encode()) for name, value in headers.items()]
            history.records.append(Sent(topic, 0, offsets[topic], fact.meta["key"].encode(), fact.raw, tuple(sent)))
            offsets[topic] += 1
            history.heard[fact.stream, fact.version] = fact.raw
        history.ends = {(topic, 0): end for topic, end in offsets.items()}
        history.counters = {"tracking": {place: Counters(end, end, 0, 0, 0) for place, end in history.ends.items()}}
        for service in history.facts:
            streams = {stream: facts for stream, facts in history.streams.items() if facts[0].service == service}
            history.heads[service] = [Head(stream, len(facts), None) for stream, facts in streams.items()]


def _balance(order_id: str, captured: int = 0, voided: int = 0) -> dict[str, Any]:
    return {"reference": f"{order_id}-p", "authorised": TOTAL, "captured": captured, "refunded": 0, "voided": voided}


def begun() -> Maker:
    """Ten units on the shelf; one order completed, one cancelled, both placed by HTTP and answered."""
    maker = Maker()
    maker.stock("StockReceived", 10)
    maker.order(GONE, "key-a")
    maker.order(CALLED_OFF, "key-b")
    maker.complete(GONE)
    maker.cancel(CALLED_OFF)
    maker.placed(1, GONE, "key-a")
    maker.placed(2, CALLED_OFF, "key-b")
    return maker


def finished(maker: Maker) -> History:
    maker.publish()
    history = maker.history
    level = {"on_hand": 8, "reserved": 0, "atp": 8}
    history.views = {"inventory": {"availability": {SKU: {"locations": {NODE: level}}}}}
    history.rebuilt = json.loads(json.dumps(history.views))
    history.attempts = history.attempts_after = {"psp": 4}
    history.appended_by_rebuild = {"order": 0}
    history.samples = [{("order", "oms.payment.events", 0): n} for n in (1, 3, 3, 7)]
    megabyte = 1 << 20
    history.usage = [Usage("order", 90 * megabyte, 40, 8, 3, warm=True), Usage("order", 95 * megabyte, 42, 9, 0, False)]
    history.openapi = {"order": {"paths": {"/orders": {"post": {"responses": {"201": {}, "422": {}, "503": {}}}}}}}
    return history


def sound() -> History:
    return finished(begun())
