"""The inventory's decider: which streams a command needs, and which aggregate's rules decide it."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, assert_never

from libs.events.base import Event
from libs.runtime.decider import Decider, States, Stream, Wake
from services.inventory.domain import network, reservation, stock
from services.inventory.domain.command import (
    AdjustStock,
    Command,
    ConsumeReservation,
    DisableNode,
    EnableNode,
    ReceiveStock,
    RegisterLocation,
    ReleaseReservation,
    ReserveStock,
)
from services.inventory.domain.network import MAIN, NETWORK
from services.inventory.domain.reservation import RESERVATION
from services.inventory.domain.stock import STOCK, StockItem


def streams(command: Command) -> Sequence[Stream[Any]]:
    match command:
        case ReserveStock() | ReleaseReservation() | ConsumeReservation():
            skus = {line.sku for line in command.lines}
            return [RESERVATION.stream(command.reservation_id), *(STOCK.stream(sku) for sku in sorted(skus))]
        case ReceiveStock():
            return [STOCK.stream(sku) for sku in sorted({line.sku for line in command.lines})]
        case AdjustStock():
            return [STOCK.stream(command.sku)]
        case RegisterLocation() | DisableNode() | EnableNode():
            return [MAIN]
        case Wake():
            return []
        case _:
            assert_never(command)


def reads(command: Command) -> Sequence[Stream[Any]]:
    match command:
        case ReserveStock() | ReceiveStock() | AdjustStock():
            return [MAIN]
        case _:
            return []


def decide(command: Command, states: States, _now: datetime) -> Sequence[Event]:
    match command:
        case ReserveStock():
            held = states[RESERVATION.stream(command.reservation_id)]
            return reservation.reserve(command, held, _stock(command.lines, states), states[MAIN])
        case ReleaseReservation():
            return reservation.release(command, states[RESERVATION.stream(command.reservation_id)])
        case ConsumeReservation():
            held = states[RESERVATION.stream(command.reservation_id)]
            return reservation.consume(command, held, _stock(command.lines, states))
        case ReceiveStock():
            return stock.receive(command, _stock(command.lines, states), states[MAIN])
        case AdjustStock():
            return stock.adjust(command, states[STOCK.stream(command.sku)], states[MAIN])
        case RegisterLocation():
            return network.register(command, states[MAIN])
        case DisableNode():
            return network.disable(command, states[MAIN])
        case EnableNode():
            return network.enable(command, states[MAIN])
        case Wake():
            return []  # nothing here has a deadline: only the order lets a reservation expire
        case _:
            assert_never(command)


def _stock(lines: Iterable[Any], states: States) -> dict[str, StockItem]:
    return {sku: states[STOCK.stream(sku)] for sku in {line.sku for line in lines}}


DECIDER: Decider[Command] = Decider(
    aggregates=(RESERVATION, STOCK, NETWORK), streams=streams, reads=reads, decide=decide
)
