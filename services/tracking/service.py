"""Tracking only listens: it joins the stories of the four services into one, and has no events of its own."""

from typing import Never

from libs.events.topics import FULFILLMENT_EVENTS, INVENTORY_EVENTS, ORDER_EVENTS, PAYMENT_EVENTS
from libs.runtime.service import Service
from services.tracking.api import router
from services.tracking.views.exception import OPEN_EXCEPTIONS
from services.tracking.views.order import ORDER_TRACKING


def service() -> Service[Never]:
    return Service(
        name="tracking",
        subscribes=(ORDER_EVENTS, INVENTORY_EVENTS, PAYMENT_EVENTS, FULFILLMENT_EVENTS),
        projections=(ORDER_TRACKING, OPEN_EXCEPTIONS),
        router=router,
    )
