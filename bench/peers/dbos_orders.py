"""DBOS: a durable workflow of twelve steps an order, its system database on the same PostgreSQL.

Workflows are called from several threads of several executors, which is its shortest way: no queue, no polling.
"""

import os
import sys
from typing import Any

from dbos import DBOS, DBOSConfig, SetWorkflowID
from turns import COMMANDS, work


@DBOS.step()
def step(order_id: str, command: str) -> dict[str, Any]:
    return {"request_id": f"{order_id}-{command}", "amount": 1999, "currency": "EUR", "status": command}


@DBOS.workflow()
def order(order_id: str) -> str:
    for command in COMMANDS:
        answer = step(order_id, command)
    return str(answer["status"])


def main() -> None:
    threads = int(sys.argv[1])
    config: DBOSConfig = {
        "name": "orders",
        "system_database_url": os.environ["PEER_DSN"],
        "sys_db_pool_size": threads + 4,
        "log_level": "ERROR",
        "application_version": "1",
        "executor_id": os.environ["PEER_NAME"],
    }
    DBOS(config=config)
    DBOS.launch()

    def one_order(order_id: str) -> None:
        with SetWorkflowID(order_id):
            order(order_id)

    work(one_order, threads, float(sys.argv[2]))
    DBOS.destroy()


if __name__ == "__main__":
    main()
