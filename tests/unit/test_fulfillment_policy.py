from datetime import timedelta

import pytest

from libs.events.fulfillment import ShipmentDispatched
from libs.events.order import FulfillmentRequested, OrderAccepted
from libs.runtime.effect import Effect, GatewayUnavailable
from libs.testing.fulfillment_gateway import (
    InMemoryCarrier,
    InMemoryWarehouse,
    package,
    release_created,
    shipment_created,
)
from libs.testing.scenario import NOW, recorded, scenario
from services.fulfillment.domain.command import AcceptRelease, CreateFulfillmentOrder, RecordLabel, RejectRelease
from services.fulfillment.domain.decider import DECIDER
from services.fulfillment.effects import follow, perform
from services.fulfillment.gateway import Gateways
from services.fulfillment.policy import WANTS, react
from services.fulfillment.service import service

RELEASE = release_created()
SHIPMENT = shipment_created(package("p1"), package("p:2"))
ASKED = FulfillmentRequested(
    order_id="o1",
    request_id="req-1",
    release_id=RELEASE.release_id,
    node=RELEASE.node,
    lines=RELEASE.lines,
    shipping_method=RELEASE.shipping_method,
    destination=RELEASE.destination,
    ship_by=NOW + timedelta(days=1),
    pii=RELEASE.pii,
)


def test_requested_fulfillment_creates_the_release() -> None:
    (command,) = react(recorded(ASKED))
    assert isinstance(command, CreateFulfillmentOrder)
    scenario(DECIDER).when(command).then(RELEASE)
    scenario(DECIDER).when(command).then_nothing_when_repeated()


def test_policy_wants_what_it_reacts_to() -> None:
    assert {FulfillmentRequested} == WANTS
    assert react(recorded(OrderAccepted(order_id="o1"))) == []


def test_created_release_is_submitted_to_the_warehouse() -> None:
    assert follow(recorded(RELEASE)) == [Effect(kind="submit_release", key="rel:o1-berlin-1", intent=RELEASE)]


def test_created_shipment_buys_a_label_for_each_package() -> None:
    assert follow(recorded(SHIPMENT)) == [
        Effect(kind="purchase_label", key="lbl:o1-berlin-1-1:p1:1", intent=SHIPMENT),
        Effect(kind="purchase_label", key="lbl:o1-berlin-1-1:p:2:1", intent=SHIPMENT),
    ]


def test_no_other_event_calls_the_outside() -> None:
    dispatched = ShipmentDispatched(
        shipment_id="o1-berlin-1-1",
        order_id="o1",
        release_id="o1-berlin-1",
        node="berlin",
        package_ids=("p1",),
        carrier="SIMEX",
        tracking_numbers=("T1",),
        lines=RELEASE.lines,
    )
    assert follow(recorded(dispatched)) == []


@pytest.fixture
def gateways() -> Gateways:
    return Gateways(warehouse=InMemoryWarehouse(), carrier=InMemoryCarrier())


async def test_warehouse_answer_becomes_a_command(gateways: Gateways) -> None:
    (submit,) = follow(recorded(RELEASE))
    assert await perform(submit, gateways) == AcceptRelease("o1-berlin-1")


async def test_refusal_becomes_a_rejection_with_its_reason() -> None:
    closed = Gateways(warehouse=InMemoryWarehouse(refuses={"berlin": "node_closed"}), carrier=InMemoryCarrier())
    (submit,) = follow(recorded(RELEASE))
    assert await perform(submit, closed) == RejectRelease("o1-berlin-1", "node_closed")


async def test_label_is_recorded_for_the_package_that_its_key_names(gateways: Gateways) -> None:
    labels = [await perform(effect, gateways) for effect in follow(recorded(SHIPMENT))]
    assert [label.package_id for label in labels if isinstance(label, RecordLabel)] == ["p1", "p:2"]
    assert all(isinstance(label, RecordLabel) and (label.cost, label.currency) == (495, "EUR") for label in labels)
    assert len({label.tracking_number for label in labels if isinstance(label, RecordLabel)}) == 2


async def test_unavailable_gateway_leaves_the_effect_to_be_made_again() -> None:
    warehouse = InMemoryWarehouse()
    warehouse.kept.away = True
    (submit,) = follow(recorded(RELEASE))
    with pytest.raises(GatewayUnavailable):
        await perform(submit, Gateways(warehouse=warehouse, carrier=InMemoryCarrier()))


async def test_effect_of_another_event_is_a_defect(gateways: Gateways) -> None:
    with pytest.raises(ValueError, match="submit_release"):
        await perform(Effect(kind="submit_release", key="k", intent=OrderAccepted(order_id="o1")), gateways)


def test_service_names_all_its_parts(gateways: Gateways) -> None:
    record = service(gateways)
    assert record.name == "fulfillment"
    assert record.wants == WANTS
    assert record.react is react
    assert record.effects is not None
    assert record.effects.gateway is gateways
    assert [projection.name for projection in record.projections] == ["release_view", "shipment_view"]
