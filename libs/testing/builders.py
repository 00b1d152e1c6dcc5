"""Orders as channels place them, with everything settable and totals that add up."""

from datetime import UTC, datetime
from typing import Any

from libs.events.channel import OrderPlaced, PlacedDestination, PlacedLine, PlacedPayment, PlacedShipping, PlacedTotals

BERLIN = PlacedDestination(country="DE", postal_code="10115", lat=52.5, lon=13.4)


def placed_line(sku: str = "SKU-1", qty: int = 1, amount: int = 1999, **fields: Any) -> PlacedLine:
    return PlacedLine(**{"line_id": sku, "sku": sku, "qty": qty, "amount": amount, **fields})


def order_placed(
    external_order_id: str = "W-1",
    *lines: PlacedLine,
    channel: str = "web",
    shipping: int = 0,
    token: str = "tok_visa",
    **fields: Any,
) -> OrderPlaced:
    """An order of the lines given, or of one unit of SKU-1."""
    lines = lines or (placed_line(),)
    items, tax, discount = (sum(getattr(line, name) for line in lines) for name in ("amount", "tax", "discount"))
    return OrderPlaced(
        **{
            "channel": channel,
            "external_order_id": external_order_id,
            "placed_at": datetime(2026, 1, 5, 10, 0, tzinfo=UTC),
            "currency": "EUR",
            "lines": lines,
            "shipping": PlacedShipping(price=shipping),
            "totals": PlacedTotals(
                items=items, shipping=shipping, tax=tax, discount=discount, grand=items + shipping + tax - discount
            ),
            "payment": PlacedPayment(psp="sim", token=token),
            "destination": BERLIN,
            **fields,
        }
    )
