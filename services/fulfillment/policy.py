"""What the fulfillment service does about what it hears."""

from collections.abc import Sequence
from typing import Any

from libs.events.envelope import Recorded
from libs.events.order import FulfillmentRequested
from services.fulfillment.domain.command import Command, CreateFulfillmentOrder

WANTS: frozenset[type] = frozenset({FulfillmentRequested})


def react(recorded: Recorded[Any]) -> Sequence[Command]:
    match recorded.event:
        case FulfillmentRequested() as asked:
            return [
                CreateFulfillmentOrder(
                    asked.release_id,
                    asked.order_id,
                    asked.node,
                    asked.lines,
                    asked.shipping_method,
                    asked.destination,
                    asked.pii,
                )
            ]
        case _:
            return []
