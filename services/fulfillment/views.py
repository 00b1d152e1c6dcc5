"""What fulfillment shows of its releases and shipments: no personal data."""

from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from libs.events.base import ReleaseLine
from libs.events.envelope import Recorded
from libs.events.fulfillment import (
    FulfillmentAccepted,
    FulfillmentOrderCreated,
    FulfillmentPacked,
    FulfillmentPicked,
    FulfillmentRejected,
    Package,
    ReleaseEvent,
    ShipmentCreated,
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentEvent,
    ShipmentLost,
    ShipmentReturnedToSender,
    ShipmentTrackingUpdated,
    ShippingLabelPurchased,
    TrackingStatus,
)
from libs.runtime.projection import Projection

ReleaseStatus = Literal["REQUESTED", "ACCEPTED", "REJECTED", "PICKED", "PACKED"]
ShipmentStatus = Literal["CREATED", "LABELLED", "DISPATCHED", "DELIVERED", "LOST", "RETURNED_TO_SENDER"]


class View(BaseModel):
    model_config = ConfigDict(frozen=True)


class ReleaseView(View):
    release_id: str
    order_id: str
    node: str
    status: ReleaseStatus
    lines: tuple[ReleaseLine, ...]
    shipping_method: str
    rejection_reason: str | None = None
    package_ids: tuple[str, ...] = ()


class PackageView(View):
    """`weight` in grams, `label_cost` in minor units of `label_currency`."""

    package_id: str
    weight: int
    lines: tuple[ReleaseLine, ...]
    status: TrackingStatus = "PRE_TRANSIT"
    carrier: str | None = None
    tracking_number: str | None = None
    label_cost: int | None = None
    label_currency: str | None = None


class ShipmentView(View):
    shipment_id: str
    release_id: str
    order_id: str
    node: str
    status: ShipmentStatus
    packages: tuple[PackageView, ...]


def _release_key(recorded: Recorded[Any]) -> str | None:
    return recorded.event.release_id if isinstance(recorded.event, ReleaseEvent) else None


def _shipment_key(recorded: Recorded[Any]) -> str | None:
    return recorded.event.shipment_id if isinstance(recorded.event, ShipmentEvent) else None


def evolve_release(view: ReleaseView | None, recorded: Recorded[Any]) -> ReleaseView | None:
    if isinstance(recorded.event, FulfillmentOrderCreated):
        return _opened(recorded.event)
    if view is None:
        return None
    match recorded.event:
        case FulfillmentAccepted():
            return view.model_copy(update={"status": "ACCEPTED"})
        case FulfillmentRejected(reason=reason):
            return view.model_copy(update={"status": "REJECTED", "rejection_reason": reason})
        case FulfillmentPicked():
            return view.model_copy(update={"status": "PICKED"})
        case FulfillmentPacked(packages=packages):
            ids = tuple(package.package_id for package in packages)
            return view.model_copy(update={"status": "PACKED", "package_ids": ids})
        case _:
            return view


def _opened(event: FulfillmentOrderCreated) -> ReleaseView:
    return ReleaseView(
        release_id=event.release_id,
        order_id=event.order_id,
        node=event.node,
        status="REQUESTED",
        lines=event.lines,
        shipping_method=event.shipping_method,
    )


def evolve_shipment(view: ShipmentView | None, recorded: Recorded[Any]) -> ShipmentView | None:
    if isinstance(recorded.event, ShipmentCreated):
        return _packed(recorded.event)
    if view is None:
        return None
    match recorded.event:
        case ShippingLabelPurchased() as label:
            return _labelled(_changed(view, label.package_id, lambda package: _with_label(package, label)))
        case ShipmentDispatched():
            return _ended(_every(view, lambda package: package.status == "PRE_TRANSIT", "PICKED_UP"), "DISPATCHED")
        case ShipmentTrackingUpdated(package_id=package_id, status=status):
            return _changed(view, package_id, lambda package: _at(package, status))
        case ShipmentDelivered():
            return _ended(_every(view, lambda package: True, "DELIVERED"), "DELIVERED")
        case ShipmentLost(package_id=package_id):
            return _ended(_changed(view, package_id, lambda package: _at(package, "LOST")), "LOST")
        case ShipmentReturnedToSender(package_id=package_id):
            back = _changed(view, package_id, lambda package: _at(package, "RETURN_TO_SENDER"))
            return _ended(back, "RETURNED_TO_SENDER")
        case _:
            return view


def _packed(event: ShipmentCreated) -> ShipmentView:
    return ShipmentView(
        shipment_id=event.shipment_id,
        release_id=event.release_id,
        order_id=event.order_id,
        node=event.node,
        status="CREATED",
        packages=tuple(_package(package) for package in event.packages),
    )


def _package(package: Package) -> PackageView:
    return PackageView(package_id=package.package_id, weight=package.weight, lines=package.lines)


def _changed(view: ShipmentView, package_id: str, change: Callable[[PackageView], PackageView]) -> ShipmentView:
    packages = tuple(change(package) if package.package_id == package_id else package for package in view.packages)
    return view.model_copy(update={"packages": packages})


def _every(view: ShipmentView, which: Callable[[PackageView], bool], status: TrackingStatus) -> ShipmentView:
    packages = tuple(_at(package, status) if which(package) else package for package in view.packages)
    return view.model_copy(update={"packages": packages})


def _at(package: PackageView, status: TrackingStatus) -> PackageView:
    return package.model_copy(update={"status": status})


def _ended(view: ShipmentView, status: ShipmentStatus) -> ShipmentView:
    return view.model_copy(update={"status": status})


def _with_label(package: PackageView, label: ShippingLabelPurchased) -> PackageView:
    return package.model_copy(
        update={
            "carrier": label.carrier,
            "tracking_number": label.tracking_number,
            "label_cost": label.cost,
            "label_currency": label.currency,
        }
    )


def _labelled(view: ShipmentView) -> ShipmentView:
    bought = all(package.tracking_number for package in view.packages)
    return _ended(view, "LABELLED") if bought else view


RELEASE_VIEW = Projection(
    name="release_view",
    view=ReleaseView,
    key=_release_key,
    evolve=evolve_release,
    indexed=("status", "node", "order_id"),
)
SHIPMENT_VIEW = Projection(
    name="shipment_view", view=ShipmentView, key=_shipment_key, evolve=evolve_shipment, indexed=("status", "order_id")
)
