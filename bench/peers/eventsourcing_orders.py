"""pyeventsourcing: twelve commands on one order aggregate, each loaded, decided and saved in a transaction of its own.

Its PostgreSQL module as documented, with its aggregate cache on and connections that last. Its writers lock the table
of events, which is what keeps the order of its notification log; so more workers than cores add nothing.
"""

import os
import sys
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid5

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from turns import COMMANDS, work

_NAMESPACE = UUID("9ab0a3a0-35a5-4c3c-8e4a-2f6b6f6a0c11")


class Order(Aggregate):
    @event("Received")
    def __init__(self, order_id: str, lines: list[dict[str, Any]], total: int) -> None:
        self.order_id = order_id
        self.lines = lines
        self.total = total
        self.status = "RECEIVED"

    @staticmethod
    def create_id(order_id: str) -> UUID:
        return uuid5(_NAMESPACE, order_id)

    @event("Advanced")
    def advance(self, status: str, details: dict[str, Any]) -> None:
        self.status = status
        self.details = details


class Orders(Application[UUID]):
    def receive(self, order_id: str) -> None:
        line = {"line_id": "1", "sku": "SKU-1", "qty": 1, "amount": 1999, "location": "BER"}
        self.save(Order(order_id, [line], 1999))

    def advance(self, order_id: str, status: str) -> None:
        order = self.repository.get(Order.create_id(order_id))
        order.advance(status, {"request_id": f"{order_id}-{status}", "amount": 1999, "currency": "EUR"})
        self.save(order)


def main() -> None:
    database = urlsplit(os.environ["PEER_DSN"])
    app = Orders(
        env={
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_DBNAME": database.path.removeprefix("/"),
            "POSTGRES_HOST": database.hostname or "",
            "POSTGRES_PORT": str(database.port),
            "POSTGRES_USER": database.username or "",
            "POSTGRES_PASSWORD": database.password or "",
            "POSTGRES_POOL_SIZE": "8",
            "POSTGRES_MAX_OVERFLOW": "8",
            "AGGREGATE_CACHE_MAXSIZE": "1000",
            "POSTGRES_ENABLE_DB_FUNCTIONS": os.environ.get("PEER_DB_FUNCTIONS", "n"),
        }
    )

    def one_order(order_id: str) -> None:
        app.receive(order_id)
        for command in COMMANDS[1:]:
            app.advance(order_id, command)

    work(one_order, int(sys.argv[1]), float(sys.argv[2]))
    app.close()


if __name__ == "__main__":
    main()
