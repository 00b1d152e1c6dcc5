"""A reservation: units of stock held for one order until they are shipped or given back."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from libs.events.base import Event, ReservedLine
from libs.events.inventory import (
    ReservationConsumed,
    ReservationReleased,
    ShortLine,
    StockAdjusted,
    StockHeld,
    StockHoldReleased,
    StockReservationRejected,
    StockReserved,
    StockShipped,
)
from libs.runtime.decider import Aggregate
from services.inventory.domain.command import ConsumeReservation, ReleaseReservation, ReserveStock
from services.inventory.domain.network import Network, distance_to
from services.inventory.domain.sourcing import Supply, source
from services.inventory.domain.stock import StockItem

ReservationFact = StockReserved | StockReservationRejected | ReservationReleased | ReservationConsumed
ReservationStatus = Literal["NEW", "HELD", "REJECTED", "RELEASED", "CONSUMED"]
Stock = Mapping[str, StockItem]


@dataclass(frozen=True, slots=True)
class Reservation:
    """`held` is what is left of it; `answered` the requests it has answered; `shipments` those it has counted."""

    status: ReservationStatus = "NEW"
    held: tuple[ReservedLine, ...] = ()
    answered: frozenset[str] = frozenset()
    shipments: frozenset[str] = frozenset()


def evolve(reservation: Reservation, event: ReservationFact) -> Reservation:
    answered = reservation.answered | {event.request_id}
    match event:
        case StockReserved():
            return replace(reservation, status="HELD", held=event.lines, answered=answered)
        case StockReservationRejected():
            status: ReservationStatus = "REJECTED" if reservation.status == "NEW" else reservation.status
            return replace(reservation, status=status, answered=answered)
        case ReservationReleased():
            left = _split(reservation.held, event.lines)[1]
            return replace(reservation, status=_after_release(reservation, left), held=left, answered=answered)
        case ReservationConsumed():
            left = _split(reservation.held, event.lines)[1]
            status = "CONSUMED" if event.lines and not left else reservation.status
            shipments = reservation.shipments | {event.shipment_id}
            return Reservation(status, left, answered, shipments)
        case _:
            assert_never(event)


def _after_release(reservation: Reservation, left: tuple[ReservedLine, ...]) -> ReservationStatus:
    if left:
        return "HELD"
    return "CONSUMED" if reservation.status == "CONSUMED" else "RELEASED"


RESERVATION = Aggregate(category="reservation", initial_state=Reservation, evolve=evolve)


def reserve(command: ReserveStock, reservation: Reservation, stock: Stock, network: Network) -> list[Event]:
    match reservation.status:
        case "NEW":
            return _reserve(command, stock, network)
        case "HELD" | "REJECTED" | "CONSUMED":
            return []
        case "RELEASED":
            # Released before it was reserved: nothing may be held any more, but the request wants its answer.
            return [] if command.request_id in reservation.answered else [_rejected(command)]
        case _:
            assert_never(reservation.status)


def _reserve(command: ReserveStock, stock: Stock, network: Network) -> list[Event]:
    supply = _supply(command, stock, network)
    plan = source(command.lines, supply, distance_to(command.destination, network), command.split)
    if plan.short:
        return [_rejected(command, plan.short)]
    return [
        StockReserved(
            reservation_id=command.reservation_id,
            order_id=command.order_id,
            request_id=command.request_id,
            lines=plan.lines,
            expires_at=command.expires_at,
        ),
        *(
            StockHeld(sku=sku, location=location, qty=qty, reservation_id=command.reservation_id)
            for (sku, location), qty in _units(plan.lines).items()
        ),
    ]


def _rejected(command: ReserveStock, short: tuple[ShortLine, ...] = ()) -> StockReservationRejected:
    return StockReservationRejected(
        reservation_id=command.reservation_id,
        order_id=command.order_id,
        request_id=command.request_id,
        short_lines=short,
    )


def _supply(command: ReserveStock, stock: Stock, network: Network) -> Supply:
    return {
        sku: {
            location: level.atp
            for location, level in stock[sku].levels.items()
            if level.on_hand > level.reserved and location in network.enabled
        }
        for sku in {line.sku for line in command.lines}
    }


def release(command: ReleaseReservation, reservation: Reservation) -> list[Event]:
    """Every request is answered once, if only with no lines: what was shipped or released before stays as it is."""
    if command.request_id in reservation.answered:
        return []
    released, _ = _split(reservation.held, command.lines)
    return [
        ReservationReleased(
            reservation_id=command.reservation_id,
            order_id=command.order_id,
            request_id=command.request_id,
            lines=released,
            reason=command.reason,
        ),
        *(
            StockHoldReleased(sku=sku, location=location, qty=qty, reservation_id=command.reservation_id)
            for (sku, location), qty in _units(released).items()
        ),
    ]


def consume(command: ConsumeReservation, reservation: Reservation, stock: Stock) -> list[Event]:
    if command.shipment_id in reservation.shipments:
        return []
    shipped, _ = _split(reservation.held, command.lines)
    return [
        ReservationConsumed(
            reservation_id=command.reservation_id,
            order_id=command.order_id,
            request_id=command.request_id,
            shipment_id=command.shipment_id,
            lines=shipped,
        ),
        *(
            StockShipped(
                sku=sku,
                location=location,
                qty=qty,
                reservation_id=command.reservation_id,
                shipment_id=command.shipment_id,
            )
            for (sku, location), qty in _units(shipped).items()
        ),
        *_shipped_unreserved(command, shipped, stock),
    ]


def _shipped_unreserved(
    command: ConsumeReservation, shipped: tuple[ReservedLine, ...], stock: Stock
) -> Iterable[StockAdjusted]:
    """Goods that left without being held are gone all the same, so the books follow the shelf.

    Only down to what is promised to others: beyond that a count must say what is there.
    """
    reserved = _units(shipped)
    for (sku, location), qty in _units(command.lines).items():
        surplus = min(qty - reserved.get((sku, location), 0), stock[sku].at(location).atp)
        if surplus > 0:
            yield StockAdjusted(sku=sku, location=location, qty=-surplus, reason="shipped_unreserved", by="inventory")


def _split(
    held: tuple[ReservedLine, ...], wanted: tuple[ReservedLine, ...]
) -> tuple[tuple[ReservedLine, ...], tuple[ReservedLine, ...]]:
    """What of the held lines is wanted, and what stays held."""
    quantities: dict[tuple[str, str, str], int] = {}
    for line in wanted:
        quantities[_place(line)] = quantities.get(_place(line), 0) + line.qty
    taken, left = [], []
    for line in held:
        qty = min(line.qty, quantities.get(_place(line), 0))
        if qty:
            quantities[_place(line)] -= qty
            taken.append(line.model_copy(update={"qty": qty}))
        if qty < line.qty:
            left.append(line.model_copy(update={"qty": line.qty - qty}))
    return tuple(taken), tuple(left)


def _place(line: ReservedLine) -> tuple[str, str, str]:
    return line.line_id, line.sku, line.location


def _units(lines: Iterable[ReservedLine]) -> dict[tuple[str, str], int]:
    """Units of each SKU at each location: lines of one SKU move its stock together."""
    units: dict[tuple[str, str], int] = {}
    for line in lines:
        units[line.sku, line.location] = units.get((line.sku, line.location), 0) + line.qty
    return units
