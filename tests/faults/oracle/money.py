"""I-9 to I-12: money, in our events and in the PSP's own ledger."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from tests.faults.oracle.history import Fact, History, Violation

Call = tuple[str, str, str]
"""Payment, operation, and the operation's own id."""

SUBMITTED = {
    "PaymentAuthorizationSubmitted": "authorize",
    "PaymentCaptureSubmitted": "capture",
    "PaymentVoidSubmitted": "void",
    "RefundSubmitted": "refund",
}
ID_OF = {"authorize": "attempt", "capture": "capture_id", "void": "auth_id", "refund": "refund_id"}
NEWS_TAKES = timedelta(hours=1)
"""Longer than a campaign lets any answer be lost."""
DONE = {
    "PaymentAuthorized": "authorize",
    "PaymentCaptured": "capture",
    "PaymentAuthorizationVoided": "void",
    "PaymentRefunded": "refund",
}


def within_limits(history: History) -> Iterator[Violation]:
    """I-9 and I-12, at every prefix: refunded ≤ captured ≤ authorised ≤ total; a shipment and a refund count once."""
    authorised: dict[str, dict[str, int]] = defaultdict(dict)
    captured: dict[str, dict[str, int]] = defaultdict(dict)
    refunded: dict[str, dict[str, int]] = defaultdict(dict)
    for fact in history.of("payment", *DONE):
        order_id, data = fact.order_id, fact.data
        match fact.name:
            case "PaymentAuthorized":
                authorised[order_id][data["auth_id"]] = data["amount"]
                if data["amount"] > history.totals.get(order_id, 0):
                    yield _wrong("I-9", fact, f"authorised {data['amount']} of {history.totals.get(order_id)}")
            case "PaymentAuthorizationVoided":
                authorised[order_id].pop(data["auth_id"], None)
            case "PaymentCaptured":
                if data["shipment_id"] in captured[order_id]:
                    yield _wrong("I-9", fact, f"{data['shipment_id']} is captured twice")
                captured[order_id][data["shipment_id"]] = data["amount"]
            case "PaymentRefunded":
                if data["refund_id"] in refunded[order_id]:
                    yield _wrong("I-12", fact, f"{data['refund_id']} is refunded twice")
                refunded[order_id][data["refund_id"]] = data["amount"]
        took, may = sum(captured[order_id].values()), sum(authorised[order_id].values())
        if took > may or took > history.totals.get(order_id, 0):
            yield _wrong("I-9", fact, f"captured {took} of {may}, the order is worth {history.totals.get(order_id)}")
        if sum(refunded[order_id].values()) > took:
            yield _wrong("I-12", fact, f"refunded {sum(refunded[order_id].values())} of {took}")


def _wrong(invariant: str, fact: Fact, says: str) -> Violation:
    return Violation(invariant, fact.order_id, says)


def paid_for_what_left(history: History) -> Iterator[Violation]:
    """I-10, of orders that have ended: what was captured is what was shipped is worth; refunds were asked for."""
    received = {fact.order_id: fact.data for fact in history.of("order", "OrderReceived")}
    shipped: dict[str, list[Fact]] = defaultdict(list)
    captured: Counter[str] = Counter()
    given_back: Counter[str] = Counter()
    asked_back: Counter[str] = Counter()
    for fact in history.of("fulfillment", "ShipmentDispatched"):
        shipped[fact.order_id].append(fact)
    for fact in history.of("payment", "PaymentCaptured", "PaymentRefunded", "RefundFailed"):
        if fact.name == "PaymentCaptured":
            captured[fact.order_id] += fact.data["amount"]
        elif fact.name == "PaymentRefunded":
            given_back[fact.order_id] += fact.data["amount"]
        else:
            asked_back[fact.order_id] -= fact.data["amount"]
    for fact in history.of("order", "RefundRequested"):
        asked_back[fact.order_id] += fact.data["amount"]
    for order_id in history.ended:
        worth = value(received[order_id], [line for fact in shipped[order_id] for line in fact.data["lines"]])
        if captured[order_id] != worth:
            yield Violation("I-10", order_id, f"captured {captured[order_id]} for goods worth {worth}")
        if given_back[order_id] != asked_back[order_id]:
            yield Violation("I-10", order_id, f"gave {given_back[order_id]} back of {asked_back[order_id]}")


def value(order: dict[str, Any], lines: Iterable[dict[str, Any]]) -> int:
    """The first k of n units of a line are worth floor(total * k / n); the first shipment pays the shipping."""
    units: Counter[str] = Counter()
    for line in lines:
        units[line["line_id"]] += line["qty"]
    if not units:
        return 0
    goods = sum(
        (line["amount"] + line["tax"] - line["discount"]) * units[line["line_id"]] // line["qty"]
        for line in order["lines"]
    )
    return int(goods + order["shipping_price"])


def ledger_agrees(history: History) -> Iterator[Violation]:
    """I-11: per key one charge, none that we do not know, and the sums by day and currency are equal."""
    ledger: dict[str, dict[str, Any]] = {}
    for row in history.ledgers.get("psp", []):
        if row["status_code"] < 300:
            if row["idempotency_key"] in ledger:
                yield Violation("I-11", row["idempotency_key"], "the PSP charged twice under one key")
            ledger[row["idempotency_key"]] = row
    keys = _keys(history)
    ours = _ours(history, keys)
    for key in ledger.keys() | ours.keys():
        theirs, known = _theirs(ledger.get(key)), ours.get(key)
        if theirs != known:
            yield Violation("I-11", key, f"the PSP says {theirs}, our events {known}")
    yield from _sums(history, ledger, keys)
    yield from _balances(history)


def _theirs(row: dict[str, Any] | None) -> tuple[Any, ...] | None:
    """Operation, payment, amount, currency; a void tells no amount."""
    if row is None:
        return None
    money = ("", "") if row["operation"] == "void" else (row["amount"], row["currency"])
    return (row["operation"], row["reference"], *money)


def _call(fact: Fact, operation: str) -> Call:
    return fact.data["payment_id"], operation, str(fact.data[ID_OF[operation]])


def _keys(history: History) -> dict[Call, str]:
    """The key under which each call was made."""
    return {
        _call(fact, SUBMITTED[fact.name]): fact.data["idempotency_key"] for fact in history.of("payment", *SUBMITTED)
    }


def _ours(history: History, keys: dict[Call, str]) -> dict[str, tuple[Any, ...]]:
    done: dict[str, tuple[Any, ...]] = {}
    for fact in history.of("payment", *DONE):
        operation = DONE[fact.name]
        if key := keys.get(_call(fact, operation)):  # what costs nothing is asked of no PSP
            money = ("", "") if operation == "void" else (fact.data["amount"], fact.data["currency"])
            done[key] = (operation, fact.data["payment_id"], *money)
    return done


def _sums(history: History, ledger: dict[str, dict[str, Any]], keys: dict[Call, str]) -> Iterator[Violation]:
    """By day and currency. Of what the PSP did before midnight and told after it, the day is the PSP's."""
    theirs: Counter[tuple[str, str, str]] = Counter()
    ours: Counter[tuple[str, str, str]] = Counter()
    for row in ledger.values():
        if row["operation"] != "void":
            theirs[row["operation"], _moment(row).date().isoformat(), row["currency"]] += row["amount"]
    for fact in history.of("payment", "PaymentAuthorized", "PaymentCaptured", "PaymentRefunded"):
        operation, moment = DONE[fact.name], fact.recorded_at
        row = ledger.get(keys.get(_call(fact, operation), ""))
        if row and timedelta(0) <= moment - _moment(row) < NEWS_TAKES:
            moment = _moment(row)
        ours[operation, moment.date().isoformat(), fact.data["currency"]] += fact.data["amount"]
    for what in {*theirs, *ours}:
        if theirs[what] != ours[what]:
            yield Violation("I-11", " ".join(what), f"the PSP's sum is {theirs[what]}, ours {ours[what]}")


def _moment(row: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(row["created_at"])


def _balances(history: History) -> Iterator[Violation]:
    """What the PSP still holds of each payment: nothing of an order that was cancelled."""
    for row in history.balances:
        order_id = row["reference"].removesuffix("-p")
        if history.ended.get(order_id) == "CANCELLED" and not row["voided"]:
            yield Violation("I-11", order_id, f"is CANCELLED and the PSP holds {row['authorised']} of it")
        if not row["refunded"] <= row["captured"] <= row["authorised"]:
            yield Violation("I-12", order_id, f"the PSP has {row}")


CHECKS = (within_limits, paid_for_what_left, ledger_agrees)
