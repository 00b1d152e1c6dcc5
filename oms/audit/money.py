"""Money by order: captured is what was shipped is worth, and a completed order is paid in full."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from oms.audit.evidence import Evidence
from oms.audit.finding import Finding, finding


def captured_is_shipped(evidence: Evidence) -> Finding:
    received = {fact.data["order_id"]: fact.data for fact in evidence.order if fact.type == "OrderReceived"}
    completed = {fact.data["order_id"] for fact in evidence.order if fact.type == "OrderCompleted"}
    captured = _captured(evidence)
    shipped: dict[str, Counter[str]] = {}
    for fact in evidence.fulfillment:
        if fact.type == "ShipmentDispatched":
            units = shipped.setdefault(fact.data["order_id"], Counter())
            for line in fact.data["lines"]:
                units[line["line_id"]] += line["qty"]
    worth = {order_id: _worth(received[order_id], units) for order_id, units in shipped.items() if order_id in received}

    def offenders() -> Iterator[str]:
        for order_id in sorted(shipped.keys() | captured.keys() | completed):
            taken, value = captured[order_id], worth.get(order_id, 0)
            if taken != value:
                yield f"order {order_id}: captured {taken}, shipped goods worth {value}"
            if order_id in completed and taken != received[order_id]["total"]:
                yield f"order {order_id}: completed, captured {taken} of {received[order_id]['total']}"

    currencies = Counter[str]()
    for order_id, data in received.items():
        currencies[data["currency"]] += captured[order_id]
    sums = ", ".join(f"{amount / 100:,.2f} {currency}" for currency, amount in sorted(currencies.items()))
    return finding("captured = shipped", f"{sums or 0} for {len(shipped)} orders", offenders())


def _captured(evidence: Evidence) -> Counter[str]:
    captured: Counter[str] = Counter()
    for fact in evidence.payment:
        if fact.type == "PaymentCaptured":
            captured[fact.data["order_id"]] += fact.data["amount"]
    return captured


def _worth(order: Mapping[str, Any], units: Mapping[str, int]) -> int:
    """The first k of n units are worth floor(total * k / n); the shipping fee goes with the first shipment."""
    lines = 0
    for line in order["lines"]:
        total = line["amount"] + line["tax"] - line["discount"]
        lines += total * units.get(line["line_id"], 0) // line["qty"]
    return lines + int(order["shipping_price"])
