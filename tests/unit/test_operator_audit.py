"""`oms verify`: each check names what it was broken with, and none cries where nothing is wrong."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel

from libs.events.envelope import to_headers
from libs.runtime.rebuild import _difference
from libs.runtime.state_cache import FoldedView
from libs.runtime.storage import ViewRow
from libs.testing.fulfillment_gateway import InMemoryCarrier, InMemoryWarehouse
from libs.testing.tally import envelope
from oms.audit.evidence import Evidence, Fact
from oms.audit.log import Heard, Log, digest
from oms.audit.scope import books
from oms.audit.view import VIEWS
from services.fulfillment import service as fulfillment
from services.fulfillment.gateway import Gateways
from services.inventory import service as inventory
from services.order import service as order
from services.payment import service as payment
from services.payment.gateway import HttpPaymentGateway, PspSettings
from services.tracking import service as tracking

ORDER = "6f9619ff-8b86-5011-b42d-00cf4fc964ff"


# --- the log ---------------------------------------------------------------------------------------------------------


def log(**streams: Sequence[bytes]) -> Log:
    return Log({f"order-{name}": [digest(data) for data in versions] for name, versions in streams.items()})


def read(log: Log, *records: tuple[str, int, bytes], trimmed: frozenset[int] = frozenset()) -> Heard:
    heard = Heard(log, trimmed)
    for offset, (name, version, data) in enumerate(records):
        heard.take(0, offset, to_headers(envelope(f"order-{name}", version)), data)
    return heard


def test_topic_that_is_as_stored_is_sound_also_with_repeats() -> None:
    heard = read(log(A=[b"1", b"2"]), ("A", 1, b"1"), ("A", 2, b"2"), ("A", 1, b"1"), ("A", 2, b"2"))
    assert [*heard.offenders, *heard.missing(), *heard.newer] == []


def test_other_bytes_are_named_also_in_a_repeat() -> None:
    heard = read(log(A=[b"1"]), ("A", 1, b"1"), ("A", 1, b"x"))
    assert heard.offenders == ["order A: order-A version 1 is published with other bytes than stored"]


def test_version_out_of_order_is_named() -> None:
    heard = read(log(A=[b"1", b"2"]), ("A", 2, b"2"), ("A", 1, b"1"))
    assert heard.offenders == ["order A: order-A version 2 is published after version 0"]


def test_event_that_was_never_published_is_named_unless_it_waits_in_the_outbox() -> None:
    heard = read(log(A=[b"1", b"2"], B=[b"1"]), ("A", 1, b"1"))
    assert list(heard.missing()) == [
        "order A: order-A version 2 is stored and was never published",
        "order B: order-B version 1 is stored and was never published",
    ]
    heard.log.unpublished |= {("order-A", 2), ("order-B", 1)}
    assert list(heard.missing()) == []


def test_event_that_is_in_no_store_is_asked_for_again() -> None:
    heard = read(log(A=[b"1"]), ("A", 1, b"1"), ("A", 2, b"2"))
    assert heard.newer == {("order-A", 2): digest(b"2")}


def test_stream_may_begin_late_only_where_the_topic_is_trimmed() -> None:
    stored = log(A=[b"1", b"2", b"3"])
    assert read(stored, ("A", 2, b"2")).offenders
    trimmed = read(stored, ("A", 2, b"2"), ("A", 3, b"3"), trimmed=frozenset({0}))
    assert [*trimmed.offenders, *trimmed.missing()] == []


def test_record_that_is_no_event_is_named_by_its_place() -> None:
    heard = Heard(Log())
    heard.take(3, 7, [], b"")
    assert heard.offenders[0].startswith("partition 3, offset 7: ")


# --- views -----------------------------------------------------------------------------------------------------------


def test_every_view_of_every_service_is_checked() -> None:
    services = [
        order.service(),
        inventory.service(),
        payment.service(HttpPaymentGateway("http://psp", PspSettings())),
        fulfillment.service(Gateways(warehouse=InMemoryWarehouse(), carrier=InMemoryCarrier())),
        tracking.service(),
    ]
    assert {one.name: tuple(one.projections) for one in services} == {
        name: tuple(views) for name, views in VIEWS.items()
    }


class Row(BaseModel):
    a: int
    b: int


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (ViewRow(b'{"a":1,"b":2}', {"s": 1}), ""),
        (ViewRow(b'{"b":2,"a":1.0}', {"s": 1}), ""),
        (ViewRow(b'{"a":1,"b":3}', {"s": 1}), "b is 3 in the view, 2 by the log"),
        (ViewRow(b'{"a":1}', {"s": 1}), "b is null in the view, 2 by the log"),
        (ViewRow(b'{"a":1,"b":2}', {"s": 2}), "it was not made of the versions that the log has"),
    ],
)
def test_row_that_differs_is_told_field_by_field(shown: ViewRow, said: str) -> None:
    assert _difference(shown, FoldedView(Row(a=1, b=2), {"s": 1})) == said


# --- the books while orders flow -------------------------------------------------------------------------------------


def stock(type: str, qty: int, order_id: str = "") -> Fact:
    data: dict[str, Any] = {"sku": "milk", "location": "here", "qty": qty}
    return Fact("stock-milk", type, {**data, "reservation_id": f"{order_id}-r1"} if order_id else data)


def received(order_id: str, *then: str) -> list[Fact]:
    data = {"order_id": order_id, "total": 0, "currency": "USD", "shipping_price": 0, "lines": []}
    return [Fact(f"order-{order_id}", name, data) for name in ("OrderReceived", *then)]


def evidence(**changed: Any) -> Evidence:
    sound = Evidence(
        order=[*received(ORDER), *received("B", "OrderCancelled")],
        inventory=[stock("StockReceived", 10), stock("StockHeld", 3, ORDER)],
        availability={"milk": {"locations": {"here": {"on_hand": 10, "reserved": 3}}}},
        waiting={},
    )
    return replace(sound, **changed)


def offenders(evidence: Evidence, *, at_rest: bool = True, all_ended: bool = False, ended: Any = ("B",)) -> list[str]:
    findings = books(evidence, ended, at_rest=at_rest, all_ended=all_ended)
    return [offender for one in findings for offender in one.offenders]


def test_open_order_holds_its_stock_and_is_no_fault() -> None:
    assert offenders(evidence()) == []


def test_open_order_is_a_fault_where_all_should_have_ended() -> None:
    assert offenders(evidence(), all_ended=True) == [f"order {ORDER} has not ended"]


def test_stock_that_an_ended_order_still_holds_is_named() -> None:
    held = [*evidence().inventory, stock("StockHeld", 2, "B")]
    shown = {"milk": {"locations": {"here": {"on_hand": 10, "reserved": 5}}}}
    assert offenders(evidence(inventory=held, availability=shown)) == ["milk at here has 2 still reserved"]


def test_stock_held_for_nobodys_order_is_named_at_rest_and_may_be_newer_under_way() -> None:
    held = [*evidence().inventory, stock("StockHeld", 2, "C")]
    shown = {"milk": {"locations": {"here": {"on_hand": 10, "reserved": 5}}}}
    told = evidence(inventory=held, availability=shown)
    assert offenders(told) == ["milk at here has 2 still reserved"]
    assert offenders(told, at_rest=False) == []


def test_money_of_an_order_that_is_open_is_not_asked_about_yet() -> None:
    row = {"idempotency_key": "auth:1", "operation": "authorize", "amount": 5, "status_code": 201}
    open_one = evidence(ledger=[{**row, "reference": f"{ORDER}-p"}])
    ended_one = evidence(ledger=[{**row, "reference": "B-p"}])
    assert offenders(open_one) == []
    assert "auth:1: charged without being asked" in offenders(ended_one)


def test_charge_for_nobodys_order_is_named() -> None:
    row = {"idempotency_key": "auth:1", "operation": "authorize", "amount": 5, "status_code": 201, "reference": "X-p"}
    assert "auth:1: charged without being asked" in offenders(evidence(ledger=[row]))
