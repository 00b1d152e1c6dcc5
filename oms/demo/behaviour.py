"""How the outside behaves in the demo: quick, and a little faulty, so that every way out can be seen."""

import os
from collections.abc import Callable, Mapping

import httpx

SIMULATORS: Mapping[str, Mapping[str, float]] = {
    "psp": {
        "delay_ms": 20,
        "decline_rate": 0.03,
        "retryable_share": 0.4,
        "error_rate": 0.01,
        "timeout_before_rate": 0.005,
        "timeout_after_rate": 0.005,
        "timeout_hold_s": 2,
        "callback_rate": 0.1,
        "callback_repeat_rate": 0.5,
    },
    "warehouse": {"pick_ms": 300, "pack_ms": 300, "error_rate": 0.005, "repeat_rate": 0.05, "reorder_rate": 0.05},
    "carrier": {"step_ms": 300, "error_rate": 0.005, "repeat_rate": 0.05, "reorder_rate": 0.05},
}

SERVICES = {"OMS_ORDER_PAYMENT_METHOD": "PT10S", "OMS_ORDER_PAYMENT_BACKOFF": "PT1S"}
"""A customer has seconds instead of a day to name another card, so that an order whose customer does not ends today."""


def set_environment() -> None:
    """Before the services start. What the caller has set already stays."""
    for name, value in SERVICES.items():
        os.environ.setdefault(name, value)


async def misbehave(url: Callable[[str], str]) -> None:
    async with httpx.AsyncClient(timeout=10.0) as http:
        for name, rates in SIMULATORS.items():
            (await http.put(f"{url(name)}/behaviour", json=dict(rates))).raise_for_status()
