"""Which streams a command names, and which aggregate answers it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, assert_never

from libs.events.base import Event
from libs.runtime.decider import Decider, States, Stream, Wake
from services.fulfillment.domain import release, shipment
from services.fulfillment.domain.command import (
    AcceptRelease,
    Command,
    CreateFulfillmentOrder,
    RecordLabel,
    RecordPacked,
    RecordPicked,
    RecordTracking,
    RejectRelease,
)
from services.fulfillment.domain.release import RELEASE, shipment_of
from services.fulfillment.domain.shipment import SHIPMENT


def streams(command: Command) -> Sequence[Stream[Any]]:
    match command:
        case RecordPacked(release_id):
            return [RELEASE.stream(release_id), SHIPMENT.stream(shipment_of(release_id))]
        case CreateFulfillmentOrder(release_id) | AcceptRelease(release_id) | RejectRelease(release_id):
            return [RELEASE.stream(release_id)]
        case RecordPicked(release_id):
            return [RELEASE.stream(release_id)]
        case RecordLabel(shipment_id) | RecordTracking(shipment_id):
            return [SHIPMENT.stream(shipment_id)]
        case Wake(stream_id):
            category, _, key = stream_id.partition("-")
            return [RELEASE.stream(key) if category == RELEASE.category else SHIPMENT.stream(key)]
        case _:
            assert_never(command)


def decide(command: Command, states: States, now: datetime) -> Sequence[Event]:
    match command:
        case CreateFulfillmentOrder(release_id):
            return release.create(states[RELEASE.stream(release_id)], command)
        case AcceptRelease(release_id):
            return release.accept(states[RELEASE.stream(release_id)])
        case RejectRelease(release_id, reason):
            return release.reject(states[RELEASE.stream(release_id)], reason)
        case RecordPicked(release_id, lines):
            return release.pick(states[RELEASE.stream(release_id)], lines)
        case RecordPacked(release_id, packages):
            return release.pack(states[RELEASE.stream(release_id)], packages)
        case RecordLabel(shipment_id):
            return shipment.label(states[SHIPMENT.stream(shipment_id)], command)
        case RecordTracking(shipment_id):
            return shipment.track(states[SHIPMENT.stream(shipment_id)], command)
        case Wake():
            return []  # nothing here is ever due: the order watches how long a release takes
        case _:
            assert_never(command)


DECIDER: Decider[Command] = Decider(aggregates=(RELEASE, SHIPMENT), streams=streams, decide=decide)
