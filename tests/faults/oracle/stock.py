"""I-6, I-7 and I-8: units of stock, at every moment and at rest."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from tests.faults.oracle.history import Fact, History, Violation

Place = tuple[str, str]


def on_shelves(history: History) -> Iterator[Violation]:
    """I-6 and I-7: nowhere and never is more promised than there is; the table says what the events say."""
    on_hand: Counter[Place] = Counter()
    reserved: Counter[Place] = Counter()
    for fact in history.of("inventory"):
        if fact.category != "stock":
            continue
        place = (fact.data["sku"], fact.data["location"])
        _move(fact, place, on_hand, reserved)
        if not 0 <= reserved[place] <= on_hand[place]:
            says = f"{reserved[place]} promised of {on_hand[place]} at {place} after {fact.name} @{fact.version}"
            yield Violation("I-7", fact.stream, says)
    yield from _promised(history, reserved)
    yield from _table(history, on_hand, reserved)


def _move(fact: Fact, place: Place, on_hand: Counter[Place], reserved: Counter[Place]) -> None:
    qty = fact.data["qty"]
    match fact.name:
        case "StockReceived" | "StockAdjusted":
            on_hand[place] += qty
        case "StockHeld":
            reserved[place] += qty
        case "StockHoldReleased":
            reserved[place] -= qty
        case "StockShipped":
            on_hand[place] -= qty
            reserved[place] -= qty


def _promised(history: History, reserved: Counter[Place]) -> Iterator[Violation]:
    """I-6: what the shelves hold back is what open reservations hold."""
    held: Counter[Place] = Counter()
    for left in _reservations(history).values():
        held.update(left)
    for place in {*held, *reserved}:
        if held[place] != reserved[place]:
            yield Violation("I-6", str(place), f"{reserved[place]} are held back, open reservations hold {held[place]}")


def _table(history: History, on_hand: Counter[Place], reserved: Counter[Place]) -> Iterator[Violation]:
    """I-6: the read model of availability, by SKU and location."""
    table: dict[Place, tuple[int, int, int]] = {}
    for sku, row in history.views.get("inventory", {}).get("availability", {}).items():
        for location, level in row["locations"].items():
            table[sku, location] = (level["on_hand"], level["reserved"], level["atp"])
    for place in {*on_hand, *reserved, *table}:
        folded = (on_hand[place], reserved[place], on_hand[place] - reserved[place])
        if table.get(place) != folded:
            yield Violation("I-6", str(place), f"the table says {table.get(place)}, the events {folded}")


def _reservations(history: History) -> dict[str, Counter[Place]]:
    """What each reservation still holds."""
    left: dict[str, Counter[Place]] = defaultdict(Counter)
    for fact in history.of("inventory"):
        if fact.name == "StockReserved":
            left[fact.data["reservation_id"]].update(_units(fact.data["lines"]))
        elif fact.name in ("ReservationReleased", "ReservationConsumed"):
            left[fact.data["reservation_id"]].subtract(_units(fact.data["lines"]))
    return left


def _units(lines: Iterable[dict[str, Any]]) -> Counter[Place]:
    units: Counter[Place] = Counter()
    for line in lines:
        units[line["sku"], line["location"]] += line["qty"]
    return units


def reservations_end(history: History) -> Iterator[Violation]:
    """I-8: each unit of a reservation is consumed or released once; of an ended order nothing is held."""
    moved: dict[str, dict[str, Counter[Place]]] = defaultdict(lambda: defaultdict(Counter))
    orders: dict[str, str] = {}
    for fact in history.of("inventory"):
        if fact.category == "reservation" and fact.name != "StockReservationRejected":
            moved[fact.data["reservation_id"]][fact.name].update(_units(fact.data["lines"]))
            orders[fact.data["reservation_id"]] = fact.order_id
    for reservation_id, by in moved.items():
        held, gone = by["StockReserved"], by["ReservationReleased"] + by["ReservationConsumed"]
        if gone - held:
            yield Violation("I-8", reservation_id, f"{dict(gone)} left of {dict(held)}")
        if (end := history.ended.get(orders[reservation_id])) and held - gone:
            yield Violation("I-8", reservation_id, f"its order is {end}, and {dict(held - gone)} is held")
        if end == "CANCELLED" and by["ReservationConsumed"]:
            yield Violation("I-8", reservation_id, "its order is CANCELLED, and goods have left")
    yield from _books_agree(history, moved)


SHELF = {
    "StockHeld": "StockReserved",
    "StockHoldReleased": "ReservationReleased",
    "StockShipped": "ReservationConsumed",
}


def _books_agree(history: History, moved: dict[str, dict[str, Counter[Place]]]) -> Iterator[Violation]:
    """I-8: what a reservation says moved is what the shelves say moved for it."""
    shelves: dict[str, dict[str, Counter[Place]]] = defaultdict(lambda: defaultdict(Counter))
    for fact in history.of("inventory", *SHELF):
        place = (fact.data["sku"], fact.data["location"])
        shelves[fact.data["reservation_id"]][SHELF[fact.name]][place] += fact.data["qty"]
    for reservation_id in {*moved, *shelves}:
        for name in SHELF.values():
            said, done = moved[reservation_id][name], shelves[reservation_id][name]
            if said != done:
                yield Violation("I-8", reservation_id, f"{name} of {dict(said)}, and the shelves say {dict(done)}")


CHECKS = (on_shelves, reservations_end)
