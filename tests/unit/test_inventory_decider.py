"""What inventory decides: given / when / then for every command, its repeat, and every no."""

from datetime import timedelta
from typing import Any

import pytest
from pydantic import TypeAdapter

from libs.events.base import Destination, Event, ReservedLine
from libs.events.inventory import (
    LocationRegistered,
    NodeDisabled,
    NodeEnabled,
    ReservationConsumed,
    ReservationReleased,
    ShortLine,
    StockAdjusted,
    StockHeld,
    StockHoldReleased,
    StockReceived,
    StockReservationRejected,
    StockReserved,
    StockShipped,
)
from libs.events.order import RequestedLine
from libs.runtime.decider import Wake
from libs.testing.scenario import NOW, Scenario, fold, scenario
from services.inventory.domain.command import (
    AdjustStock,
    ConsumeReservation,
    DisableNode,
    EnableNode,
    ReceiptLine,
    ReceiveStock,
    RegisterLocation,
    ReleaseReservation,
    ReserveStock,
)
from services.inventory.domain.decider import DECIDER
from services.inventory.domain.network import MAIN, NETWORK
from services.inventory.domain.reservation import RESERVATION
from services.inventory.domain.stock import REMEMBERED_RECEIPTS, STOCK

R = "O1-r1"
HELD_FOR = {"reservation_id": R, "order_id": "O1"}
BERLIN = Destination(country="DE", lat=52.5, lon=13.4)
LATER = NOW + timedelta(minutes=15)


def located(location: str, lat: float = 52.5, lon: float = 13.4, **fields: Any) -> LocationRegistered:
    return LocationRegistered(location=location, lat=lat, lon=lon, **{"name": location, "country": "DE", **fields})


def received(sku: str, location: str, qty: int, receipt_id: str = "PO-1") -> StockReceived:
    return StockReceived(sku=sku, location=location, qty=qty, receipt_id=receipt_id)


def part(line_id: str, sku: str, location: str, qty: int) -> ReservedLine:
    return ReservedLine(line_id=line_id, sku=sku, location=location, qty=qty)


def asked(line_id: str, sku: str, qty: int, node: str | None = None) -> RequestedLine:
    return RequestedLine(line_id=line_id, sku=sku, qty=qty, node=node)


def reserve(*lines: RequestedLine, reservation_id: str = R) -> ReserveStock:
    return ReserveStock(reservation_id, "O1", "res:O1:1", lines, "ALLOW", BERLIN, LATER)


def reserved(*lines: ReservedLine) -> StockReserved:
    return StockReserved(**HELD_FOR, request_id="res:O1:1", lines=lines, expires_at=LATER)


def rejected(*lines: ShortLine) -> StockReservationRejected:
    return StockReservationRejected(**HELD_FOR, request_id="res:O1:1", short_lines=lines)


def release(*lines: ReservedLine, request_id: str = "rel:1") -> ReleaseReservation:
    return ReleaseReservation(R, "O1", request_id, "CUSTOMER", lines)


def released(*lines: ReservedLine, request_id: str = "rel:1") -> ReservationReleased:
    return ReservationReleased(**HELD_FOR, request_id=request_id, lines=lines, reason="CUSTOMER")


def consume(*lines: ReservedLine, shipment_id: str = "S1") -> ConsumeReservation:
    return ConsumeReservation(R, "O1", f"ship:{shipment_id}", shipment_id, lines)


def consumed(*lines: ReservedLine, shipment_id: str = "S1") -> ReservationConsumed:
    return ReservationConsumed(**HELD_FOR, request_id=f"ship:{shipment_id}", shipment_id=shipment_id, lines=lines)


def held(sku: str, location: str, qty: int, reservation_id: str = R) -> StockHeld:
    return StockHeld(sku=sku, location=location, qty=qty, reservation_id=reservation_id)


def back(sku: str, location: str, qty: int) -> StockHoldReleased:
    return StockHoldReleased(sku=sku, location=location, qty=qty, reservation_id=R)


def shipped(sku: str, location: str, qty: int, shipment_id: str = "S1") -> StockShipped:
    return StockShipped(sku=sku, location=location, qty=qty, reservation_id=R, shipment_id=shipment_id)


def adjusted(sku: str, location: str, qty: int, reason: str = "count", by: str = "ann") -> StockAdjusted:
    return StockAdjusted(sku=sku, location=location, qty=qty, reason=reason, by=by)


HAMBURG, MUNICH = located("HAM", 53.5, 10.0), located("MUC", 48.1, 11.6)
STOCKED = (HAMBURG, MUNICH, received("X", "HAM", 5), received("X", "MUC", 5), received("Y", "MUC", 2))
TWO_LINES = (part("1", "X", "MUC", 3), part("2", "Y", "MUC", 1))
ON_HOLD = (*STOCKED, reserved(*TWO_LINES), held("X", "MUC", 3), held("Y", "MUC", 1))


def given(*events: Event) -> Scenario:
    return scenario(DECIDER).given(*events)


# --- reserve


def test_stock_is_held_where_one_location_serves_all_lines() -> None:
    when = given(*STOCKED).when(reserve(asked("1", "X", 3), asked("2", "Y", 1)))
    when.then(reserved(*TWO_LINES), held("X", "MUC", 3), held("Y", "MUC", 1))
    when.then_nothing_when_repeated()


def test_lines_of_one_sku_hold_it_together() -> None:
    when = given(*STOCKED).when(reserve(asked("1", "X", 2), asked("2", "X", 2)))
    when.then(reserved(part("1", "X", "HAM", 2), part("2", "X", "HAM", 2)), held("X", "HAM", 4))


def test_line_spread_over_two_locations_holds_at_both() -> None:
    when = given(*STOCKED).when(reserve(asked("1", "X", 7)))
    when.then(reserved(part("1", "X", "HAM", 5), part("1", "X", "MUC", 2)), held("X", "HAM", 5), held("X", "MUC", 2))


def test_missing_stock_rejects_the_whole_request() -> None:
    when = given(*STOCKED).when(reserve(asked("1", "X", 3), asked("2", "Y", 3)))
    when.then(rejected(ShortLine(line_id="2", sku="Y", qty=3, available=2)))
    when.then_nothing_when_repeated()


def test_order_not_to_be_split_is_rejected_where_only_two_locations_together_have_it() -> None:
    command = ReserveStock(R, "O1", "res:O1:1", (asked("1", "X", 7),), "NO", BERLIN, LATER)
    given(*STOCKED).when(command).then(rejected(ShortLine(line_id="1", sku="X", qty=7, available=5)))


def test_stock_held_for_others_cannot_be_reserved() -> None:
    others = held("Y", "MUC", 1, reservation_id="O2-r1")
    given(*STOCKED, others).when(reserve(asked("2", "Y", 2))).then(
        rejected(ShortLine(line_id="2", sku="Y", qty=2, available=1))
    )


def test_disabled_node_drops_out() -> None:
    disabled = NodeDisabled(location="HAM", by="ann", reason="flood")
    given(*STOCKED, disabled).when(reserve(asked("1", "X", 1))).then(
        reserved(part("1", "X", "MUC", 1)), held("X", "MUC", 1)
    )


def test_stock_at_an_unregistered_location_cannot_be_sourced() -> None:
    given(received("X", "GHOST", 5)).when(reserve(asked("1", "X", 1))).then(
        rejected(ShortLine(line_id="1", sku="X", qty=1, available=0))
    )


def test_line_that_names_a_node_is_held_there() -> None:
    given(*STOCKED).when(reserve(asked("1", "X", 1, "MUC"))).then(
        reserved(part("1", "X", "MUC", 1)), held("X", "MUC", 1)
    )


@pytest.mark.parametrize(
    "past",
    [
        (rejected(),),
        ON_HOLD,
        (*ON_HOLD, released(*TWO_LINES), back("X", "MUC", 3), back("Y", "MUC", 1)),
        (*ON_HOLD, consumed(*TWO_LINES), shipped("X", "MUC", 3), shipped("Y", "MUC", 1)),
    ],
    ids=["rejected", "held", "released", "consumed"],
)
def test_answered_reservation_is_not_answered_again(past: tuple[Event, ...]) -> None:
    given(*STOCKED, *past).when(reserve(asked("1", "X", 1))).then_nothing()


def test_reservation_released_before_it_was_reserved_is_rejected() -> None:
    when = given(*STOCKED, released()).when(reserve(asked("1", "X", 1)))
    when.then(rejected())
    when.then_nothing_when_repeated()


# --- release


def test_release_gives_back_what_is_held() -> None:
    when = given(*ON_HOLD).when(release(*TWO_LINES))
    when.then(released(*TWO_LINES), back("X", "MUC", 3), back("Y", "MUC", 1))
    when.then_nothing_when_repeated()


def test_released_stock_can_be_reserved_by_others() -> None:
    other = ReserveStock("O2-r1", "O2", "res:O2:1", (asked("1", "Y", 2),), "ALLOW", BERLIN, LATER)
    freed = given(*ON_HOLD, released(*TWO_LINES), back("X", "MUC", 3), back("Y", "MUC", 1)).when(other).decide()
    assert freed[1:] == [held("Y", "MUC", 2, reservation_id="O2-r1")]


def test_release_of_a_part_leaves_the_rest_held() -> None:
    some = part("1", "X", "MUC", 1)
    when = given(*ON_HOLD).when(release(some))
    when.then(released(some), back("X", "MUC", 1))
    when.then_nothing_when_repeated()
    given(*ON_HOLD, released(some)).when(release(*TWO_LINES, request_id="rel:2")).then(
        released(part("1", "X", "MUC", 2), part("2", "Y", "MUC", 1), request_id="rel:2"),
        back("X", "MUC", 2),
        back("Y", "MUC", 1),
    )


def test_release_after_a_partial_shipment_gives_back_only_the_rest() -> None:
    gone = part("1", "X", "MUC", 2)
    when = given(*ON_HOLD, consumed(gone), shipped("X", "MUC", 2)).when(release(*TWO_LINES))
    when.then(
        released(part("1", "X", "MUC", 1), part("2", "Y", "MUC", 1)),
        back("X", "MUC", 1),
        back("Y", "MUC", 1),
    )
    when.then_nothing_when_repeated()


def test_release_of_a_line_held_in_two_parts_takes_no_more_than_was_asked() -> None:
    two_parts = reserved(part("1", "X", "MUC", 1), part("1", "X", "MUC", 2))
    given(*STOCKED, two_parts, held("X", "MUC", 3)).when(release(part("1", "X", "MUC", 2))).then(
        released(part("1", "X", "MUC", 1), part("1", "X", "MUC", 1)), back("X", "MUC", 2)
    )


@pytest.mark.parametrize(
    "past",
    [(), (rejected(),), (*ON_HOLD, released(*TWO_LINES, request_id="rel:0")), (*ON_HOLD, consumed(*TWO_LINES))],
    ids=["unknown", "rejected", "released", "consumed"],
)
def test_release_of_nothing_held_is_answered_once_with_no_lines(past: tuple[Event, ...]) -> None:
    when = given(*past).when(release(*TWO_LINES))
    when.then(released())
    when.then_nothing_when_repeated()


def test_consumed_reservation_stays_consumed_when_nothing_is_left_to_release() -> None:
    stream = RESERVATION.stream(R)
    assert fold(DECIDER, (*ON_HOLD, consumed(*TWO_LINES), released()), [stream])[stream].status == "CONSUMED"


# --- consume


def test_shipment_consumes_what_is_held() -> None:
    when = given(*ON_HOLD).when(consume(*TWO_LINES))
    when.then(consumed(*TWO_LINES), shipped("X", "MUC", 3), shipped("Y", "MUC", 1))
    when.then_nothing_when_repeated()


def test_second_shipment_consumes_the_rest() -> None:
    first, rest = part("1", "X", "MUC", 3), part("2", "Y", "MUC", 1)
    given(*ON_HOLD, consumed(first), shipped("X", "MUC", 3)).when(consume(rest, shipment_id="S2")).then(
        consumed(rest, shipment_id="S2"), shipped("Y", "MUC", 1, "S2")
    )


def test_goods_shipped_beyond_the_reservation_are_booked_as_an_adjustment() -> None:
    when = given(*ON_HOLD).when(consume(part("1", "X", "MUC", 4)))
    when.then(
        consumed(part("1", "X", "MUC", 3)),
        shipped("X", "MUC", 3),
        adjusted("X", "MUC", -1, "shipped_unreserved", "inventory"),
    )
    when.then_nothing_when_repeated()


def test_goods_shipped_beyond_the_reservation_never_take_what_others_were_promised() -> None:
    others = held("X", "MUC", 1, reservation_id="O2-r1")
    given(*ON_HOLD, others).when(consume(part("1", "X", "MUC", 9))).then(
        consumed(part("1", "X", "MUC", 3)),
        shipped("X", "MUC", 3),
        adjusted("X", "MUC", -1, "shipped_unreserved", "inventory"),
    )


def test_goods_shipped_from_a_released_reservation_are_booked_as_an_adjustment() -> None:
    past = (*ON_HOLD, released(*TWO_LINES), back("X", "MUC", 3), back("Y", "MUC", 1))
    when = given(*past).when(consume(TWO_LINES[0]))
    when.then(consumed(), adjusted("X", "MUC", -3, "shipped_unreserved", "inventory"))
    when.then_nothing_when_repeated()


# --- receive and adjust


def receive(*lines: tuple[str, str, int], receipt_id: str = "PO-1") -> ReceiveStock:
    return ReceiveStock(receipt_id, tuple(ReceiptLine(*line) for line in lines))


def test_delivery_is_received_at_all_its_places() -> None:
    when = given(HAMBURG, MUNICH).when(receive(("X", "MUC", 2), ("Y", "HAM", 1), ("X", "HAM", 3)))
    when.then(received("X", "HAM", 3), received("X", "MUC", 2), received("Y", "HAM", 1))
    when.then_nothing_when_repeated()


def test_delivery_repeated_with_its_lines_in_another_order_is_the_same() -> None:
    given(HAMBURG, MUNICH, received("X", "HAM", 3), received("X", "MUC", 2)).when(
        receive(("X", "MUC", 1), ("X", "HAM", 3), ("X", "MUC", 1))
    ).then_nothing()


@pytest.mark.parametrize(
    "lines",
    [[("X", "HAM", 4)], [("X", "MUC", 3)], [("X", "HAM", 3), ("X", "MUC", 1)]],
    ids=["other quantity", "other location", "one more line"],
)
def test_delivery_repeated_with_other_data_is_rejected(lines: list[tuple[str, str, int]]) -> None:
    given(HAMBURG, MUNICH, received("X", "HAM", 3)).when(receive(*lines)).then_rejected("receipt_exists")


def test_one_bad_line_rejects_the_whole_delivery() -> None:
    given(HAMBURG, received("X", "HAM", 3)).when(receive(("Y", "HAM", 1), ("X", "HAM", 4))).then_rejected(
        "receipt_exists"
    )


def test_known_part_of_a_delivery_is_not_counted_again() -> None:
    given(HAMBURG, received("X", "HAM", 3)).when(receive(("X", "HAM", 3), ("Y", "HAM", 1))).then(
        received("Y", "HAM", 1)
    )


def test_delivery_to_an_unknown_location_is_rejected() -> None:
    given(HAMBURG).when(receive(("X", "HAM", 1), ("X", "NOWHERE", 1))).then_rejected("unknown_location")


def test_receipts_are_remembered_up_to_a_limit() -> None:
    later = [received("X", "HAM", 1, f"PO-{number}") for number in range(2, REMEMBERED_RECEIPTS + 1)]
    past = given(HAMBURG, received("X", "HAM", 3), *later)
    past.when(receive(("X", "HAM", 3))).then_nothing()
    past.given(received("X", "HAM", 1, "PO-last")).when(receive(("X", "HAM", 3))).then(received("X", "HAM", 3))


def test_disabled_node_still_receives() -> None:
    disabled = NodeDisabled(location="HAM", by="ann", reason="flood")
    given(HAMBURG, disabled).when(receive(("X", "HAM", 1))).then(received("X", "HAM", 1))


def test_count_adjusts_what_is_on_hand() -> None:
    given(*STOCKED).when(AdjustStock("X", "HAM", -5, "count", "ann")).then(adjusted("X", "HAM", -5))
    given(*STOCKED).when(AdjustStock("Z", "HAM", 2, "count", "ann")).then(adjusted("Z", "HAM", 2))


def test_adjustment_below_what_is_promised_is_rejected() -> None:
    given(*ON_HOLD).when(AdjustStock("X", "MUC", -2, "count", "ann")).then(adjusted("X", "MUC", -2))
    given(*ON_HOLD).when(AdjustStock("X", "MUC", -3, "count", "ann")).then_rejected("insufficient_stock")


def test_adjustment_at_an_unknown_location_is_rejected() -> None:
    given(*STOCKED).when(AdjustStock("X", "NOWHERE", 1, "count", "ann")).then_rejected("unknown_location")


# --- network


def test_location_is_registered_once() -> None:
    when = given().when(RegisterLocation("HAM", "HAM", "DE", 53.5, 10.0))
    when.then(HAMBURG)
    when.then_nothing_when_repeated()


def test_location_registered_with_new_data_is_changed_but_not_enabled() -> None:
    disabled = NodeDisabled(location="HAM", by="ann", reason="flood")
    when = given(HAMBURG, disabled).when(RegisterLocation("HAM", "Hamburg 2", "DE", 53.6, 10.0))
    when.then(located("HAM", 53.6, 10.0, name="Hamburg 2"))
    when.then_nothing_when_repeated()
    given(HAMBURG, disabled, *when.decide()).when(DisableNode("HAM", "ann", "flood")).then_nothing()


def test_node_is_disabled_and_enabled() -> None:
    disabled = NodeDisabled(location="HAM", by="ann", reason="flood")
    when = given(HAMBURG).when(DisableNode("HAM", "ann", "flood"))
    when.then(disabled)
    when.then_nothing_when_repeated()
    when = given(HAMBURG, disabled).when(EnableNode("HAM", "bob", "dry"))
    when.then(NodeEnabled(location="HAM", by="bob", reason="dry"))
    when.then_nothing_when_repeated()


@pytest.mark.parametrize("command", [DisableNode("NOWHERE", "ann", "x"), EnableNode("NOWHERE", "ann", "x")])
def test_unknown_node_cannot_be_switched(command: DisableNode | EnableNode) -> None:
    given(HAMBURG).when(command).then_rejected("unknown_location")


# --- the rest


def test_wake_changes_nothing_since_nothing_here_is_ever_due() -> None:
    given(*ON_HOLD).when(Wake(f"reservation-{R}")).then_nothing()
    states = fold(DECIDER, ON_HOLD, [RESERVATION.stream(R)])
    assert RESERVATION.due(states[RESERVATION.stream(R)]) is None


@pytest.mark.parametrize("stream", [RESERVATION.stream(R), STOCK.stream("X"), MAIN], ids=lambda s: str(s.stream_id))
def test_state_survives_being_kept_as_a_snapshot(stream: Any) -> None:
    past = (*ON_HOLD, consumed(part("1", "X", "MUC", 1)), NodeDisabled(location="HAM", by="ann", reason="flood"))
    state = fold(DECIDER, past, [stream])[stream]
    assert state != stream.aggregate.initial_state()
    adapter = TypeAdapter(type(state))
    assert adapter.validate_json(adapter.dump_json(state)) == state


def test_every_command_names_the_streams_it_appends_to() -> None:
    names = [stream.stream_id for stream in DECIDER.streams(reserve(asked("1", "Y", 1), asked("2", "X", 1)))]
    assert names == [f"reservation-{R}", "stock-X", "stock-Y"]
    assert [stream.stream_id for stream in DECIDER.reads(reserve())] == [NETWORK.stream("main").stream_id]
