"""Old events in today's shape: one pure step from each version to the next, total over everything ever published."""

from collections.abc import Callable, Mapping
from typing import Any

Data = dict[str, Any]


def _label_cost_in_euro(data: Data) -> Data:
    return {**data, "currency": "EUR"}


UPCASTERS: Mapping[tuple[str, int], Callable[[Data], Data]] = {
    ("oms.fulfillment.ShippingLabelPurchased", 1): _label_cost_in_euro,
}
"""(event type, version it comes from) to the step that makes the next version of it."""


def upcast(event_type: str, schema_version: int, current: int, data: Data) -> Data:
    for version in range(schema_version, current):
        data = UPCASTERS[event_type, version](data)
    return data
