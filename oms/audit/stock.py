"""Stock: what came in is there or has left, and was never promised twice."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from oms.audit.evidence import Evidence, Fact
from oms.audit.finding import Finding, finding

Place = tuple[str, str]  # SKU and location


@dataclass(slots=True)
class Level:
    on_hand: int = 0
    reserved: int = 0

    @property
    def possible(self) -> bool:
        return self.on_hand >= self.reserved >= 0


def stock_is_conserved(evidence: Evidence, is_open: Callable[[str], bool] = lambda _order_id: False) -> Finding:
    """Received + adjusted - shipped = on hand = the view; reserved is what open orders hold; never oversold."""
    levels: dict[Place, Level] = {}
    held: Counter[Place] = Counter()
    units: Counter[str] = Counter()
    oversold: dict[Place, None] = {}
    for fact in evidence.inventory:
        place = fact.data["sku"], fact.data["location"]
        level = levels.setdefault(place, Level())
        reserved = level.reserved
        _move(level, fact)
        if is_open(order_of(fact)):
            held[place] += level.reserved - reserved
        units[fact.type] += fact.data["qty"]
        if not level.possible:
            oversold[place] = None

    def offenders() -> Iterator[str]:
        yield from (f"{sku} at {location} was oversold" for sku, location in oversold)
        for (sku, location), level in levels.items():
            if level.reserved != held[sku, location]:
                yield f"{sku} at {location} has {level.reserved - held[sku, location]} still reserved"
            shown = evidence.availability.get(sku, {}).get("locations", {}).get(location, {})
            if (shown.get("on_hand"), shown.get("reserved")) != (level.on_hand, level.reserved):
                yield f"{sku} at {location} is {level.on_hand} by its events, {shown.get('on_hand')} in the view"

    on_hand = sum(level.on_hand for level in levels.values())
    adjusted = f" {units['StockAdjusted']:+,} adjusted" if units["StockAdjusted"] else ""
    figures = (
        f"{units['StockReceived']:,} units received{adjusted} - {units['StockShipped']:,} shipped"
        f" = {on_hand:,} on hand at {len(levels):,} places"
    )
    return finding("stock is conserved", figures, offenders())


def order_of(fact: Fact) -> str:
    """The order that a hold on stock was for, empty where there is none: reservations are `{order_id}-r{revision}`."""
    return str(fact.data.get("reservation_id", "")).rpartition("-r")[0]


def _move(level: Level, fact: Fact) -> None:
    qty = fact.data["qty"]
    match fact.type:
        case "StockReceived" | "StockAdjusted":
            level.on_hand += qty
        case "StockHeld":
            level.reserved += qty
        case "StockHoldReleased":
            level.reserved -= qty
        case "StockShipped":
            level.on_hand -= qty
            level.reserved -= qty


def stock_left_by_shipment(evidence: Evidence) -> Finding:
    """What fulfillment dispatched is what inventory let go, shipment by shipment and SKU by SKU."""
    dispatched: Counter[Place] = Counter()
    for fact in evidence.fulfillment:
        if fact.type == "ShipmentDispatched":
            for line in fact.data["lines"]:
                dispatched[fact.data["shipment_id"], line["sku"]] += line["qty"]
    left: Counter[Place] = Counter()
    for fact in evidence.inventory:
        if fact.type == "StockShipped":
            left[fact.data["shipment_id"], fact.data["sku"]] += fact.data["qty"]
    offenders = (
        f"{shipment}: {dispatched[shipment, sku]} of {sku} dispatched, {left[shipment, sku]} taken from stock"
        for shipment, sku in sorted(dispatched.keys() | left.keys())
        if dispatched[shipment, sku] != left[shipment, sku]
    )
    return finding(
        "stock left with shipments", f"{dispatched.total():,} units dispatched, {left.total():,} taken", offenders
    )
