from datetime import timedelta

import pytest

from libs.events.base import ReleaseLine
from libs.events.fulfillment import FulfillmentAccepted, FulfillmentPacked, FulfillmentPicked, FulfillmentRejected
from libs.runtime.decider import Wake
from libs.testing.fulfillment_gateway import LINES, package, release_created, shipment_created
from libs.testing.scenario import NOW, scenario
from services.fulfillment.domain.command import (
    AcceptRelease,
    Command,
    CreateFulfillmentOrder,
    RecordPacked,
    RecordPicked,
    RejectRelease,
)
from services.fulfillment.domain.decider import DECIDER

ID = "o1-berlin-1"
ONE, TWO = LINES
CREATED = release_created()
ACCEPTED = FulfillmentAccepted(release_id=ID, order_id="o1", node="berlin")
REJECTED = FulfillmentRejected(release_id=ID, order_id="o1", node="berlin", reason="node_closed")
PICKED = FulfillmentPicked(release_id=ID, order_id="o1", lines=LINES)
PACKED = FulfillmentPacked(release_id=ID, order_id="o1", packages=(package(),))
SHIPMENT = shipment_created()

CREATE = CreateFulfillmentOrder(ID, "o1", "berlin", LINES, "STD", CREATED.destination, CREATED.pii)
ACCEPT = AcceptRelease(ID)
REJECT = RejectRelease(ID, "node_closed")
PICK = RecordPicked(ID, LINES)
PACK = RecordPacked(ID, (package(),))

given = scenario(DECIDER).given


def test_requested_release_is_created() -> None:
    given().when(CREATE).then(CREATED)
    given().when(CREATE).then_nothing_when_repeated()


def test_accepted_release_is_accepted() -> None:
    given(CREATED).when(ACCEPT).then(ACCEPTED)
    given(CREATED).when(ACCEPT).then_nothing_when_repeated()


def test_refused_release_is_rejected() -> None:
    given(CREATED).when(REJECT).then(REJECTED)
    given(CREATED).when(REJECT).then_nothing_when_repeated()


def test_picked_goods_are_recorded() -> None:
    given(CREATED, ACCEPTED).when(PICK).then(PICKED)
    given(CREATED, ACCEPTED).when(PICK).then_nothing_when_repeated()


def test_packed_goods_become_a_shipment() -> None:
    given(CREATED, ACCEPTED, PICKED).when(PACK).then(PACKED, SHIPMENT)
    given(CREATED, ACCEPTED, PICKED).when(PACK).then_nothing_when_repeated()


def test_picked_that_overtakes_the_acceptance_accepts_too() -> None:
    given(CREATED).when(PICK).then(ACCEPTED, PICKED)
    given(CREATED).when(PICK).then_nothing_when_repeated()


def test_packed_that_overtakes_picked_picks_too() -> None:
    given(CREATED, ACCEPTED).when(PACK).then(PICKED, PACKED, SHIPMENT)


def test_packed_that_overtakes_everything_records_everything() -> None:
    given(CREATED).when(PACK).then(ACCEPTED, PICKED, PACKED, SHIPMENT)
    given(CREATED).when(PACK).then_nothing_when_repeated()


@pytest.mark.parametrize("late", [CREATE, ACCEPT, PICK, RecordPicked(ID, (ONE,)), PACK, RecordPacked(ID, ())])
def test_late_news_of_a_packed_release_changes_nothing(late: Command) -> None:
    given(CREATED, ACCEPTED, PICKED, PACKED).when(late).then_nothing()


def test_line_split_over_packages_is_whole() -> None:
    half = ReleaseLine(line_id="1", sku="SKU-1", qty=1)
    packages = (package("p1", half), package("p2", TWO, half))
    packed = PACKED.model_copy(update={"packages": packages})
    given(CREATED, ACCEPTED, PICKED).when(RecordPacked(ID, packages)).then(packed, shipment_created(*packages))


@pytest.mark.parametrize(
    "lines",
    [
        (ONE,),
        (ONE, TWO, TWO),
        (ONE.model_copy(update={"sku": "SKU-9"}), TWO),
        (ONE.model_copy(update={"line_id": "9"}), TWO),
        (ONE.model_copy(update={"qty": 3}), TWO),
    ],
)
def test_other_quantities_than_released_are_rejected(lines: tuple[ReleaseLine, ...]) -> None:
    given(CREATED, ACCEPTED).when(RecordPicked(ID, lines)).then_rejected("quantity_mismatch")
    given(CREATED, ACCEPTED).when(RecordPacked(ID, (package("p1", *lines),))).then_rejected("quantity_mismatch")


def test_lines_in_another_order_are_the_same_goods() -> None:
    given(CREATED, ACCEPTED).when(RecordPicked(ID, (TWO, ONE))).then(PICKED)


def test_package_told_twice_is_rejected() -> None:
    packages = (package("p1", ONE), package("p1", TWO))
    given(CREATED, ACCEPTED).when(RecordPacked(ID, packages)).then_rejected("package_repeated")


@pytest.mark.parametrize("command", [ACCEPT, REJECT, PICK, PACK])
def test_unknown_release_is_rejected(command: Command) -> None:
    given().when(command).then_rejected("release_unknown")


@pytest.mark.parametrize("command", [ACCEPT, PICK, PACK])
def test_rejected_release_stays_rejected(command: Command) -> None:
    given(CREATED, REJECTED).when(command).then_rejected("release_closed")


def test_refusal_of_an_accepted_release_is_rejected() -> None:
    for past in ([ACCEPTED], [ACCEPTED, PICKED], [ACCEPTED, PICKED, PACKED]):
        given(CREATED, *past).when(REJECT).then_rejected("release_accepted")


def test_wake_decides_nothing_and_nothing_is_ever_due() -> None:
    given(CREATED, SHIPMENT).when(Wake(f"release-{ID}"), NOW + timedelta(days=99)).then_nothing()
    given(CREATED, SHIPMENT).when(Wake(SHIPMENT.stream_id)).then_nothing()
    assert [aggregate.due(aggregate.initial_state()) for aggregate in DECIDER.aggregates] == [None, None]


def test_packed_locks_the_release_and_its_shipment() -> None:
    assert [stream.stream_id for stream in DECIDER.streams(PACK)] == [f"release-{ID}", f"shipment-{ID}-1"]
