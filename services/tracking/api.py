"""What has become of orders, for those who ask. Tracking answers what it has heard; it changes nothing."""

import re
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BeforeValidator

from libs.events.base import Id
from libs.events.channel import order_id_of
from libs.events.order import HoldType
from libs.runtime.api import Page, Views
from libs.runtime.scope import may
from services.tracking.views.exception import OPEN_EXCEPTIONS, OpenException
from services.tracking.views.model import OrderStatus, OrderTracking
from services.tracking.views.order import ORDER_TRACKING
from services.tracking.views.timeline import TimelineEntry, timeline

router = APIRouter(tags=["tracking"])

SEES = may("channel", "operator", "reader")


def _iso_day(text: object) -> object:
    """A number would be taken for seconds since 1970."""
    if isinstance(text, str) and not re.fullmatch("20[0-9]{2}-[0-9]{2}-[0-9]{2}", text):
        raise ValueError("not a day of the years 2000 to 2099, as in 2026-01-05")
    return text


Day = Annotated[date, BeforeValidator(_iso_day)]

MALFORMED: dict[int | str, dict[str, Any]] = {422: {"description": "A malformed id or query (problem+json)"}}
UNHEARD_OF = MALFORMED | {404: {"description": "`not_found`: nothing has been heard of this order (problem+json)"}}


@router.get("/orders/{order_id}", openapi_extra=SEES, summary="Where an order is", responses=UNHEARD_OF)
async def read_order(order_id: Id, views: Views) -> OrderTracking:
    return await views.get(ORDER_TRACKING, order_id)


@router.get(
    "/orders/by-reference/{channel}/{external_order_id}",
    openapi_extra=SEES,
    summary="Where an order is, by the channel's own id",
    responses=UNHEARD_OF,
)
async def read_order_by_reference(channel: Id, external_order_id: Id, views: Views) -> OrderTracking:
    return await views.get(ORDER_TRACKING, order_id_of(channel, external_order_id))


@router.get("/orders", openapi_extra=SEES, summary="Orders by status, channel, day or reference", responses=MALFORMED)
async def list_orders(
    views: Views,
    status: OrderStatus | None = None,
    channel: Id | None = None,
    external_order_id: Id | None = None,
    placed_day: Annotated[Day | None, Query(description="UTC, as in 2026-01-05")] = None,
) -> Page[OrderTracking]:
    where = _given(status=status, channel=channel, external_order_id=external_order_id, placed_day=placed_day)
    return await views.page(ORDER_TRACKING, where)


@router.get(
    "/orders/{order_id}/timeline",
    openapi_extra=SEES,
    summary="Everything that happened to an order",
    responses=UNHEARD_OF,
)
async def read_timeline(order_id: Id, views: Views) -> list[TimelineEntry]:
    return timeline(await views.story(ORDER_TRACKING, order_id))


@router.get(
    "/exceptions",
    openapi_extra=may("operator", "reader"),
    summary="Orders that someone must look at",
    responses=MALFORMED,
)
async def list_exceptions(views: Views, type: HoldType | Literal["STUCK"] | None = None) -> Page[OpenException]:
    return await views.page(OPEN_EXCEPTIONS, _given(type=type))


def _given(**conditions: object) -> Mapping[str, str]:
    return {name: str(value) for name, value in conditions.items() if value is not None}
