"""Inventory: what lies where, what is promised to whom, and which location serves which line."""

from libs.events.topics import ORDER_EVENTS
from libs.runtime.service import Service
from services.inventory.api import router
from services.inventory.domain.command import Command
from services.inventory.domain.decider import DECIDER
from services.inventory.policy import WANTS, react
from services.inventory.views import AVAILABILITY, LOCATIONS, RESERVATIONS


def service() -> Service[Command]:
    return Service(
        name="inventory",
        subscribes=(ORDER_EVENTS,),
        wants=WANTS,
        decider=DECIDER,
        react=react,
        projections=(AVAILABILITY, RESERVATIONS, LOCATIONS),
        router=router,
    )
