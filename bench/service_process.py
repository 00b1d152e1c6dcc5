"""A process of one or more services, each exactly as `python -m services.<name> api worker` runs it.

Only the outside world may be another: `OMS_BENCH` holds, as JSON, the settings of each service and whether the gateways
answer in-process. Several services in one process share its event loop, as they would in a small deployment.
"""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import uvloop
from pydantic import BaseModel

from bench.gateways import PromptParties, YesPsp
from libs.runtime import telemetry
from libs.runtime.door import DoorSettings
from libs.runtime.service import Service
from libs.runtime.settings import Settings
from libs.runtime.worker import Process
from services.fulfillment.gateway import Gateways, http_gateways
from services.fulfillment.service import service as fulfillment
from services.inventory.service import service as inventory
from services.order.domain.timers import OrderTimers
from services.order.service import service as order
from services.payment.gateway import HttpPaymentGateway, PspSettings
from services.payment.service import service as payment
from services.tracking.service import service as tracking


class Plan(BaseModel):
    """What one process runs: settings by service, and how the outside is called."""

    in_process: bool
    services: Mapping[str, Mapping[str, Any]]


def record(name: str, settings: Settings, in_process: bool) -> Service[Any]:
    """The service's own record."""
    match name:
        case "order":
            return order(OrderTimers())
        case "inventory":
            return inventory()
        case "payment":
            return payment(YesPsp() if in_process else HttpPaymentGateway(settings.psp_url, PspSettings()))
        case "fulfillment" if in_process:
            parties = PromptParties()
            return parties.heard_by(fulfillment(Gateways(warehouse=parties, carrier=parties)))
        case "fulfillment":
            doors = DoorSettings(), DoorSettings()
            return fulfillment(http_gateways(settings.warehouse_url, settings.carrier_url, *doors))
        case _:
            return tracking()


async def serve(plan: Plan) -> None:
    """Runs until one of them is asked to stop, or fails; then all end."""
    running = []
    for name, fields in plan.services.items():
        settings = Settings(**fields)
        service = record(name, settings, plan.in_process)
        running.append(asyncio.create_task(Process(service, settings, frozenset({"api", "worker"})).run()))
    done, others = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for task in done:
        task.result()


def main() -> None:
    plan = Plan.model_validate_json(os.environ["OMS_BENCH"])
    settings = Settings()
    telemetry.configure("oms-bench", log_level=settings.log_level, trace_ratio=settings.trace_ratio)
    uvloop.run(serve(plan))


if __name__ == "__main__":
    main()
