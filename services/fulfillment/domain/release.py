"""A release at a node's warehouse: asked for, accepted or refused, picked, packed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from libs.events.base import Event, ReleaseLine
from libs.events.fulfillment import (
    FulfillmentAccepted,
    FulfillmentOrderCreated,
    FulfillmentPacked,
    FulfillmentPicked,
    FulfillmentRejected,
    Package,
    ShipmentCreated,
)
from libs.runtime.decider import Aggregate, CommandRejected
from services.fulfillment.domain.command import CreateFulfillmentOrder
from services.fulfillment.domain.quantity import contents, merged

ReleaseEvents = (
    FulfillmentOrderCreated | FulfillmentAccepted | FulfillmentRejected | FulfillmentPicked | FulfillmentPacked
)
Status = Literal["created", "accepted", "rejected", "picked", "packed"]


@dataclass(frozen=True, slots=True)
class FulfillmentOrder:
    """`asked` is the release as the order wanted it; without it the release does not exist."""

    asked: FulfillmentOrderCreated | None = None
    status: Status = "created"


def evolve(state: FulfillmentOrder, event: ReleaseEvents) -> FulfillmentOrder:
    match event:
        case FulfillmentOrderCreated():
            return FulfillmentOrder(event)
        case FulfillmentAccepted():
            return replace(state, status="accepted")
        case FulfillmentRejected():
            return replace(state, status="rejected")
        case FulfillmentPicked():
            return replace(state, status="picked")
        case FulfillmentPacked():
            return replace(state, status="packed")
        case _:
            assert_never(event)


RELEASE = Aggregate(category="release", initial_state=FulfillmentOrder, evolve=evolve)


def shipment_of(release_id: str) -> str:
    """A release is packed once and whole, so it has one shipment."""
    return f"{release_id}-1"


def create(state: FulfillmentOrder, command: CreateFulfillmentOrder) -> Sequence[Event]:
    if state.asked is not None:
        return []
    return [
        FulfillmentOrderCreated(
            release_id=command.release_id,
            order_id=command.order_id,
            node=command.node,
            lines=command.lines,
            shipping_method=command.shipping_method,
            destination=command.destination,
            pii=command.pii,
        )
    ]


def accept(state: FulfillmentOrder) -> Sequence[Event]:
    asked = _known(state)
    match state.status:
        case "created":
            return [_accepted(asked)]
        case "accepted" | "picked" | "packed":
            return []
        case "rejected":
            raise _closed(asked)
        case _:
            assert_never(state.status)


def reject(state: FulfillmentOrder, reason: str) -> Sequence[Event]:
    asked = _known(state)
    match state.status:
        case "created":
            return [
                FulfillmentRejected(
                    release_id=asked.release_id, order_id=asked.order_id, node=asked.node, reason=reason
                )
            ]
        case "rejected":
            return []
        case "accepted" | "picked" | "packed":
            raise CommandRejected("release_accepted", f"cannot reject a release that is {state.status}")
        case _:
            assert_never(state.status)


def pick(state: FulfillmentOrder, lines: Sequence[ReleaseLine]) -> Sequence[Event]:
    asked = _known(state)
    match state.status:
        case "created" | "accepted":
            _require_whole(asked, merged(lines))
            return _until_picked(state, asked)
        case "picked" | "packed":
            return []
        case "rejected":
            raise _closed(asked)
        case _:
            assert_never(state.status)


def pack(state: FulfillmentOrder, packages: tuple[Package, ...]) -> Sequence[Event]:
    asked = _known(state)
    match state.status:
        case "created" | "accepted" | "picked":
            _require_whole(asked, contents(packages))
            _require_distinct(packages)
            return [*_until_picked(state, asked), _packed(asked, packages), _shipment(asked, packages)]
        case "packed":
            return []
        case "rejected":
            raise _closed(asked)
        case _:
            assert_never(state.status)


def _known(state: FulfillmentOrder) -> FulfillmentOrderCreated:
    if state.asked is None:
        raise CommandRejected("release_unknown")
    return state.asked


def _closed(asked: FulfillmentOrderCreated) -> CommandRejected:
    return CommandRejected("release_closed", f"{asked.node} has rejected this release")


def _require_whole(asked: FulfillmentOrderCreated, told: tuple[ReleaseLine, ...]) -> None:
    if told != merged(asked.lines):
        raise CommandRejected("quantity_mismatch", "not the quantities that were released")


def _require_distinct(packages: Sequence[Package]) -> None:
    # Two packages of one id would share one label.
    if len({package.package_id for package in packages}) < len(packages):
        raise CommandRejected("package_repeated")


def _until_picked(state: FulfillmentOrder, asked: FulfillmentOrderCreated) -> list[Event]:
    """What must have happened by now, though the warehouse's news of it is still on its way."""
    steps: list[Event] = []
    if state.status == "created":
        steps.append(_accepted(asked))
    if state.status in ("created", "accepted"):
        steps.append(FulfillmentPicked(release_id=asked.release_id, order_id=asked.order_id, lines=asked.lines))
    return steps


def _accepted(asked: FulfillmentOrderCreated) -> FulfillmentAccepted:
    return FulfillmentAccepted(release_id=asked.release_id, order_id=asked.order_id, node=asked.node)


def _packed(asked: FulfillmentOrderCreated, packages: tuple[Package, ...]) -> FulfillmentPacked:
    return FulfillmentPacked(release_id=asked.release_id, order_id=asked.order_id, packages=packages)


def _shipment(asked: FulfillmentOrderCreated, packages: tuple[Package, ...]) -> ShipmentCreated:
    return ShipmentCreated(
        shipment_id=shipment_of(asked.release_id),
        order_id=asked.order_id,
        release_id=asked.release_id,
        node=asked.node,
        packages=packages,
        destination=asked.destination,
        pii=asked.pii,
    )
