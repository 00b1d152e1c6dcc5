"""What is wrong with an order as a channel placed it. The same codes are given over Kafka and over HTTP."""

from collections import Counter
from collections.abc import Iterator

import pycountry

from libs.events.channel import Fault, OrderPlaced
from libs.events.text import faults_in

MAX_FAULTS = 50

_CURRENCIES = frozenset(currency.alpha_3 for currency in pycountry.currencies)


def validate(placed: OrderPlaced) -> tuple[Fault, ...]:
    """All that keeps this from being an order, at most fifty; no fault repeats a value."""
    faults = [
        *_totals(placed),
        *_lines(placed),
        *_currency(placed),
        *_unsupported(placed),
        *_payment(placed),
        *(fault for field, text in _texts(placed) for fault in text_faults(field, text)),
    ]
    return tuple(faults[:MAX_FAULTS])


def text_faults(field: str, text: str) -> Iterator[Fault]:
    for code, message in faults_in(text):
        yield Fault(code=code, field=field, message=message)


def _totals(placed: OrderPlaced) -> Iterator[Fault]:
    totals = placed.totals
    items, tax, discount = (sum(getattr(line, name) for line in placed.lines) for name in ("amount", "tax", "discount"))
    expected = {
        "items": items,
        "tax": tax,
        "discount": discount,
        "shipping": placed.shipping.price,
        "grand": items + placed.shipping.price + tax - discount,
    }
    for name, value in expected.items():
        if getattr(totals, name) != value:
            yield Fault(code="totals_mismatch", field=f"totals.{name}", message="is not the sum of the lines")


def _lines(placed: OrderPlaced) -> Iterator[Fault]:
    seen = Counter(line.line_id for line in placed.lines)
    for index, line in enumerate(placed.lines):
        if line.discount > line.amount + line.tax:
            yield Fault(code="discount_exceeds", field=f"lines.{index}.discount", message="exceeds amount and tax")
        if seen[line.line_id] > 1:
            yield Fault(code="duplicate_line", field=f"lines.{index}.line_id", message="is used by several lines")


def _currency(placed: OrderPlaced) -> Iterator[Fault]:
    if placed.currency not in _CURRENCIES:
        yield Fault(code="unknown_currency", field="currency", message="not a code of ISO 4217")


def _unsupported(placed: OrderPlaced) -> Iterator[Fault]:
    asked = {
        "payment.mode": placed.payment.mode != "AUTHORIZE",
        "policies.stock": placed.policies.stock != "ALL_OR_NOTHING",
        "policies.substitute": placed.policies.substitute != "NO",
        "shipping.requested_by": placed.shipping.requested_by is not None,
        **{f"lines.{n}.fulfillment": line.fulfillment == "PICKUP" for n, line in enumerate(placed.lines)},
    }
    for field, unsupported in asked.items():
        if unsupported:
            yield Fault(code="UNSUPPORTED", field=field, message="not supported yet")


def _payment(placed: OrderPlaced) -> Iterator[Fault]:
    if placed.payment.mode == "AUTHORIZE" and not placed.payment.token:
        yield Fault(code="token_missing", field="payment.token", message="an authorisation needs a token")


def _texts(placed: OrderPlaced) -> Iterator[tuple[str, str]]:
    """The free texts. Ids are no free text: an article or order number may pass for a card number by chance."""
    pii = placed.pii
    yield "payment.token", placed.payment.token
    yield "payment.auth_ref", placed.payment.auth_ref or ""
    yield "destination.postal_code", placed.destination.postal_code
    yield "pii.customer_id", pii.customer_id
    yield "pii.email", pii.email
    for name, address in (("ship_to", pii.ship_to), ("bill_to", pii.bill_to)):
        for key, value in address.items():
            yield f"pii.{name}", key
            yield f"pii.{name}", value
