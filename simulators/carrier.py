"""The carrier: sells labels and tells where the parcel is by callback; `python -m simulators.carrier`."""

import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from simulators.behaviour import Behaviour, Millis, Rate, Verdict
from simulators.callbacks import Callback, repeated
from simulators.chance import draw, name, spread
from simulators.operation import Answer, answer, request
from simulators.process import IdempotencyKey, Identifier, Process, Simulator
from simulators.server import main

DELIVERED = ("picked_up", "in_transit", "out_for_delivery", "delivered")
RETURNED = ("picked_up", "in_transit", "out_for_delivery", "delivery_failed", "return_to_sender")
LOST = ("picked_up", "in_transit", "lost")


class CarrierBehaviour(Behaviour):
    step_ms: Millis = Field(default=1000, description="about how long from one status to the next")
    lost_rate: Rate = Field(default=0, description="parcels lost in transit")
    return_rate: Rate = Field(default=0, description="parcels that come back undelivered")
    repeat_rate: Rate = Field(default=0, description="callbacks sent a second time under the same id")
    reorder_rate: Rate = Field(default=0, description="parcels of which two neighbouring statuses change places")


class Label(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    shipment_id: Identifier
    package_id: Identifier
    order_id: Identifier
    node: Identifier
    destination: dict[str, Any]
    weight: Annotated[int, Field(ge=0, le=2**31, description="grams")]
    lines: list[dict[str, Any]]


def router(carrier: Process[CarrierBehaviour]) -> APIRouter:
    routes = APIRouter()
    seed = carrier.seed

    @routes.post("/v1/labels")
    async def labels(body: Label, key: IdempotencyKey, http: Request) -> Response:
        behaviour = carrier.behaviour

        def effect(connection: sqlite3.Connection, verdict: Verdict) -> Answer:
            # A second key buys a second label for the same parcel, as with a real carrier: the ledger shows it.
            tracking_number = name("SX", key).upper()
            cost = 395 + body.weight // 100 * 12 + int(100 * draw(seed, "cost", key))
            carrier.schedule(connection, tracking_number, _journey(seed, behaviour, tracking_number, body))
            bought = {"tracking_number": tracking_number, "carrier": "SIMEX", "cost": cost, "currency": "EUR"}
            return answer(201, bought, subject=tracking_number, amount=cost, currency="EUR")

        return await carrier.answer(http, request(key, "label", body.shipment_id, body.model_dump()), effect)

    return routes


def _journey(seed: int, behaviour: CarrierBehaviour, tracking_number: str, label: Label) -> list[Callback]:
    statuses: tuple[str, ...] = DELIVERED
    if draw(seed, "lost", tracking_number) < behaviour.lost_rate:
        statuses = LOST
    elif draw(seed, "return", tracking_number) < behaviour.return_rate:
        statuses = RETURNED
    happens_at = list(_times(seed, behaviour, tracking_number, statuses))
    about = {
        "type": "tracking.updated",
        "tracking_number": tracking_number,
        "shipment_id": label.shipment_id,
        "package_id": label.package_id,
        "order_id": label.order_id,
    }
    told: list[dict[str, Any]] = [
        {"id": f"car_{tracking_number}_{place}"} | about | {"status": status, "occurred_at": _iso(at)}
        for place, (status, at) in enumerate(zip(statuses, happens_at, strict=True), start=1)
    ]
    if draw(seed, "reorder", tracking_number) < behaviour.reorder_rate:
        place = int(draw(seed, "reorder_place", tracking_number) * (len(told) - 1))
        told[place], told[place + 1] = told[place + 1], told[place]
    callbacks = [
        Callback(id=body["id"], due_at=due_at, body=body) for body, due_at in zip(told, happens_at, strict=True)
    ]
    return repeated(callbacks, seed, behaviour.repeat_rate)


def _times(seed: int, behaviour: CarrierBehaviour, tracking_number: str, statuses: tuple[str, ...]) -> Iterator[float]:
    at = time.time()
    for status in statuses:
        at += spread(seed, status, tracking_number, behaviour.step_ms) / 1000
        yield at


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


CARRIER = Simulator(name="carrier", about=__doc__, port=7102, behaviour=CarrierBehaviour, router=router)

if __name__ == "__main__":
    main(CARRIER)
