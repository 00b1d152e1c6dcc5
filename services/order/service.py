"""The order service: takes orders from channels and leads each through stock, payment and fulfillment."""

from libs.events.topics import CHANNEL_ORDERS, FULFILLMENT_EVENTS, INVENTORY_EVENTS, PAYMENT_EVENTS
from libs.runtime.service import Service
from services.order.api import router
from services.order.domain.command import Command
from services.order.domain.decider import decider
from services.order.domain.timers import OrderTimers
from services.order.policy import WANTS, react
from services.order.views import ORDER_VIEW


def service(timers: OrderTimers | None = None) -> Service[Command]:
    return Service(
        name="order",
        subscribes=[CHANNEL_ORDERS, INVENTORY_EVENTS, PAYMENT_EVENTS, FULFILLMENT_EVENTS],
        wants=WANTS,
        decider=decider(timers or OrderTimers()),
        react=react,
        projections=[ORDER_VIEW],
        router=router,
    )
