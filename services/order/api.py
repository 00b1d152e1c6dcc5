"""The order over HTTP: what channels, customers and operators may ask."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Response, status
from pydantic import Field

from libs.events.base import Id, Minor, Text
from libs.events.channel import Fault, OrderCancellationRequested, OrderPlaced, order_id_of
from libs.runtime.api import Body, Commands, Page, Problem, Receipt, Views
from libs.runtime.scope import SaidBy, may
from services.order.domain.command import (
    CancelOrder,
    RefundOrder,
    RegisterOrder,
    Resolution,
    ResolveOrder,
    UpdatePaymentMethod,
)
from services.order.domain.validation import text_faults, validate
from services.order.views import ORDER_VIEW, OrderStatus, OrderView, Stuck

router = APIRouter()

SEES = may("channel", "operator", "reader")
FOR_THE_CUSTOMER = may("channel", "operator")

Who = Annotated[str, Field(min_length=1, max_length=128)]
Why = Annotated[str, Field(min_length=1, max_length=1024)]


class PaymentMethod(Body):
    """A new token of the order's PSP."""

    token: Annotated[str, Field(min_length=1, max_length=1024)]


class Cancellation(Body):
    reason: Text = "CUSTOMER"


class OrderResolution(Body):
    """How an operator settles the order by hand: who, and why."""

    resolution: Resolution
    by: Who
    reason: Why


class Refund(Body):
    """`amount` in minor units of the order's currency. The same `refund_id` is the same refund."""

    refund_id: Id
    amount: Annotated[Minor, Field(ge=1)]
    by: Who
    reason: Why


Responses = dict[int | str, dict[str, Any]]


def _responses(**descriptions: str) -> Responses:
    return {code.removeprefix("on_"): {"description": text} for code, text in descriptions.items()}


def _documented(unprocessable: str, **descriptions: str) -> Responses:
    return _responses(on_200="It was already so", on_422=f"`{unprocessable}`", **descriptions)


@router.post(
    "/orders",
    openapi_extra=may("channel"),
    status_code=status.HTTP_201_CREATED,
    tags=["orders"],
    summary="Place an order",
    responses=_documented(
        "totals_mismatch, pan_detected, text_invalid …: the codes of OrderRejected; nothing is stored",
        on_409="`order_exists`: other content under a known external id; `order_rejected`: raise external_revision",
    ),
)
async def place_order(body: OrderPlaced, commands: Commands, response: Response) -> Receipt:
    """The same content again answers 200 with the existing order, under whatever Idempotency-Key."""
    _refuse(validate(body))
    receipt = await commands.handle(RegisterOrder(body.order_id, body))
    if _tells(receipt, "OrderDuplicateDetected"):
        raise _conflict("order_exists", "an order of other content has this external id", receipt)
    return _answered(receipt, response)


@router.get(
    "/orders",
    openapi_extra=SEES,
    tags=["orders"],
    summary="List orders",
    responses=_responses(on_422="A malformed filter"),
)
async def list_orders(
    views: Views,
    status: OrderStatus | None = None,
    channel: Id | None = None,
    external_order_id: Id | None = None,
    has_hold: Annotated[str, Field(pattern="^(yes|no)$")] | None = None,
    stuck: Stuck | None = None,
) -> Page[OrderView]:
    """`has_hold=yes` and `stuck=STOCK|PAYMENT|FULFILLMENT` list what somebody must look at."""
    asked: Mapping[str, str | None] = {
        "status": status,
        "channel": channel,
        "external_order_id": external_order_id,
        "has_hold": has_hold,
        "stuck": stuck,
    }
    return await views.page(ORDER_VIEW, {name: value for name, value in asked.items() if value is not None})


@router.get(
    "/orders/by-reference/{channel}/{external_order_id}",
    openapi_extra=SEES,
    tags=["orders"],
    summary="One order, by the channel's own id",
    responses=_responses(on_404="`not_found`"),
)
async def get_order_by_reference(channel: Id, external_order_id: Id, views: Views) -> OrderView:
    return await views.get(ORDER_VIEW, order_id_of(channel, external_order_id))


@router.get(
    "/orders/{order_id}",
    openapi_extra=SEES,
    tags=["orders"],
    summary="One order",
    responses=_responses(on_404="`not_found`"),
)
async def get_order(order_id: Id, views: Views) -> OrderView:
    return await views.get(ORDER_VIEW, order_id)


@router.post(
    "/orders/{order_id}/cancellation",
    openapi_extra=FOR_THE_CUSTOMER,
    status_code=status.HTTP_201_CREATED,
    tags=["orders"],
    summary="Cancel an order",
    responses=_documented("text_invalid, pan_detected", on_404="`not_found`", on_409="`order_released`: too late"),
)
async def cancel_order(
    order_id: Id, body: Cancellation, commands: Commands, views: Views, response: Response
) -> Receipt:
    _refuse_texts(reason=body.reason)
    await views.get(ORDER_VIEW, order_id)
    receipt = await commands.handle(CancelOrder(order_id, body.reason))
    await _refuse_released(receipt, order_id, views)
    return _answered(receipt, response)


@router.post(
    "/cancellations",
    openapi_extra=FOR_THE_CUSTOMER,
    status_code=status.HTTP_201_CREATED,
    tags=["orders"],
    summary="Cancel an order by the channel's own id, even before it arrives",
    responses=_documented("text_invalid, pan_detected", on_409="`order_released`: too late"),
)
async def cancel_by_reference(
    body: OrderCancellationRequested, commands: Commands, views: Views, response: Response
) -> Receipt:
    _refuse_texts(reason=body.reason)
    command = CancelOrder(body.order_id, body.reason, body.channel, body.external_order_id)
    receipt = await commands.handle(command)
    await _refuse_released(receipt, body.order_id, views)
    return _answered(receipt, response)


@router.post(
    "/orders/{order_id}/payment-method",
    openapi_extra=FOR_THE_CUSTOMER,
    status_code=status.HTTP_201_CREATED,
    tags=["orders"],
    summary="Name another payment method after a decline",
    responses=_documented("text_invalid, pan_detected", on_404="`not_found`", on_409="`payment_method_not_awaited`"),
)
async def update_payment_method(
    order_id: Id, body: PaymentMethod, commands: Commands, views: Views, response: Response
) -> Receipt:
    _refuse_texts(token=body.token)
    await views.get(ORDER_VIEW, order_id)
    return _answered(await commands.handle(UpdatePaymentMethod(order_id, body.token)), response)


@router.post(
    "/orders/{order_id}/resolution",
    openapi_extra=may("operator"),
    status_code=status.HTTP_201_CREATED,
    tags=["operations"],
    summary="Settle an order by hand",
    responses=_documented(
        "text_invalid, pan_detected",
        on_404="`not_found`",
        on_409="`already_dispatched`, `not_in_fulfillment`, `no_open_hold`, `order_unknown`",
    ),
)
async def resolve_order(
    order_id: Id, body: OrderResolution, said_by: SaidBy, commands: Commands, views: Views, response: Response
) -> Receipt:
    _refuse_texts(by=body.by, reason=body.reason)
    await views.get(ORDER_VIEW, order_id)
    command = ResolveOrder(order_id, body.resolution, said_by(body.by), body.reason)
    return _answered(await commands.handle(command), response)


@router.post(
    "/orders/{order_id}/refunds",
    openapi_extra=may("operator"),
    status_code=status.HTTP_201_CREATED,
    tags=["operations"],
    summary="Give captured money back",
    responses=_documented(
        "text_invalid, pan_detected",
        on_404="`not_found`",
        on_409="`refund_exceeds_captured`, `order_unknown`",
    ),
)
async def refund_order(
    order_id: Id, body: Refund, said_by: SaidBy, commands: Commands, views: Views, response: Response
) -> Receipt:
    _refuse_texts(by=body.by, reason=body.reason)
    await views.get(ORDER_VIEW, order_id)
    command = RefundOrder(order_id, body.refund_id, body.amount, said_by(body.by), body.reason)
    return _answered(await commands.handle(command), response)


def _answered(receipt: Receipt, response: Response) -> Receipt:
    if not receipt.events:
        response.status_code = status.HTTP_200_OK
    return receipt


def _tells(receipt: Receipt, event: str) -> bool:
    return any(name.rpartition(".")[2] == event for name in receipt.events)


async def _refuse_released(receipt: Receipt, order_id: str, views: Views) -> None:
    """A cancellation that decided nothing was either done before or refused before: the view says which."""
    refused = _tells(receipt, "OrderCancellationRefused")
    if not receipt.events:
        refused = (await views.get(ORDER_VIEW, order_id)).cancellation_refused
    if refused:
        raise _conflict("order_released", "the order has been released and can no longer be cancelled", receipt)


def _conflict(code: str, detail: str, receipt: Receipt) -> Problem:
    return Problem(409, code, detail, current_version=receipt.stream_version)


def _refuse_texts(**texts: str) -> None:
    _refuse(tuple(fault for field, text in texts.items() for fault in text_faults(field, text)))


def _refuse(faults: tuple[Fault, ...]) -> None:
    if faults:
        raise Problem(422, faults[0].code, faults[0].message, [fault.model_dump() for fault in faults])
