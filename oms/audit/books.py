"""The books of a system at rest: orders ended, stock conserved, money taken for what was shipped and for nothing else.

Each check is a pure function of the evidence, and reckons from the stored events by itself: it uses no code of the
services, so that it cannot share their mistakes.
"""

from collections.abc import Iterable, Iterator

from oms.audit.evidence import Evidence
from oms.audit.finding import Finding, finding
from oms.audit.money import captured_is_shipped
from oms.audit.psp import one_capture_a_shipment, psp_agrees
from oms.audit.stock import stock_is_conserved, stock_left_by_shipment

ENDS = {"OrderCompleted": "COMPLETED", "OrderCancelled": "CANCELLED", "OrderRejected": "REJECTED"}


def audit(evidence: Evidence, expected: Iterable[str] = ()) -> list[Finding]:
    """`expected` are ids of orders that were placed, as far as the caller knows."""
    return [
        orders_have_ended(evidence, expected),
        stock_is_conserved(evidence),
        stock_left_by_shipment(evidence),
        captured_is_shipped(evidence),
        psp_agrees(evidence),
        one_capture_a_shipment(evidence),
        nothing_waits(evidence),
    ]


def endings(evidence: Evidence) -> dict[str, str]:
    """Every order of which the order service has heard, and how it ended; `OPEN` where it has not."""
    ended: dict[str, str] = {}
    for fact in evidence.order:
        order_id = fact.data["order_id"]
        if fact.type == "OrderReceived":
            ended[order_id] = "OPEN"  # a rejected order that is placed anew is open again
        else:
            ended[order_id] = ENDS.get(fact.type, ended.get(order_id, "OPEN"))
    return ended


def orders_have_ended(evidence: Evidence, expected: Iterable[str] = ()) -> Finding:
    ended, holds = endings(evidence), _open_holds(evidence)

    def offenders() -> Iterator[str]:
        yield from (f"order {order_id} was never heard of" for order_id in sorted(set(expected) - ended.keys()))
        yield from (f"order {order_id} has not ended" for order_id, how in sorted(ended.items()) if how == "OPEN")
        yield from (f"order {order_id} has an open hold: {hold}" for order_id, hold in sorted(holds))

    done = sum(how != "OPEN" for how in ended.values())
    return finding("every order ended", f"{done} of {len(ended.keys() | set(expected))}", offenders())


def _open_holds(evidence: Evidence) -> set[tuple[str, str]]:
    holds: set[tuple[str, str]] = set()
    for fact in evidence.order:
        if fact.type == "OrderHoldPlaced":
            holds.add((fact.data["order_id"], fact.data["hold_id"]))
        elif fact.type == "OrderHoldReleased":
            holds.discard((fact.data["order_id"], fact.data["hold_id"]))
    return holds


def nothing_waits(evidence: Evidence) -> Finding:
    totals: dict[str, int] = {"outbox": 0, "effects": 0, "parked_keys": 0, "parked_records": 0}
    offenders = []
    for service, counts in evidence.waiting.items():
        for name in totals:
            totals[name] += counts[name]
            if counts[name]:
                offenders.append(f"{service} has {counts[name]} in {name}")
    figures = ", ".join(f"{count} in {name}" for name, count in totals.items())
    return finding("nothing waits or is parked", figures, offenders)
