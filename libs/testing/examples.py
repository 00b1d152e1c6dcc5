"""One deterministic example of every event, filled by field name and type so that it looks like the domain."""

from collections.abc import Mapping
from datetime import UTC, datetime
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from libs.events.base import Event
from libs.events.channel import order_id_of

E = TypeVar("E", bound=Event)

ORDER = order_id_of("web-eu", "W-10023")
RESERVATION, PAYMENT = f"{ORDER}-r1", f"{ORDER}-p"
RELEASE = f"{ORDER}-berlin-1"
SHIPMENT = f"{RELEASE}-1"
PACKAGE = f"{SHIPMENT}-1"
CAPTURE, REFUND = f"cap:{ORDER}:{SHIPMENT}", f"{ORDER}-f1"
AUTHORIZE = f"auth:{ORDER}:1:1"


def _at(day: int, time: str) -> datetime:
    return datetime.fromisoformat(f"2026-01-{day:02}T{time}").replace(tzinfo=UTC)


BY_NAME: Mapping[str, Any] = {
    "order_id": ORDER,
    "reservation_id": RESERVATION,
    "payment_id": PAYMENT,
    "release_id": RELEASE,
    "shipment_id": SHIPMENT,
    "package_id": PACKAGE,
    "package_ids": (PACKAGE,),
    "capture_id": CAPTURE,
    "refund_id": REFUND,
    "auth_id": "au_7f3k",
    "hold_id": f"{ORDER}-h1",
    "receipt_id": "ASN-4711",
    "carrier_event_id": "dhl-88120045",
    "network_id": "main",
    "channel": "web-eu",
    "external_order_id": "W-10023",
    "external_revision": 1,
    "content_hash": "9b74c9897bac770ffc029102a200c5de",
    "line_id": "1",
    "sku": "SKU-1",
    "qty": 2,
    "available": 1,
    "unit_price": 1999,
    "amount": 5291,
    "items": 3998,
    "tax": 798,
    "discount": 0,
    "shipping_price": 495,
    "price": 495,
    "total": 5291,
    "grand": 5291,
    "cost": 399,
    "weight": 850,
    "currency": "EUR",
    "attempt": 1,
    "rank": 3,
    "psp": "adyen",
    "psp_reference": "ch_51Nq",
    "token": "tok_9aZ",
    "code": "insufficient_funds",
    "carrier": "dhl",
    "tracking_number": "00340434161094042557",
    "tracking_numbers": ("00340434161094042557",),
    "node": "berlin",
    "location": "berlin",
    "name": "Berlin Mitte",
    "method": "STD",
    "shipping_method": "STD",
    "country": "DE",
    "postal_code": "10115",
    "lat": 52.5,
    "lon": 13.4,
    "customer_id": "C-2001",
    "email": "ada@example.org",
    "ship_to": {"name": "Ada Example", "street": "Invalidenstr. 1", "city": "Berlin"},
    "bill_to": {"name": "Ada Example"},
    "by": "operator-7",
    "reason": "seen on the shelf",
    "message": "does not add up",
    "field": "totals.grand",
    "placed_at": _at(5, "10:00:00"),
    "not_before": _at(5, "10:00:01"),
    "answer_by": _at(5, "10:01:01"),
    "look_up_at": _at(5, "10:00:31"),
    "since": _at(5, "10:01:01"),
    "expires_at": _at(5, "10:15:01"),
    "release_at": _at(5, "10:30:01"),
    "ship_by": _at(6, "10:30:00"),
    "carrier_time": _at(7, "08:12:00"),
    "requested_by": _at(9, "18:00:00"),
}

BY_CLASS: Mapping[tuple[str, str], Any] = {
    ("OrderLine", "amount"): 3998,
    ("PlacedLine", "amount"): 3998,
    ("PlacedPayment", "auth_ref"): None,
    ("PlacedTotals", "shipping"): 495,
    ("Fault", "code"): "TOTAL_MISMATCH",
    ("StockReservationRequested", "request_id"): f"res:{ORDER}:1",
    ("StockReserved", "request_id"): f"res:{ORDER}:1",
    ("StockReservationRejected", "request_id"): f"res:{ORDER}:1",
    ("ReservationReleaseRequested", "request_id"): f"rel:{RESERVATION}:CUSTOMER:1",
    ("ReservationReleaseRequested", "reason"): "CUSTOMER",
    ("ReservationReleased", "request_id"): f"rel:{RESERVATION}:CUSTOMER:1",
    ("StockShipmentConfirmed", "request_id"): f"ship:{SHIPMENT}",
    ("ReservationConsumed", "request_id"): f"ship:{SHIPMENT}",
    ("FulfillmentRequested", "request_id"): f"rls:{RELEASE}",
    ("PaymentAuthorizationRequested", "request_id"): AUTHORIZE,
    ("PaymentAuthorizationSubmitted", "idempotency_key"): AUTHORIZE,
    ("PaymentCaptureRequested", "request_id"): CAPTURE,
    ("PaymentCaptureSubmitted", "idempotency_key"): CAPTURE,
    ("PaymentVoidRequested", "request_id"): "void:au_7f3k",
    ("PaymentVoidSubmitted", "idempotency_key"): "void:au_7f3k",
    ("RefundRequested", "request_id"): f"ref:{ORDER}:{REFUND}",
    ("RefundRequested", "amount"): 1000,
    ("RefundRequested", "reason"): "scratched on arrival",
    ("RefundSubmitted", "idempotency_key"): f"ref:{ORDER}:{REFUND}",
    ("RefundSubmitted", "amount"): 1000,
    ("PaymentRefunded", "amount"): 1000,
    ("PaymentRefunded", "psp_reference"): "re_77Ab",
    ("RefundFailed", "amount"): 1000,
    ("RefundFailed", "code"): "account_closed",
    ("PaymentOutcomeUnknown", "idempotency_key"): AUTHORIZE,
    ("PaymentOutcomeResolved", "idempotency_key"): AUTHORIZE,
    ("PaymentOutcomeResolved", "by"): "",
    ("PaymentOutcomeResolved", "reason"): "",
    ("PaymentVoidFailed", "code"): "already_captured",
    ("PaymentCaptureFailed", "code"): "authorization_expired",
    ("PaymentAuthorized", "expires_at"): _at(12, "10:00:02"),
    ("PaymentMethodUpdateRequested", "expires_at"): _at(6, "10:00:03"),
    ("OrderCancellationRequested", "reason"): "CUSTOMER",
    ("OrderCancellationStarted", "reason"): "CUSTOMER",
    ("OrderHoldPlaced", "reason"): "capture failed: authorization_expired",
    ("OrderHoldReleased", "reason"): "captured by hand",
    ("OrderManuallyResolved", "reason"): "customer called",
    ("FulfillmentRejected", "reason"): "closed for stocktaking",
    ("NodeDisabled", "reason"): "water damage",
    ("NodeEnabled", "reason"): "dried out",
    ("StockAdjusted", "qty"): -1,
    ("StockAdjusted", "reason"): "damaged",
    ("StockReceived", "qty"): 40,
    ("ShipmentTrackingUpdated", "status"): "IN_TRANSIT",
}


def example(cls: type[E]) -> E:
    """The same event every time. A new field needs an entry above only where its type alone would not look right."""
    return _model(cls)


M = TypeVar("M", bound=BaseModel)


def _model(cls: type[M]) -> M:
    return cls(**{name: _value(cls, name) for name in cls.model_fields})


def _value(cls: type[BaseModel], name: str) -> Any:
    """By class, by name where the type allows it, by type; a default where none of them says anything better."""
    if (cls.__name__, name) in BY_CLASS:
        return BY_CLASS[cls.__name__, name]
    field = cls.model_fields[name]
    if name in BY_NAME and not _is_literal(field.annotation):
        return BY_NAME[name]
    if field.default is not PydanticUndefined and not isinstance(field.default, BaseModel):
        return field.default
    return _of_type(field.annotation, name)


def _is_literal(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, UnionType):
        return all(_is_literal(each) for each in get_args(annotation))
    return get_origin(annotation) is Literal


def _of_type(annotation: Any, name: str) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _of_type(arguments[0], name)
    if origin is Literal:
        return arguments[0]
    if origin in (Union, UnionType):
        return _of_type(next(each for each in arguments if each is not NoneType), name)
    if origin is tuple:
        return (_of_type(arguments[0], name),)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _model(annotation)
    return _of_plain_type(annotation, name)


_PLAIN: Mapping[Any, Any] = {int: 1, float: 1.5, bool: True, datetime: _at(5, "10:00:00")}


def _of_plain_type(annotation: Any, name: str) -> Any:
    if annotation is str:
        return name
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    raise TypeError(f"no example for {name}: {annotation}")
