"""An event as one short sentence for people."""

import re
from collections.abc import Iterable

from libs.events import fulfillment, inventory, order, payment
from libs.events.base import Event, ReleaseLine, ReservedLine

_EXPONENT = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI"), 0),
    **dict.fromkeys(("VND", "VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
}
"""Digits behind the point by ISO 4217 where they are not two."""


def money(minor: int, currency: str) -> str:
    digits = _EXPONENT.get(currency, 2)
    whole, part = divmod(minor, 10**digits)
    return f"{whole}.{part:0{digits}} {currency}" if digits else f"{minor} {currency}"


def summary(event: Event) -> str:
    match event:
        case order.OrderEvent():
            return _of_order(event)
        case payment.PaymentEvent():
            return _of_payment(event)
        case inventory.ReservationEvent():
            return _of_stock(event)
        case _:
            return _of_fulfillment(event)


def in_words(event: Event) -> str:
    """`ShippingLabelPurchased` reads "Shipping label purchased"."""
    return re.sub(r"(?<=.)([A-Z])", lambda letter: " " + letter[1].lower(), type(event).__name__)


def _units(lines: Iterable[ReservedLine | ReleaseLine]) -> str:
    count = sum(line.qty for line in lines)
    return "1 unit" if count == 1 else f"{count} units"


def _of_order(event: order.OrderEvent) -> str:
    match event:
        case order.OrderReceived():
            worth = money(event.total, event.currency)
            return f"Order {event.external_order_id} of {worth} received from {event.channel}"
        case order.OrderRejected():
            return f"Order rejected: {', '.join(fault.code for fault in event.reasons)}"
        case order.StockReservationRequested():
            return f"Stock requested (attempt {event.attempt})"
        case order.PaymentAuthorizationRequested():
            return f"Authorisation of {money(event.amount, event.currency)} requested (attempt {event.attempt})"
        case order.PaymentMethodUpdateRequested():
            return f"Another payment method asked for: {event.code}"
        case order.FulfillmentRequested():
            return f"{_units(event.lines)} released to {event.node}"
        case order.PaymentCaptureRequested():
            return f"Capture of {money(event.amount, event.currency)} requested"
        case order.RefundRequested():
            return f"Refund of {money(event.amount, event.currency)} requested by {event.by}: {event.reason}"
        case order.OrderCancelled():
            return f"Order cancelled: {event.reason}"
        case order.OrderCancellationRefused():
            return f"Cancellation refused: {event.reason}"
        case order.OrderHoldPlaced():
            return f"{event.type} hold placed: {event.reason}"
        case order.OrderHoldReleased():
            return f"Hold released: {event.reason}"
        case order.OrderStuckDetected():
            return f"No answer about {event.waiting_for.lower()} in time"
        case order.OrderManuallyResolved():
            return f"Settled by {event.by} ({event.resolution}): {event.reason}"
        case _:
            return in_words(event)


def _of_stock(event: inventory.ReservationEvent) -> str:
    match event:
        case inventory.StockReserved():
            return f"{_units(event.lines)} reserved at {', '.join(sorted({line.location for line in event.lines}))}"
        case inventory.StockReservationRejected():
            return f"Stock refused: {', '.join(line.sku for line in event.short_lines)} short"
        case inventory.ReservationReleased():
            return f"{_units(event.lines)} given back: {event.reason}"
        case inventory.ReservationConsumed():
            return f"{_units(event.lines)} left the stock"
        case _:
            return in_words(event)


def _of_payment(event: payment.PaymentEvent) -> str:
    match event:
        case payment.PaymentAuthorized():
            return f"Payment of {money(event.amount, event.currency)} authorised"
        case payment.PaymentDeclined():
            return f"Payment declined: {event.code}"
        case payment.PaymentCaptured():
            return f"{money(event.amount, event.currency)} captured"
        case payment.PaymentCaptureFailed():
            return f"Capture of {money(event.amount, event.currency)} failed: {event.code}"
        case payment.PaymentRefunded():
            return f"{money(event.amount, event.currency)} refunded"
        case payment.RefundFailed():
            return f"Refund of {money(event.amount, event.currency)} failed: {event.code}"
        case payment.PaymentOutcomeUnknown():
            return f"The PSP did not say what became of {event.operation}"
        case payment.PaymentOutcomeResolved():
            return f"Outcome of {event.operation} known by {event.source.lower()}"
        case _:
            return in_words(event)


def _of_fulfillment(event: Event) -> str:
    match event:
        case fulfillment.FulfillmentAccepted():
            return f"{event.node} accepted the release"
        case fulfillment.FulfillmentRejected():
            return f"{event.node} rejected the release: {event.reason}"
        case fulfillment.ShippingLabelPurchased():
            return f"{event.carrier} label {event.tracking_number} bought for {money(event.cost, event.currency)}"
        case fulfillment.ShipmentDispatched():
            return f"{_units(event.lines)} dispatched with {event.carrier}"
        case fulfillment.ShipmentTrackingUpdated():
            return f"Package {event.status.lower().replace('_', ' ')}"
        case fulfillment.ShipmentDelivered():
            return f"{_units(event.lines)} delivered"
        case _:
            return in_words(event)
