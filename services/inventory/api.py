"""The HTTP doors of inventory: the network, what comes in and is counted, and what can be promised."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import Field

from libs.events.base import Id, Quantity
from libs.events.text import FreeText
from libs.runtime.api import Body, Commands, Page, Receipt, Views
from libs.runtime.scope import SaidBy, may
from services.inventory.domain.command import (
    AdjustStock,
    DisableNode,
    EnableNode,
    ReceiptLine,
    ReceiveStock,
    RegisterLocation,
)
from services.inventory.views import (
    AVAILABILITY,
    LOCATIONS,
    RESERVATIONS,
    AvailabilityView,
    LocationView,
    ReservationView,
)

router = APIRouter()

OPERATOR = may("operator")
SEES = may("operator", "reader")

Delta = Annotated[int, Field(ge=-1_000_000, le=-1)] | Quantity
Answers = dict[int | str, dict[str, Any]]

INVALID: Answers = {422: {"description": "The body or an id is malformed"}}
DONE: Answers = {200: {"model": Receipt, "description": "It was already so: nothing changed"}}
ABSENT: Answers = {404: {"description": "`not_found`"}}


def _refused(*codes: str) -> Answers:
    return {409: {"description": ", ".join(f"`{code}`" for code in codes)}}


class LocationBody(Body):
    location: Id
    name: FreeText
    country: Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
    lat: Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)]
    lon: Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)]


class SwitchBody(Body):
    by: FreeText
    reason: FreeText


class ReceiptLineBody(Body):
    sku: Id
    location: Id
    qty: Quantity


class ReceiptBody(Body):
    """A delivery: all its lines count or none, and once. The same one again with other lines is refused."""

    receipt_id: Id
    lines: Annotated[list[ReceiptLineBody], Field(min_length=1, max_length=500)]


class AdjustmentBody(Body):
    """`delta` is the signed change that a count, damage or a find asks for."""

    sku: Id
    location: Id
    delta: Delta
    reason: FreeText
    by: FreeText


def _answer(receipt: Receipt, response: Response) -> Receipt:
    response.status_code = 201 if receipt.events else 200
    return receipt


@router.post(
    "/locations",
    openapi_extra=OPERATOR,
    status_code=201,
    tags=["network"],
    summary="Register a location, or change its data",
    responses={**DONE, **INVALID},
)
async def register_location(body: LocationBody, commands: Commands, response: Response) -> Receipt:
    command = RegisterLocation(body.location, body.name, body.country, body.lat, body.lon)
    return _answer(await commands.handle(command), response)


@router.get(
    "/locations", openapi_extra=SEES, tags=["network"], summary="The locations of the network", responses=INVALID
)
async def list_locations(
    views: Views, status: Annotated[Literal["ENABLED", "DISABLED"] | None, Query()] = None
) -> Page[LocationView]:
    return await views.page(LOCATIONS, {"status": status} if status else {})


@router.post(
    "/locations/{location}/disabled",
    openapi_extra=OPERATOR,
    status_code=201,
    tags=["network"],
    summary="Take a location out of sourcing",
    responses={**DONE, **_refused("unknown_location"), **INVALID},
)
async def disable_node(
    location: Id, body: SwitchBody, said_by: SaidBy, commands: Commands, response: Response
) -> Receipt:
    return _answer(await commands.handle(DisableNode(location, said_by(body.by), body.reason)), response)


@router.post(
    "/locations/{location}/enabled",
    openapi_extra=OPERATOR,
    status_code=201,
    tags=["network"],
    summary="Let a location serve orders again",
    responses={**DONE, **_refused("unknown_location"), **INVALID},
)
async def enable_node(
    location: Id, body: SwitchBody, said_by: SaidBy, commands: Commands, response: Response
) -> Receipt:
    return _answer(await commands.handle(EnableNode(location, said_by(body.by), body.reason)), response)


@router.post(
    "/stock/receipts",
    openapi_extra=OPERATOR,
    status_code=201,
    tags=["stock"],
    summary="Receive a delivery of up to 500 lines",
    responses={**DONE, **_refused("unknown_location", "receipt_exists"), **INVALID},
)
async def receive_stock(body: ReceiptBody, commands: Commands, response: Response) -> Receipt:
    lines = tuple(ReceiptLine(line.sku, line.location, line.qty) for line in body.lines)
    return _answer(await commands.handle(ReceiveStock(body.receipt_id, lines)), response)


@router.post(
    "/stock/adjustments",
    openapi_extra=OPERATOR,
    status_code=201,
    tags=["stock"],
    summary="Correct what is on hand (repeat it only under an Idempotency-Key)",
    responses={**DONE, **_refused("unknown_location", "insufficient_stock"), **INVALID},
)
async def adjust_stock(body: AdjustmentBody, said_by: SaidBy, commands: Commands, response: Response) -> Receipt:
    command = AdjustStock(body.sku, body.location, body.delta, body.reason, said_by(body.by))
    return _answer(await commands.handle(command), response)


@router.get(
    "/availability/{sku}",
    openapi_extra=may("channel", "operator", "reader"),
    tags=["stock"],
    summary="What can be promised of a SKU, in all and at each location",
    responses={**ABSENT, **INVALID},
)
async def get_availability(sku: Id, views: Views) -> AvailabilityView:
    return await views.get(AVAILABILITY, sku)


@router.get(
    "/reservations",
    openapi_extra=SEES,
    tags=["reservations"],
    summary="Reservations by order or status",
    responses=INVALID,
)
async def list_reservations(
    views: Views,
    order_id: Annotated[Id | None, Query()] = None,
    status: Annotated[Literal["HELD", "REJECTED", "RELEASED", "CONSUMED"] | None, Query()] = None,
) -> Page[ReservationView]:
    where = {"order_id": order_id, "status": status}
    return await views.page(RESERVATIONS, {field: value for field, value in where.items() if value})


@router.get(
    "/reservations/{reservation_id}",
    openapi_extra=SEES,
    tags=["reservations"],
    summary="A reservation and what became of it",
    responses={**ABSENT, **INVALID},
)
async def get_reservation(reservation_id: Id, views: Views) -> ReservationView:
    return await views.get(RESERVATIONS, reservation_id)
