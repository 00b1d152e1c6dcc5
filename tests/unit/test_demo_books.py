"""Each check of the books passes on a sound story and names whoever breaks it."""

from dataclasses import replace
from typing import Any

import pytest

from oms.audit.books import audit, nothing_waits, orders_have_ended
from oms.audit.evidence import Evidence, Fact
from oms.audit.finding import Finding
from oms.audit.money import captured_is_shipped
from oms.audit.psp import one_capture_a_shipment, psp_agrees
from oms.audit.stock import stock_is_conserved, stock_left_by_shipment

IDLE = {"outbox": 0, "effects": 0, "parked_keys": 0, "parked_records": 0, "events": 9}


def fact(stream_id: str, type: str, **data: Any) -> Fact:
    return Fact(stream_id=stream_id, type=type, data=data)


def ordered(type: str, **data: Any) -> Fact:
    return fact("order-A", type, order_id="A", **data)


def stock(type: str, qty: int, **data: Any) -> Fact:
    return fact("stock-milk", type, sku="milk", location="here", qty=qty, **data)


def paid(type: str, **data: Any) -> Fact:
    return fact("payment-A-p", type, order_id="A", payment_id="A-p", **data)


def dispatched(qty: int = 3, shipment: str = "S") -> Fact:
    lines = [{"line_id": "1", "sku": "milk", "qty": qty}]
    return fact("shipment-S", "ShipmentDispatched", order_id="A", shipment_id=shipment, lines=lines)


def row(key: str, operation: str, amount: int | None, status_code: int = 201) -> dict[str, Any]:
    return {"idempotency_key": key, "operation": operation, "amount": amount, "status_code": status_code}


LINE = {"line_id": "1", "sku": "milk", "qty": 3, "amount": 120, "tax": 10, "discount": 30}
RECEIVED = ordered("OrderReceived", total=105, currency="USD", shipping_price=5, lines=[LINE])
AUTHORIZE = paid("PaymentAuthorizationSubmitted", attempt=1, idempotency_key="auth:A:1:1", amount=105)
CAPTURE = paid("PaymentCaptureSubmitted", capture_id="C", shipment_id="S", idempotency_key="cap:A:S", amount=105)
BALANCE = {
    "authorization_id": "auth_1",
    "reference": "A-p",
    "authorised": 105,
    "captured": 105,
    "refunded": 0,
    "voided": 0,
}

SOUND = Evidence(
    order=[RECEIVED, ordered("OrderCompleted")],
    inventory=[
        stock("StockReceived", 10),
        stock("StockHeld", 3),
        stock("StockShipped", 3, shipment_id="S"),
    ],
    payment=[
        AUTHORIZE,
        paid("PaymentAuthorized", attempt=1, auth_id="auth_1", amount=105),
        CAPTURE,
        paid("PaymentCaptured", capture_id="C", shipment_id="S", amount=105),
    ],
    fulfillment=[dispatched()],
    availability={"milk": {"locations": {"here": {"on_hand": 7, "reserved": 0}}}},
    ledger=[row("auth:A:1:1", "authorize", 105), row("cap:A:S", "capture", 105)],
    balances=[BALANCE],
    waiting={"order": IDLE},
)


def named(found: Finding) -> str:
    assert not found.sound
    return " ".join(found.offenders)


def test_sound_books_pass_every_check() -> None:
    assert [str(found) for found in audit(SOUND, ["A"]) if not found.sound] == []
    assert len(audit(SOUND)) == 7


def test_order_that_has_not_ended_is_named() -> None:
    assert "A has not ended" in named(orders_have_ended(replace(SOUND, order=[RECEIVED])))


def test_order_that_was_placed_and_never_heard_of_is_named() -> None:
    assert "B was never heard of" in named(orders_have_ended(SOUND, ["A", "B"]))


def test_rejected_order_that_is_placed_anew_is_open_again() -> None:
    assert "A has not ended" in named(orders_have_ended(replace(SOUND, order=[ordered("OrderRejected"), RECEIVED])))


def test_ended_order_with_an_open_hold_is_named() -> None:
    held = ordered("OrderHoldPlaced", hold_id="payment:x")
    assert "payment:x" in named(orders_have_ended(replace(SOUND, order=[*SOUND.order, held])))
    lifted = ordered("OrderHoldReleased", hold_id="payment:x")
    assert orders_have_ended(replace(SOUND, order=[*SOUND.order, held, lifted])).sound


def test_stock_still_reserved_is_named() -> None:
    held = [*SOUND.inventory, stock("StockHeld", 2)]
    assert "milk at here has 2 still reserved" in named(stock_is_conserved(replace(SOUND, inventory=held)))


def test_stock_promised_twice_for_a_moment_is_named() -> None:
    moment = [
        stock("StockReceived", 2),
        stock("StockHeld", 3),
        stock("StockHoldReleased", 3),
        stock("StockReceived", 5),
    ]
    assert "oversold" in named(stock_is_conserved(replace(SOUND, inventory=moment)))


def test_view_that_differs_from_its_events_is_named() -> None:
    wrong = {"milk": {"locations": {"here": {"on_hand": 8, "reserved": 0}}}}
    assert "is 7 by its events, 8 in the view" in named(stock_is_conserved(replace(SOUND, availability=wrong)))
    assert not stock_is_conserved(replace(SOUND, availability={})).sound


def test_goods_that_left_without_their_stock_are_named() -> None:
    assert "3 of milk dispatched, 0 taken" in named(stock_left_by_shipment(replace(SOUND, inventory=[])))


@pytest.mark.parametrize(("qty", "worth"), [(1, 33 + 5), (2, 66 + 5), (3, 105)])
def test_captured_is_what_the_shipped_units_are_worth(qty: int, worth: int) -> None:
    captured = paid("PaymentCaptured", capture_id="C", shipment_id="S", amount=worth)
    story = replace(SOUND, order=[RECEIVED], fulfillment=[dispatched(qty)], payment=[captured])
    assert captured_is_shipped(story).sound
    short = paid("PaymentCaptured", capture_id="C", shipment_id="S", amount=worth - 1)
    assert f"captured {worth - 1}, shipped goods worth {worth}" in named(
        captured_is_shipped(replace(story, payment=[short]))
    )


def test_completed_order_that_is_not_paid_in_full_is_named() -> None:
    nothing = replace(SOUND, payment=[], fulfillment=[])
    assert "completed, captured 0 of 105" in named(captured_is_shipped(nothing))


def test_charge_that_nobody_asked_for_is_named() -> None:
    ledger = [*SOUND.ledger, row("cap:B:S", "capture", 1)]
    assert "cap:B:S: charged without being asked" in named(psp_agrees(replace(SOUND, ledger=ledger)))


def test_answer_of_the_psp_that_no_event_tells_is_named() -> None:
    assert "cap:A:S: the PSP answered 201, and no event says so" in named(
        psp_agrees(replace(SOUND, payment=SOUND.payment[:3]))
    )


def test_outcome_that_the_psp_does_not_know_is_named() -> None:
    assert "cap:A:S: has an outcome here" in named(psp_agrees(replace(SOUND, ledger=SOUND.ledger[:1])))


def test_other_amount_at_the_psp_is_named() -> None:
    ledger = [SOUND.ledger[0], row("cap:A:S", "capture", 104)]
    found = named(psp_agrees(replace(SOUND, ledger=ledger)))
    assert "cap:A:S: the PSP moved 104, the event says 105" in found
    assert "captured in sum: 105 by our events, 104 by its operations, 105 by its balances" in found


def test_decline_told_as_a_success_is_named() -> None:
    ledger = [row("auth:A:1:1", "authorize", 105, 402), SOUND.ledger[1]]
    assert "the PSP answered 402, the event says yes" in named(psp_agrees(replace(SOUND, ledger=ledger)))


def test_money_still_held_for_a_cancelled_order_is_named() -> None:
    story = replace(
        SOUND,
        order=[RECEIVED, ordered("OrderCancelled")],
        payment=SOUND.payment[:2],
        ledger=SOUND.ledger[:1],
        balances=[BALANCE | {"captured": 0}],
    )
    assert "the money is still held" in named(psp_agrees(story))


def test_voided_authorisation_of_a_cancelled_order_is_sound() -> None:
    story = replace(
        SOUND,
        order=[RECEIVED, ordered("OrderCancelled")],
        payment=[
            *SOUND.payment[:2],
            paid("PaymentVoidSubmitted", idempotency_key="void:auth_1", auth_id="auth_1"),
            paid("PaymentAuthorizationVoided", auth_id="auth_1"),
        ],
        ledger=[SOUND.ledger[0], row("void:auth_1", "void", 105, 200)],
        balances=[BALANCE | {"captured": 0, "voided": 105}],
    )
    assert psp_agrees(story).offenders == ()


def test_shipment_captured_twice_and_shipment_never_captured_are_named() -> None:
    twice = [*SOUND.payment, paid("PaymentCaptured", capture_id="D", shipment_id="S", amount=105)]
    found = named(one_capture_a_shipment(replace(SOUND, payment=twice)))
    assert "S: dispatched, captured 2 times" in found
    assert "the PSP captured 1 times, our events say 2" in found
    assert "T: dispatched, captured 0 times" in named(
        one_capture_a_shipment(replace(SOUND, fulfillment=[dispatched(), dispatched(shipment="T")]))
    )


@pytest.mark.parametrize("place", ["outbox", "effects", "parked_keys", "parked_records"])
def test_service_with_something_left_to_do_is_named(place: str) -> None:
    assert f"payment has 1 in {place}" in named(nothing_waits(replace(SOUND, waiting={"payment": {**IDLE, place: 1}})))
