"""An operating-system process of the floor: some of the five services' shares, on one event loop."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import asyncpg
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from pydantic import BaseModel

from bench.floor_service import FloorService
from bench.floor_template import Template
from bench.journey import Journey
from libs.runtime.kafka import MAX_REQUEST_BYTES
from libs.runtime.link import nothing_to_reset


class FloorPlan(BaseModel):
    bootstrap: str
    dsns: Mapping[str, str]
    topics: Mapping[str, Sequence[str]]
    journey: Journey


async def serve(plan: FloorPlan) -> None:
    template = Template(plan.journey)
    async with asyncio.TaskGroup() as group:
        for name, dsn in plan.dsns.items():
            group.create_task(_serve_one(name, dsn, plan, template))


async def _serve_one(name: str, dsn: str, plan: FloorPlan, template: Template) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=plan.bootstrap, enable_auto_commit=False)
    producer = AIOKafkaProducer(
        bootstrap_servers=plan.bootstrap,
        acks="all",
        enable_idempotence=True,
        max_batch_size=MAX_REQUEST_BYTES,
        max_request_size=2 * MAX_REQUEST_BYTES,
    )
    async with asyncpg.create_pool(dsn, min_size=4, max_size=4, reset=nothing_to_reset) as pool, consumer, producer:
        await FloorService(name, pool, consumer, producer, template).run(plan.topics[name])


if __name__ == "__main__":
    uvloop.run(serve(FloorPlan.model_validate_json(Path(sys.argv[1]).read_bytes())))
