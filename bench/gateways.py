"""The outside world in-process: PSP, warehouse and carrier say yes at once, behind the services' own ports."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, FastAPI

from libs.events.fulfillment import FulfillmentOrderCreated, Package, ShipmentCreated
from libs.events.payment import (
    PaymentAuthorizationSubmitted,
    PaymentCaptureSubmitted,
    PaymentOutcomeUnknown,
    PaymentVoidSubmitted,
    RefundSubmitted,
)
from libs.runtime.commit import GroupCommit
from libs.runtime.handler import Request
from libs.runtime.identity import Cause, new_id
from libs.runtime.service import Service
from services.fulfillment.domain.command import RecordPacked, RecordTracking
from services.fulfillment.gateway import LabelBought
from services.payment.domain.call import Approved
from services.payment.gateway import NotFound, Reply


class YesPsp:
    async def authorize(self, intent: PaymentAuthorizationSubmitted) -> Reply:
        until = datetime.now(UTC) + timedelta(days=7)
        return Approved(f"auth-{intent.order_id}", intent.amount, intent.currency, until)

    async def capture(self, intent: PaymentCaptureSubmitted) -> Reply:
        return Approved(f"cap-{intent.shipment_id}", intent.amount, intent.currency)

    async def void(self, intent: PaymentVoidSubmitted) -> Reply:
        return Approved(intent.auth_id)

    async def refund(self, intent: RefundSubmitted) -> Reply:
        return Approved(intent.refund_id, intent.amount, intent.currency)

    async def lookup(self, lost: PaymentOutcomeUnknown) -> Reply | NotFound:
        return NotFound()

    async def close(self) -> None:
        return None


class PromptParties:
    """Warehouse and carrier: say yes, and play the callbacks that follow as commands, without HTTP."""

    def __init__(self) -> None:
        self._commit: asyncio.Future[GroupCommit] = asyncio.get_running_loop().create_future()
        self._telling: set[asyncio.Task[None]] = set()

    def heard_by(self, service: Service[Any]) -> Service[Any]:
        """The same service; when its application starts, the parties learn where its commands go in."""

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            self._commit.set_result(app.state.ports.commit)
            yield

        router = APIRouter(lifespan=lifespan)
        assert service.router is not None
        router.include_router(service.router)
        return replace(service, router=router)

    async def submit(self, release: FulfillmentOrderCreated, key: str) -> str | None:
        package = Package(package_id=f"{release.release_id}-p1", weight=500, lines=release.lines)
        self._tell(RecordPacked(release.release_id, (package,)))
        return None

    async def buy_label(self, shipment: ShipmentCreated, package: Package, key: str) -> LabelBought:
        number, now = f"T{package.package_id}", datetime.now(UTC)
        self._tell(
            RecordTracking(shipment.shipment_id, package.package_id, number, "picked_up", f"{number}-1", now),
            RecordTracking(shipment.shipment_id, package.package_id, number, "in_transit", f"{number}-2", now),
            RecordTracking(shipment.shipment_id, package.package_id, number, "out_for_delivery", f"{number}-3", now),
            RecordTracking(shipment.shipment_id, package.package_id, number, "delivered", f"{number}-4", now),
        )
        return LabelBought(carrier="BENCH", tracking_number=number, cost=500, currency="EUR")

    def _tell(self, *commands: Any) -> None:
        task = asyncio.ensure_future(self._told(commands))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _told(self, commands: tuple[Any, ...]) -> None:
        commit = await self._commit
        for command in commands:
            cause = Cause(causation_id=new_id(), at=datetime.now(UTC))
            while (await commit.submit(Request(command=command, cause=cause))).code == "label_unknown":
                await asyncio.sleep(0.005)  # as the carrier does: told again until the label is known
