"""The HTTP side of fulfillment: what became of a release or a shipment, and the outside's callbacks."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from libs.events.base import Id, Moment, Quantity, ReleaseLine, Text, Value
from libs.events.fulfillment import Package
from libs.runtime.api import Callback, Commands, Page, Views
from libs.runtime.decider import CommandRejected
from libs.runtime.scope import SIGNED, may
from services.fulfillment.domain.command import CarrierStatus, Command, RecordPacked, RecordPicked, RecordTracking
from services.fulfillment.views import (
    RELEASE_VIEW,
    SHIPMENT_VIEW,
    ReleaseStatus,
    ReleaseView,
    ShipmentStatus,
    ShipmentView,
)

router = APIRouter()

SEES = may("operator", "reader")

Documented = dict[int | str, dict[str, Any]]
FOUND: Documented = {404: {"description": "`not_found`"}, 422: {"description": "the id or the query is malformed"}}
LISTED: Documented = {422: {"description": "the query is malformed"}}
TOLD: Documented = {
    200: {"description": "known already: nothing changed"},
    201: {"description": "recorded"},
    202: {"description": "ignored: of something unknown, or in contradiction to what is known; `code` says why"},
    401: {"description": "the signature is wrong"},
    422: {"description": "the body is malformed"},
}


class Told(Value):
    """A part of a callback: strict, but a partner may add fields."""


class Kind(Told):
    type: Text


class ToldLine(Told):
    line_id: Text
    sku: Text
    qty: Quantity

    def line(self) -> ReleaseLine:
        return ReleaseLine(line_id=self.line_id, sku=self.sku, qty=self.qty)


Lines = Annotated[list[ToldLine], Field(min_length=1, max_length=500)]


class ToldPackage(Told):
    package_id: Id
    weight: Annotated[int, Field(ge=0, lt=2**31)]
    lines: Lines

    def package(self) -> Package:
        return Package(package_id=self.package_id, weight=self.weight, lines=tuple(line.line() for line in self.lines))


class ReleasePicked(Told):
    release_id: Id
    lines: Lines

    def command(self) -> Command:
        return RecordPicked(self.release_id, tuple(line.line() for line in self.lines))


class ReleasePacked(Told):
    release_id: Id
    packages: Annotated[list[ToldPackage], Field(min_length=1, max_length=500)]

    def command(self) -> Command:
        return RecordPacked(self.release_id, tuple(package.package() for package in self.packages))


class Carried(Told):
    status: Text


class TrackingUpdated(Told):
    id: Id
    tracking_number: Id
    shipment_id: Id
    package_id: Id
    status: CarrierStatus
    occurred_at: Moment

    def command(self) -> Command:
        return RecordTracking(
            self.shipment_id, self.package_id, self.tracking_number, self.status, self.id, self.occurred_at
        )


class CallbackReceipt(BaseModel):
    outcome: Literal["recorded", "repeated", "ignored"]
    events: list[str] = []
    code: str | None = None


@router.post(
    "/callbacks/warehouse",
    openapi_extra=SIGNED,
    tags=["callbacks"],
    summary="The warehouse tells of a release",
    responses=TOLD,
)
async def warehouse(callback: Callback, commands: Commands, response: Response) -> CallbackReceipt:
    match callback.read(Kind).type:
        case "release.picked":
            return await _recorded(callback.read(ReleasePicked).command(), commands, response)
        case "release.packed":
            return await _recorded(callback.read(ReleasePacked).command(), commands, response)
        case _:
            return _ignored("type_unknown", response)


@router.post(
    "/callbacks/carrier",
    openapi_extra=SIGNED,
    tags=["callbacks"],
    summary="The carrier tells of a package",
    responses={**TOLD, 409: {"description": "`label_unknown`: the label's own answer is still on its way, tell again"}},
)
async def carrier(callback: Callback, commands: Commands, response: Response) -> CallbackReceipt:
    if callback.read(Kind).type != "tracking.updated":
        return _ignored("type_unknown", response)
    if callback.read(Carried).status not in get_args(CarrierStatus):
        return _ignored("status_unknown", response)
    return await _recorded(callback.read(TrackingUpdated).command(), commands, response)


async def _recorded(command: Command, commands: Commands, response: Response) -> CallbackReceipt:
    # Without a key: a repeat decides nothing anyway, and a stored 409 would answer the repeat that is asked for.
    try:
        receipt = await commands.handle(command, key="")
    except CommandRejected as no:
        if no.code == "label_unknown":
            raise
        return _ignored(no.code, response)
    response.status_code = 201 if receipt.events else 200
    return CallbackReceipt(outcome="recorded" if receipt.events else "repeated", events=receipt.events)


def _ignored(code: str, response: Response) -> CallbackReceipt:
    """What the sender cannot mend by telling it again."""
    response.status_code = 202
    return CallbackReceipt(outcome="ignored", code=code)


@router.get("/releases/{release_id}", openapi_extra=SEES, tags=["releases"], summary="One release", responses=FOUND)
async def release(release_id: Id, views: Views) -> ReleaseView:
    return await views.get(RELEASE_VIEW, release_id)


@router.get(
    "/releases", openapi_extra=SEES, tags=["releases"], summary="Releases by status, node or order", responses=LISTED
)
async def releases(
    views: Views, status: ReleaseStatus | None = None, node: Id | None = None, order_id: Id | None = None
) -> Page[ReleaseView]:
    return await views.page(RELEASE_VIEW, _where(status=status, node=node, order_id=order_id))


@router.get("/shipments/{shipment_id}", openapi_extra=SEES, tags=["shipments"], summary="One shipment", responses=FOUND)
async def shipment(shipment_id: Id, views: Views) -> ShipmentView:
    return await views.get(SHIPMENT_VIEW, shipment_id)


@router.get(
    "/shipments", openapi_extra=SEES, tags=["shipments"], summary="Shipments by status or order", responses=LISTED
)
async def shipments(
    views: Views, status: ShipmentStatus | None = None, order_id: Id | None = None
) -> Page[ShipmentView]:
    return await views.page(SHIPMENT_VIEW, _where(status=status, order_id=order_id))


def _where(**fields: str | None) -> Mapping[str, str]:
    return {name: value for name, value in fields.items() if value is not None}
