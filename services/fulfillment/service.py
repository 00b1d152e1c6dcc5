"""The fulfillment service: hands releases to warehouses, buys labels, and follows shipments to their end."""

from libs.events.topics import ORDER_EVENTS
from libs.runtime.service import Effects, Service
from services.fulfillment.api import router
from services.fulfillment.domain.command import Command
from services.fulfillment.domain.decider import DECIDER
from services.fulfillment.effects import follow, perform
from services.fulfillment.gateway import Gateways
from services.fulfillment.policy import WANTS, react
from services.fulfillment.views import RELEASE_VIEW, SHIPMENT_VIEW


def service(gateways: Gateways) -> Service[Command]:
    return Service(
        name="fulfillment",
        subscribes=(ORDER_EVENTS,),
        wants=WANTS,
        decider=DECIDER,
        react=react,
        effects=Effects(follow=follow, perform=perform, gateway=gateways, close=gateways.close),
        projections=(RELEASE_VIEW, SHIPMENT_VIEW),
        router=router,
    )
