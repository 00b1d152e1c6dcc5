"""The oracle objects: each invariant against a history in which it alone is broken."""

import ast
import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.faults.falsified import AT, CALLED_OFF, GONE, NODE, NOW, SKU, Maker, begun, finished, sound
from tests.faults.oracle.history import Counters, Head, History, Parked
from tests.faults.oracle.verdict import LEFT_OUT, judge

PRODUCT = ("libs", "services", "oms", "simulators")
WANTED = {f"I-{n}" for n in (*range(1, 5), *range(6, 21), 23, 24)}


def _named(value: object) -> str:
    return value.__name__.strip("_") if callable(value) else str(value)


def told(history: History) -> set[str]:
    return {violation.invariant for violation in judge(history)}


def test_sound_history_is_not_objected_to() -> None:
    assert [str(violation) for violation in judge(sound())] == []


def test_sound_history_with_a_refund_is_not_objected_to() -> None:
    maker = begun()
    maker.refund(GONE, 100)
    assert [str(violation) for violation in judge(finished(maker))] == []


def test_charge_before_midnight_that_was_heard_of_after_it_is_not_objected_to() -> None:
    maker = begun()
    midnight = AT.replace(hour=0) + timedelta(days=1)
    for row in _psp(maker):
        row["created_at"] = (midnight - timedelta(seconds=1)).isoformat()
    facts = maker.history.facts
    facts["payment"] = [replace(fact, recorded_at=midnight + timedelta(seconds=1)) for fact in facts["payment"]]
    assert [str(violation) for violation in judge(finished(maker))] == []


def test_each_invariant_that_the_oracle_knows_has_a_falsified_history() -> None:
    known = {
        number
        for path in (Path(__file__).parent / "oracle").glob("*.py")
        for number in re.findall(r"\"(I-\d+)\"", path.read_text())
    }
    assert known - LEFT_OUT.keys() == {invariant for invariant, _ in (*STORIES, *EVIDENCE)} == WANTED


def test_oracle_imports_nothing_of_the_product() -> None:
    for path in (Path(__file__).parent / "oracle").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.partition(".")[0] in PRODUCT], f"{path.name} imports {names}"


# --- falsified before it is published: the store and the ledgers ------------------------------------------------------


def _without(maker: Maker, service: str, name: str, stream: str = "") -> None:
    facts = maker.history.facts[service]
    maker.history.facts[service] = [f for f in facts if f.name != name or not f.stream.startswith(stream)]


def _lost(maker: Maker) -> None:
    maker.placed(3, "nobody", "key-c")


def _received_twice(maker: Maker) -> None:
    again: dict[str, Any] = {"order_id": "again", "channel": "web", "external_order_id": GONE, "lines": [], "total": 0}
    maker.add("order-again", "OrderReceived", **again)
    maker.add("order-again", "OrderAccepted", order_id="again")


def _two_effects(maker: Maker) -> None:
    maker.add(f"order-{GONE}", "OrderDuplicateDetected", "key-a", "another request", order_id=GONE)


def _other_answer(maker: Maker) -> None:
    maker.placed(3, GONE, "key-a", body='{"events": [], "stream_version": 9}')


def _other_body_taken(maker: Maker) -> None:
    maker.placed(3, GONE, "key-a")
    maker.history.journal[-2]["digest"] = "another"


def _left_standing(maker: Maker) -> None:
    maker.order("c", "key-c")
    maker.placed(3, "c", "key-c")


def _gap(maker: Maker) -> None:
    _without(maker, "order", "OrderAccepted", f"order-{GONE}")


def _shipped_before_confirmed(maker: Maker) -> None:
    maker.add(f"order-{CALLED_OFF}", "StockShipmentConfirmed", order_id=CALLED_OFF)


def _call_ended_twice(maker: Maker) -> None:
    maker.payment(GONE, "PaymentDeclined", attempt=1)


def _held_without_reservation(maker: Maker) -> None:
    maker.stock("StockHeld", 1, "nobody-r1")


def _oversold_for_a_moment(maker: Maker) -> None:
    """Right at the end, and wrong in between."""
    maker.stock("StockHeld", 20, "x")
    maker.stock("StockHoldReleased", 20, "x")


def _released_and_consumed(maker: Maker) -> None:
    about: dict[str, Any] = {"reservation_id": f"{GONE}-r1", "order_id": GONE, "lines": [_unit()]}
    maker.add(f"reservation-{GONE}-r1", "ReservationReleased", **about)
    maker.stock("StockHoldReleased", 2, f"{GONE}-r1")
    maker.stock("StockHeld", 2, "")


def _unit() -> dict[str, Any]:
    return {"line_id": "1", "sku": SKU, "location": NODE, "qty": 2}


def _captured_more_than_authorised(maker: Maker) -> None:
    maker.payment(GONE, "PaymentCaptured", capture_id="other", shipment_id="other", amount=1, currency="EUR")


def _captured_less_than_shipped(maker: Maker) -> None:
    _change(maker, "payment", "PaymentCaptured", amount=1)
    maker.history.ledgers["psp"] = [r | {"amount": 1} if r["operation"] == "capture" else r for r in _psp(maker)]


def _psp(maker: Maker) -> list[dict[str, Any]]:
    return maker.history.ledgers["psp"]


def _change(maker: Maker, service: str, name: str, **data: Any) -> None:
    facts = maker.history.facts[service]
    maker.history.facts[service] = [
        replace(f, raw=json.dumps(f.data | data).encode()) if f.name == name else f for f in facts
    ]


def _orphan_charge(maker: Maker) -> None:
    maker.charge("authorize", f"auth:{GONE}", f"{GONE}", 1)
    _psp(maker)[-1]["idempotency_key"] = "auth:ghost"


def _charged_twice_under_a_key(maker: Maker) -> None:
    _psp(maker).append(dict(_psp(maker)[0]))


def _charge_unknown_to_the_psp(maker: Maker) -> None:
    _psp(maker).pop(0)


def _other_amount_at_the_psp(maker: Maker) -> None:
    _psp(maker)[0]["amount"] += 1


def _charged_on_another_day(maker: Maker) -> None:
    _psp(maker)[0]["created_at"] = (AT - timedelta(days=1)).isoformat()


def _charged_in_another_currency(maker: Maker) -> None:
    _psp(maker)[0]["currency"] = "USD"


def _refunded_more_than_captured(maker: Maker) -> None:
    maker.refund(GONE, 1_000_000)


def _both_ends(maker: Maker) -> None:
    maker.add(f"order-{GONE}", "OrderCancelled", order_id=GONE)


def _cancelled_and_not_voided(maker: Maker) -> None:
    _without(maker, "payment", "PaymentAuthorizationVoided")


def _two_labels(maker: Maker) -> None:
    maker.called("carrier", "label", f"{GONE}-n-1-1", "lbl:other")


def _two_releases(maker: Maker) -> None:
    maker.called("warehouse", "release", f"{GONE}-n-1", "rls:other")


STORIES: list[tuple[str, Callable[[Maker], None]]] = [
    ("I-1", _lost),
    ("I-1", _received_twice),
    ("I-2", _two_effects),
    ("I-2", _other_answer),
    ("I-2", _other_body_taken),
    ("I-3", _left_standing),
    ("I-4", _gap),
    ("I-4", _shipped_before_confirmed),
    ("I-4", _call_ended_twice),
    ("I-6", _held_without_reservation),
    ("I-7", _oversold_for_a_moment),
    ("I-8", _released_and_consumed),
    ("I-9", _captured_more_than_authorised),
    ("I-10", _captured_less_than_shipped),
    ("I-11", _orphan_charge),
    ("I-11", _charged_twice_under_a_key),
    ("I-11", _charge_unknown_to_the_psp),
    ("I-11", _other_amount_at_the_psp),
    ("I-11", _charged_on_another_day),
    ("I-11", _charged_in_another_currency),
    ("I-12", _refunded_more_than_captured),
    ("I-13", _both_ends),
    ("I-13", _cancelled_and_not_voided),
    ("I-20", _two_labels),
    ("I-20", _two_releases),
]


@pytest.mark.parametrize(("invariant", "falsify"), STORIES, ids=_named)
def test_falsified_story_is_objected_to(invariant: str, falsify: Callable[[Maker], None]) -> None:
    maker = begun()
    falsify(maker)
    assert invariant in told(finished(maker))


# --- falsified afterwards: topics, positions, views, answers ----------------------------------------------------------


def _record_lost(history: History) -> None:
    history.records.pop(5)


def _records_swapped(history: History) -> None:
    records = [sent for sent in history.records if sent.stream == f"order-{GONE}"]
    first, second = history.records.index(records[1]), history.records.index(records[2])
    history.records[first], history.records[second] = history.records[second], history.records[first]


def _other_bytes(history: History) -> None:
    history.records[3] = replace(history.records[3], value=b"{}")


def _other_key(history: History) -> None:
    history.records[3] = replace(history.records[3], key=b"another")


def _never_heard(history: History) -> None:
    del history.heard[f"order-{GONE}", 2]


def _unaccounted(history: History) -> None:
    place = ("oms.order.events", 0)
    counts = history.counters["tracking"][place]
    history.counters["tracking"][place] = counts._replace(processed=counts.processed - 1)


def _good_record_parked(history: History) -> None:
    history.parked["payment"] = [Parked("oms.order.events", 0, 3, b"order-a", "value: missing")]


def _parked_without_reason(history: History) -> None:
    history.journal.append({"e": "injected", "topic": "oms.order.events", "partition": 0, "offset": 99})
    history.parked["payment"] = [Parked("oms.order.events", 0, 99, b"x", "")]


def _behind(history: History) -> None:
    place = ("oms.order.events", 0)
    end = history.ends[place] - 1
    history.counters["tracking"][place] = Counters(end, end, 0, 0, 0)


def _went_back(history: History) -> None:
    history.samples.append({("order", "oms.payment.events", 0): 2})


def test_position_that_an_operator_put_back_is_not_objected_to() -> None:
    history = sound()
    _went_back(history)
    history.operator = [("order", "positions_reset", "oms.payment.events")]
    assert told(history) == set()


def _not_in_the_store(history: History) -> None:
    history.facts["order"] = [fact for fact in history.facts["order"] if fact.name != "OrderCompleted"]


def _head_is_wrong(history: History) -> None:
    history.heads["order"][0] = Head(history.heads["order"][0].stream, 77, None)


def _table_is_wrong(history: History) -> None:
    history.views["inventory"]["availability"][SKU]["locations"][NODE]["on_hand"] = 9


def _view_is_no_fold(history: History) -> None:
    history.rebuilt["inventory"]["availability"]["SKU-2"] = {"locations": {}}


def _rebuild_called(history: History) -> None:
    history.attempts_after = {"psp": 5}


def _rebuild_appended(history: History) -> None:
    history.appended_by_rebuild["order"] = 1


def _effect_left(history: History) -> None:
    history.effects["payment"] = 1


def _memory_grew(history: History) -> None:
    history.usage[1] = replace(history.usage[1], rss=1 << 30)


def _files_left_open(history: History) -> None:
    history.usage[1] = replace(history.usage[1], fds=400)


def _connections_left_open(history: History) -> None:
    history.usage[1] = replace(history.usage[1], connections=40)


def _outbox_left(history: History) -> None:
    history.usage[1] = replace(history.usage[1], outbox=1)


def _error_500(history: History) -> None:
    history.journal[1] |= {"status": 500, "outcome": "unknown", "body": "Internal Server Error"}


def _busy_without_retry_after(history: History) -> None:
    problem = {"content-type": "application/problem+json"}
    history.journal[1] |= {"status": 503, "outcome": "unknown", "body": '{"code": "busy"}', "headers": problem}


def _undocumented(history: History) -> None:
    history.openapi["order"]["paths"]["/orders"]["post"]["responses"].pop("201")


EVIDENCE: list[tuple[str, Callable[[History], None]]] = [
    ("I-4", _head_is_wrong),
    ("I-6", _table_is_wrong),
    ("I-14", _record_lost),
    ("I-14", _records_swapped),
    ("I-14", _other_bytes),
    ("I-14", _other_key),
    ("I-14", _never_heard),
    ("I-15", _record_lost),
    ("I-15", _unaccounted),
    ("I-15", _good_record_parked),
    ("I-15", _parked_without_reason),
    ("I-16", _behind),
    ("I-16", _went_back),
    ("I-17", _not_in_the_store),
    ("I-18", _view_is_no_fold),
    ("I-19", _rebuild_called),
    ("I-19", _rebuild_appended),
    ("I-20", _effect_left),
    ("I-23", _memory_grew),
    ("I-23", _files_left_open),
    ("I-23", _connections_left_open),
    ("I-23", _outbox_left),
    ("I-24", _error_500),
    ("I-24", _busy_without_retry_after),
    ("I-24", _undocumented),
]


@pytest.mark.parametrize(("invariant", "falsify"), EVIDENCE, ids=_named)
def test_falsified_evidence_is_objected_to(invariant: str, falsify: Callable[[History], None]) -> None:
    history = sound()
    falsify(history)
    assert invariant in told(history)


def test_repeated_record_is_not_objected_to() -> None:
    history = sound()
    again = history.records[4]
    place = (again.topic, again.partition)
    history.records.append(replace(again, offset=history.ends[place]))
    history.ends[place] += 1
    counts = history.counters["tracking"][place]
    history.counters["tracking"][place] = counts._replace(next_offset=counts.next_offset + 1, duplicate=1)
    assert told(history) == set()


def test_order_that_its_own_timer_will_wake_may_stand() -> None:
    maker = begun()
    _left_standing(maker)
    history = finished(maker)
    heads = history.heads["order"]
    soon = NOW + timedelta(minutes=1)
    history.heads["order"] = [replace(head, due_at=soon) if head.stream == "order-c" else head for head in heads]
    assert "I-3" not in told(history)


def test_order_that_a_person_was_told_of_may_stand() -> None:
    maker = begun()
    _left_standing(maker)
    maker.add("order-c", "OrderHoldPlaced", order_id="c", hold_id="capture:1")
    assert "I-3" not in told(finished(maker))
    maker = begun()
    _left_standing(maker)
    maker.add("order-c", "OrderHoldPlaced", order_id="c", hold_id="capture:1")
    maker.add("order-c", "OrderHoldReleased", order_id="c", hold_id="capture:1")
    assert "I-3" in told(finished(maker))
