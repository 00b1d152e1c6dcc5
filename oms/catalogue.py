"""The five services' own records, for what needs no outside: rights, settings, tables, routes."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from libs.runtime.access import (
    CHANNEL_USER,
    OPERATOR_USER,
    Access,
    channel_access,
    kafka_user,
    operator_access,
    service_access,
)
from libs.runtime.service import Service
from services.fulfillment.gateway import Gateways
from services.fulfillment.service import service as fulfillment
from services.inventory.service import service as inventory
from services.order.service import service as order
from services.payment.service import service as payment
from services.tracking.service import service as tracking


class _Nobody:
    async def close(self) -> None:
        return None


@cache
def catalogue() -> Mapping[str, Service[Any]]:
    """By name. Their gateways reach nobody."""
    nobody: Any = _Nobody()
    gateways = Gateways(warehouse=nobody, carrier=nobody)
    records = (order(), inventory(), payment(nobody), fulfillment(gateways), tracking())
    return {service.name: service for service in records}


def kafka_access() -> Mapping[str, Sequence[Access]]:
    """Every Kafka user of the system, with all that it may do."""
    services = {kafka_user(service.name): service_access(service) for service in catalogue().values()}
    return {**services, CHANNEL_USER: channel_access(), OPERATOR_USER: operator_access()}
