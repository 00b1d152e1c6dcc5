"""The PSP's own ledger against the payment events: key by key and in sum."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from oms.audit.evidence import Evidence, Fact
from oms.audit.finding import Finding, finding

INTENTS = {
    "PaymentAuthorizationSubmitted": "authorize",
    "PaymentCaptureSubmitted": "capture",
    "PaymentVoidSubmitted": "void",
    "RefundSubmitted": "refund",
}
SUMS = {"authorize": "authorised", "capture": "captured", "void": "voided", "refund": "refunded"}

Key = tuple[str, str, str]  # operation, payment, and what is operated on: an attempt, a capture, an authorisation


def psp_agrees(evidence: Evidence) -> Finding:
    """Every operation in the ledger was meant, under its key and for its amount, and is known here for what it was."""
    intents = {fact.data["idempotency_key"]: fact for fact in evidence.payment if fact.type in INTENTS}
    known = dict(_outcomes(evidence))
    held = {(row["authorization_id"]): row["authorised"] for row in evidence.balances}
    rows = {row["idempotency_key"]: row for row in evidence.ledger}

    def offenders() -> Iterator[str]:
        yield from (f"{key}: charged without being asked" for key in sorted(rows.keys() - intents.keys()))
        for key, intent in sorted(intents.items()):
            row, outcome = rows.get(key), known.get(_subject(intent))
            yield from _disagreement(key, intent, row, outcome, held)
        yield from _sums(evidence)
        yield from _live(evidence)

    done = Counter(row["operation"] for row in evidence.ledger if row["status_code"] < 300)
    figures = ", ".join(f"{done[operation]} {name}" for operation, name in SUMS.items())
    return finding("the PSP's ledger = payment events", f"{len(rows):,} operations: {figures}", offenders())


def _disagreement(
    key: str, intent: Fact, row: Mapping[str, Any] | None, outcome: tuple[bool, int] | None, held: Mapping[str, int]
) -> Iterator[str]:
    if row is None:
        if outcome is not None:
            yield f"{key}: has an outcome here, and the PSP knows nothing of it"
        return
    if outcome is None:
        yield f"{key}: the PSP answered {row['status_code']}, and no event says so"
        return
    operation = INTENTS[intent.type]
    if row["operation"] != operation:
        yield f"{key}: meant as {operation}, done as {row['operation']}"
    succeeded, amount = outcome
    if succeeded != (row["status_code"] < 300):
        yield f"{key}: the PSP answered {row['status_code']}, the event says {'yes' if succeeded else 'no'}"
    elif succeeded:
        expected = held.get(intent.data["auth_id"]) if operation == "void" else amount
        if row["amount"] != expected:
            yield f"{key}: the PSP moved {row['amount']}, the event says {expected}"


def _subject(fact: Fact) -> Key:
    data, payment_id = fact.data, fact.data["payment_id"]
    match fact.type:
        case "PaymentAuthorizationSubmitted" | "PaymentAuthorized" | "PaymentDeclined":
            return "authorize", payment_id, str(data["attempt"])
        case "PaymentCaptureSubmitted" | "PaymentCaptured" | "PaymentCaptureFailed":
            return "capture", payment_id, data["capture_id"]
        case "PaymentVoidSubmitted" | "PaymentAuthorizationVoided" | "PaymentVoidFailed":
            return "void", payment_id, data["auth_id"]
        case _:
            return "refund", payment_id, data["refund_id"]


def _outcomes(evidence: Evidence) -> Iterator[tuple[Key, tuple[bool, int]]]:
    for fact in evidence.payment:
        match fact.type:
            case "PaymentAuthorized" | "PaymentCaptured" | "PaymentRefunded":
                yield _subject(fact), (True, fact.data["amount"])
            case "PaymentAuthorizationVoided":
                yield _subject(fact), (True, 0)
            case "PaymentDeclined" | "PaymentCaptureFailed" | "PaymentVoidFailed" | "RefundFailed":
                yield _subject(fact), (False, 0)


def _sums(evidence: Evidence) -> Iterator[str]:
    """The same once more in sum, and against the balances that the PSP keeps beside its operations."""
    names = {"PaymentAuthorized": "authorised", "PaymentCaptured": "captured", "PaymentRefunded": "refunded"}
    ours: Counter[str] = Counter()
    for fact in evidence.payment:
        if fact.type in names:
            ours[names[fact.type]] += fact.data["amount"]
    for name in names.values():
        moved = sum(
            row["amount"] for row in evidence.ledger if SUMS.get(row["operation"]) == name and row["status_code"] < 300
        )
        kept = sum(row[name] for row in evidence.balances)
        if not ours[name] == moved == kept:
            yield f"{name} in sum: {ours[name]} by our events, {moved} by its operations, {kept} by its balances"


def _live(evidence: Evidence) -> Iterator[str]:
    """No customer's money is held for an order that has ended without taking it."""
    ends = ("OrderCancelled", "OrderCompleted")
    ended = {f"{fact.data['order_id']}-p" for fact in evidence.order if fact.type in ends}
    for row in evidence.balances:
        if row["reference"] in ended and not row["voided"] and not row["captured"]:
            yield f"{row['authorization_id']} of {row['reference']}: the order has ended, the money is still held"


def one_capture_a_shipment(evidence: Evidence) -> Finding:
    captured = [fact.data for fact in evidence.payment if fact.type == "PaymentCaptured"]
    captures = Counter(str(data["shipment_id"]) for data in captured)
    dispatched = {fact.data["shipment_id"] for fact in evidence.fulfillment if fact.type == "ShipmentDispatched"}
    asked = sum(data["amount"] > 0 for data in captured)  # goods that cost nothing are captured without the PSP
    at_psp = sum(row["operation"] == "capture" and row["status_code"] < 300 for row in evidence.ledger)

    def offenders() -> Iterator[str]:
        for shipment in sorted(captures.keys() | dispatched):
            if captures[shipment] != 1 or shipment not in dispatched:
                gone = "dispatched" if shipment in dispatched else "never dispatched"
                yield f"{shipment}: {gone}, captured {captures[shipment]} times"
        if at_psp != asked:
            yield f"the PSP captured {at_psp} times, our events say {asked}"

    return finding("one capture a shipment", f"{len(dispatched)} shipments, {captures.total()} captures", offenders())
