"""What is wrong with an order as a channel placed it. The same codes are given over Kafka and over HTTP."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

import pycountry

from libs.events.channel import Fault, OrderPlaced

MAX_FAULTS = 50

_CURRENCIES = frozenset(currency.alpha_3 for currency in pycountry.currencies)
_JOINERS = "\u200c\u200d"  # invisible, but Persian, Indic scripts and emoji are misspelled without them
_UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
_DIGITS = re.compile(r"\+?[0-9](?:[ -]*[0-9]){12,}")


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
    if not _is_clean(text):
        yield Fault(code="text_invalid", field=field, message="control characters, or not in Unicode form NFC")
    if any(_is_card_number(digits) for digits in _digit_runs(text)):
        yield Fault(code="pan_detected", field=field, message="looks like a card number")


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


def _is_clean(text: str) -> bool:
    if text.isascii():
        return text.isprintable()
    marred = any(unicodedata.category(char) in _UNPRINTABLE and char not in _JOINERS for char in text)
    return not marred and unicodedata.is_normalized("NFC", text)


def _digit_runs(text: str) -> Iterator[str]:
    """Neighbouring groups of digits that together have 13 to 19. A leading + makes it a telephone number."""
    for run in _DIGITS.findall(text):
        groups = [] if run.startswith("+") else re.findall("[0-9]+", run)
        for start in range(len(groups)):
            digits = ""
            for group in groups[start:]:
                digits += group
                if len(digits) > 19:
                    break
                if len(digits) >= 13:
                    yield digits


def _is_card_number(digits: str) -> bool:
    """Luhn's sum holds, and the first digit is one that cards of the payment networks begin with."""
    if digits[0] not in "23456":
        return False
    doubled = (int(digit) * (1 + index % 2) for index, digit in enumerate(reversed(digits)))
    return sum(value // 10 + value % 10 for value in doubled) % 10 == 0
