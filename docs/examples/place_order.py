"""Places docs/examples/order.json as a new order on a running system and follows it to its end.

While `make up` is up:   .venv/bin/python docs/examples/place_order.py
Elsewhere, as Compose:   … 127.0.0.1:29092 inventory=http://127.0.0.1:8082 tracking=http://127.0.0.1:8085
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from aiokafka import AIOKafkaProducer

ENDED = {"COMPLETED", "CANCELLED", "REJECTED"}


def addresses(named: list[str]) -> tuple[str, dict[str, str]]:
    """Of Kafka and of services: as named, or those of the local cluster."""
    if named:
        return named[0], dict(one.split("=", 1) for one in named[1:])
    said = subprocess.run([sys.executable, "-m", "oms.cli", "status", "--json"], capture_output=True, check=True)
    status = json.loads(said.stdout)
    return status["kafka"]["address"], {name: service["address"] for name, service in status["services"].items()}


async def write(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> None:
    (await client.post(url, json=body, headers={"Idempotency-Key": str(uuid4())})).raise_for_status()


async def publish(bootstrap: str, order: dict[str, Any]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        await producer.send_and_wait("oms.channel.orders", json.dumps(order).encode())


async def follow(client: httpx.AsyncClient, url: str) -> str:
    said = ""
    async with asyncio.timeout(60):
        while said not in ENDED:
            answer = await client.get(url)
            status = answer.json()["status"] if answer.status_code == 200 else said
            if status != said:
                print(status)
                said = status
            await asyncio.sleep(0.05)
    return said


async def main(bootstrap: str, urls: dict[str, str]) -> str:
    order = json.loads((Path(__file__).parent / "order.json").read_text())
    order["external_order_id"] = f"W-{uuid4().hex[:8]}"
    berlin = {"location": "BER", "name": "Berlin", "country": "DE", "lat": 52.5, "lon": 13.4}
    stock = {"receipt_id": str(uuid4()), "lines": [{"sku": "SKU-1", "location": "BER", "qty": 10}]}
    async with httpx.AsyncClient() as client:
        await write(client, f"{urls['inventory']}/locations", berlin)
        await write(client, f"{urls['inventory']}/stock/receipts", stock)
        await publish(bootstrap, order)
        return await follow(client, f"{urls['tracking']}/orders/by-reference/web/{order['external_order_id']}")


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main(*addresses(sys.argv[1:]))) == "COMPLETED" else 1)
