"""The warehouse: takes releases, picks, packs, and tells of it by callback; `python -m simulators.warehouse`."""

import sqlite3
import time
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from simulators.behaviour import Behaviour, Millis, Rate, Verdict
from simulators.callbacks import Callback, repeated
from simulators.chance import draw, spread
from simulators.operation import Answer, answer, request
from simulators.process import IdempotencyKey, Identifier, Process, Simulator
from simulators.server import main

HEAVIEST = 2**31 - 1
REASONS = ("node_closed", "sku_unknown")


class WarehouseBehaviour(Behaviour):
    reject_rate: Rate = Field(default=0, description="releases rejected")
    pick_ms: Millis = Field(default=1000, description="about how long until a release is picked")
    pack_ms: Millis = Field(default=1000, description="about how long from picked to packed")
    repeat_rate: Rate = Field(default=0, description="callbacks sent a second time under the same id")
    reorder_rate: Rate = Field(default=0, description="releases whose packed is told before their picked")


class Line(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    line_id: Identifier
    sku: Identifier
    qty: Annotated[int, Field(gt=0, le=1_000_000)]


class Release(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    release_id: Identifier
    order_id: Identifier
    node: Identifier
    lines: Annotated[list[Line], Field(min_length=1, max_length=1000)]


def router(warehouse: Process[WarehouseBehaviour]) -> APIRouter:
    routes = APIRouter()
    seed = warehouse.seed

    @routes.post("/v1/releases")
    async def releases(body: Release, key: IdempotencyKey, http: Request) -> Response:
        behaviour = warehouse.behaviour

        def effect(connection: sqlite3.Connection, verdict: Verdict) -> Answer:
            if _released(connection, body.release_id):
                return answer(409, {"status": "rejected", "code": "release_exists"}, subject=body.order_id)
            if draw(seed, "reject", key) < behaviour.reject_rate:
                reason = REASONS[int(draw(seed, "reason", key) * len(REASONS))]
                return answer(422, {"status": "rejected", "reason": reason, "code": reason}, subject=body.order_id)
            warehouse.schedule(connection, body.release_id, _work(seed, behaviour, body))
            return answer(202, {"release_id": body.release_id, "status": "accepted"}, subject=body.order_id)

        return await warehouse.answer(http, request(key, "release", body.release_id, body.model_dump()), effect)

    return routes


def _released(connection: sqlite3.Connection, release_id: str) -> bool:
    row = connection.execute(
        "SELECT 1 FROM operations WHERE reference = ? AND status_code < 300 LIMIT 1", (release_id,)
    ).fetchone()
    return row is not None


def _work(seed: int, behaviour: WarehouseBehaviour, release: Release) -> list[Callback]:
    release_id = release.release_id
    lines = [line.model_dump() for line in release.lines]
    weight = min(sum(_grams(seed, line.sku) * line.qty for line in release.lines), HEAVIEST)
    package = {"package_id": f"{release_id}-p1", "weight": weight, "lines": lines}
    picked_at = time.time() + spread(seed, "pick", release_id, behaviour.pick_ms) / 1000
    packed_at = picked_at + spread(seed, "pack", release_id, behaviour.pack_ms) / 1000
    about = {"release_id": release_id, "order_id": release.order_id}
    told: list[dict[str, Any]] = [
        {"id": f"wh_{release_id}_1", "type": "release.picked"} | about | {"lines": lines},
        {"id": f"wh_{release_id}_2", "type": "release.packed"} | about | {"packages": [package]},
    ]
    if draw(seed, "reorder", release_id) < behaviour.reorder_rate:
        told.reverse()
    callbacks = [
        Callback(id=body["id"], due_at=due_at, body=body)
        for body, due_at in zip(told, (picked_at, packed_at), strict=True)
    ]
    return repeated(callbacks, seed, behaviour.repeat_rate)


def _grams(seed: int, sku: str) -> int:
    return int(spread(seed, "weight", sku, 800))


WAREHOUSE = Simulator(name="warehouse", about=__doc__, port=7103, behaviour=WarehouseBehaviour, router=router)

if __name__ == "__main__":
    main(WAREHOUSE)
