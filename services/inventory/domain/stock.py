"""Stock of one SKU: what lies at each location, and how much of it is promised to someone."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import assert_never

from libs.events.inventory import StockAdjusted, StockEvent, StockHeld, StockHoldReleased, StockReceived, StockShipped
from libs.runtime.decider import Aggregate, CommandRejected
from services.inventory.domain.command import AdjustStock, ReceiptLine, ReceiveStock
from services.inventory.domain.network import Network, require_known

StockFact = StockHeld | StockHoldReleased | StockShipped | StockReceived | StockAdjusted

REMEMBERED_RECEIPTS = 64
"""A stock stream has no end, so its state keeps only the last receipts: an older one sent again counts again."""


@dataclass(frozen=True, slots=True)
class Level:
    """Always on_hand >= reserved >= 0: what is promised is there."""

    on_hand: int = 0
    reserved: int = 0

    @property
    def atp(self) -> int:
        return self.on_hand - self.reserved


@dataclass(frozen=True, slots=True)
class Receipt:
    """`content` is a digest of its locations and quantities: it tells a repeat from other data."""

    receipt_id: str
    content: str


@dataclass(frozen=True, slots=True)
class StockItem:
    levels: dict[str, Level] = field(default_factory=dict)
    receipts: tuple[Receipt, ...] = ()

    def at(self, location: str) -> Level:
        return self.levels.get(location, _EMPTY)


_EMPTY = Level()


def evolve(stock: StockItem, event: StockFact) -> StockItem:
    match event:
        case StockHeld():
            return _moved(stock, event, on_hand=0, reserved=event.qty)
        case StockHoldReleased():
            return _moved(stock, event, on_hand=0, reserved=-event.qty)
        case StockShipped():
            return _moved(stock, event, on_hand=-event.qty, reserved=-event.qty)
        case StockAdjusted():
            return _moved(stock, event, on_hand=event.qty, reserved=0)
        case StockReceived():
            moved = _moved(stock, event, on_hand=event.qty, reserved=0)
            return StockItem(moved.levels, _noted(stock.receipts, event))
        case _:
            assert_never(event)


def _moved(stock: StockItem, event: StockFact, *, on_hand: int, reserved: int) -> StockItem:
    level = stock.at(event.location)
    moved = Level(level.on_hand + on_hand, level.reserved + reserved)
    return StockItem({**stock.levels, event.location: moved}, stock.receipts)


def _noted(receipts: tuple[Receipt, ...], event: StockReceived) -> tuple[Receipt, ...]:
    """A receipt's events stand side by side in the stream, since one command appends them all."""
    if receipts and receipts[-1].receipt_id == event.receipt_id:
        content = _digest(receipts[-1].content, event.location, event.qty)
        return (*receipts[:-1], Receipt(event.receipt_id, content))
    return (*receipts, Receipt(event.receipt_id, _digest("", event.location, event.qty)))[-REMEMBERED_RECEIPTS:]


def _digest(before: str, location: str, qty: int) -> str:
    return hashlib.sha256(f"{before}|{location}={qty}".encode()).hexdigest()[:16]


STOCK = Aggregate(category="stock", initial_state=StockItem, evolve=evolve)


def receive(command: ReceiveStock, stock: Mapping[str, StockItem], network: Network) -> list[StockEvent]:
    require_known(network, (line.location for line in command.lines))
    quantities = _by_sku(command.lines)
    return [
        event for sku, received in quantities.items() for event in _receive(command.receipt_id, sku, received, stock)
    ]


def _by_sku(lines: Iterable[ReceiptLine]) -> dict[str, dict[str, int]]:
    quantities: dict[str, dict[str, int]] = {}
    for line in lines:
        received = quantities.setdefault(line.sku, {})
        received[line.location] = received.get(line.location, 0) + line.qty
    return quantities


def _receive(receipt_id: str, sku: str, received: dict[str, int], stock: Mapping[str, StockItem]) -> list[StockEvent]:
    # Sorted, so that the digest of a repeat does not depend on the order of its lines.
    lines = sorted(received.items())
    content = ""
    for location, qty in lines:
        content = _digest(content, location, qty)
    for receipt in stock[sku].receipts:
        if receipt.receipt_id == receipt_id:
            return _already_received(receipt, content, sku)
    return [StockReceived(sku=sku, location=location, qty=qty, receipt_id=receipt_id) for location, qty in lines]


def _already_received(receipt: Receipt, content: str, sku: str) -> list[StockEvent]:
    if receipt.content != content:
        raise CommandRejected("receipt_exists", f"{receipt.receipt_id} brought other quantities of {sku}")
    return []


def adjust(command: AdjustStock, item: StockItem, network: Network) -> list[StockEvent]:
    require_known(network, [command.location])
    level = item.at(command.location)
    if level.on_hand + command.delta < level.reserved:
        message = f"{level.on_hand} on hand, {level.reserved} promised at {command.location}"
        raise CommandRejected("insufficient_stock", message)
    return [
        StockAdjusted(
            sku=command.sku, location=command.location, qty=command.delta, reason=command.reason, by=command.by
        )
    ]
