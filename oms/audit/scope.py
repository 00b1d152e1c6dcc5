"""Which orders the books may ask about while the system runs: those that had ended before the evidence was read."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from oms.audit.books import endings, orders_have_ended
from oms.audit.evidence import Evidence
from oms.audit.finding import Finding, finding
from oms.audit.money import captured_is_shipped
from oms.audit.psp import one_capture_a_shipment, psp_agrees
from oms.audit.stock import order_of, stock_is_conserved, stock_left_by_shipment


def books(evidence: Evidence, ended: Iterable[str], *, at_rest: bool, all_ended: bool) -> list[Finding]:
    """The books of the orders in `ended`. Under way, what belongs to any other order is nobody's fault."""
    settled = frozenset(ended)
    known = endings(evidence)

    def is_open(order_id: str) -> bool:
        return order_id not in settled and (order_id in known or not at_rest)

    of_settled = without(evidence, is_open)
    still = sum(how == "OPEN" for how in known.values())
    return [
        orders_have_ended(evidence)
        if all_ended
        else finding("orders", f"{len(known)} known, {still} open, {len(settled)} ended and checked", ()),
        stock_is_conserved(evidence, is_open),
        stock_left_by_shipment(of_settled),
        captured_is_shipped(of_settled),
        psp_agrees(of_settled),
        one_capture_a_shipment(of_settled),
    ]


def without(evidence: Evidence, is_open: Callable[[str], bool]) -> Evidence:
    """The evidence without what belongs to open orders."""

    def of_open(reference: object) -> bool:
        return is_open(str(reference).rpartition("-p")[0])

    return replace(
        evidence,
        order=[fact for fact in evidence.order if not is_open(fact.data["order_id"])],
        payment=[fact for fact in evidence.payment if not is_open(fact.data["order_id"])],
        fulfillment=[fact for fact in evidence.fulfillment if not is_open(fact.data["order_id"])],
        inventory=[fact for fact in evidence.inventory if not is_open(order_of(fact))],
        ledger=[row for row in evidence.ledger if not of_open(row["reference"])],
        balances=[row for row in evidence.balances if not of_open(row["reference"])],
    )
