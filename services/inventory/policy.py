"""Whenever the order asks for stock, gives it back or has shipped it, the reservation follows."""

from collections.abc import Sequence
from typing import Any

from libs.events.envelope import Recorded
from libs.events.order import ReservationReleaseRequested, StockReservationRequested, StockShipmentConfirmed
from services.inventory.domain.command import Command, ConsumeReservation, ReleaseReservation, ReserveStock

WANTS: frozenset[type] = frozenset({StockReservationRequested, ReservationReleaseRequested, StockShipmentConfirmed})


def react(recorded: Recorded[Any]) -> Sequence[Command]:
    match recorded.event:
        case StockReservationRequested() as asked:
            return [
                ReserveStock(
                    asked.reservation_id,
                    asked.order_id,
                    asked.request_id,
                    asked.lines,
                    asked.split,
                    asked.destination,
                    asked.expires_at,
                )
            ]
        case ReservationReleaseRequested() as asked:
            return [
                ReleaseReservation(asked.reservation_id, asked.order_id, asked.request_id, asked.reason, asked.lines)
            ]
        case StockShipmentConfirmed() as gone:
            return [
                ConsumeReservation(gone.reservation_id, gone.order_id, gone.request_id, gone.shipment_id, gone.lines)
            ]
        case _:
            return []
