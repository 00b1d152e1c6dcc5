"""The calls that fulfillment's own events intend: a release to the warehouse, a label for each package."""

from collections.abc import Sequence
from typing import Any

from libs.events.envelope import Recorded
from libs.events.fulfillment import FulfillmentOrderCreated, Package, ShipmentCreated
from libs.runtime.effect import Effect
from services.fulfillment.domain.command import AcceptRelease, Command, RecordLabel, RejectRelease
from services.fulfillment.gateway import Gateways


def follow(recorded: Recorded[Any]) -> Sequence[Effect]:
    match recorded.event:
        case FulfillmentOrderCreated() as release:
            return [Effect(kind="submit_release", key=f"rel:{release.release_id}", intent=release)]
        case ShipmentCreated() as shipment:
            return [
                Effect(kind="purchase_label", key=_label_key(shipment, package), intent=shipment)
                for package in shipment.packages
            ]
        case _:
            return []


async def perform(effect: Effect, gateways: Gateways) -> Command:
    match effect.intent:
        case FulfillmentOrderCreated() as release:
            return await _submit(release, effect.key, gateways)
        case ShipmentCreated() as shipment:
            return await _buy(shipment, effect.key, gateways)
        case _:
            raise ValueError(f"{effect.kind} intends no call that fulfillment makes")


async def _submit(release: FulfillmentOrderCreated, key: str, gateways: Gateways) -> Command:
    refusal = await gateways.warehouse.submit(release, key)
    return AcceptRelease(release.release_id) if refusal is None else RejectRelease(release.release_id, refusal)


async def _buy(shipment: ShipmentCreated, key: str, gateways: Gateways) -> Command:
    package = next(package for package in shipment.packages if _label_key(shipment, package) == key)
    label = await gateways.carrier.buy_label(shipment, package, key)
    return RecordLabel(
        shipment.shipment_id, package.package_id, label.carrier, label.tracking_number, label.cost, label.currency
    )


def _label_key(shipment: ShipmentCreated, package: Package) -> str:
    return f"lbl:{shipment.shipment_id}:{package.package_id}:1"
