"""The order's decisions: one function a command."""

from collections.abc import Sequence
from datetime import datetime
from typing import assert_never

from libs.events.order import OrderEvents
from libs.runtime.decider import Decider, States, Stream, Wake
from services.order.domain import deadline, intake, operation, payment, release
from services.order.domain.command import (
    CancelOrder,
    Command,
    ConfirmOrder,
    DeclinePayment,
    PlaceHold,
    RecordCapture,
    RecordDelivery,
    RecordDispatch,
    RecordReservation,
    RecordShortage,
    RefundOrder,
    RegisterOrder,
    RejectUnreadable,
    ResolveOrder,
    ResumePayment,
    SuspendPayment,
    UpdatePaymentMethod,
)
from services.order.domain.state import ORDER, Order
from services.order.domain.timers import OrderTimers


def stream_of(command: Command) -> Stream[Order]:
    match command:
        case Wake(stream_id):
            return Stream(ORDER, stream_id)
        case _:
            return ORDER.stream(command.order_id)


def decide(command: Command, order: Order, now: datetime, timers: OrderTimers) -> list[OrderEvents]:
    match command:
        case RegisterOrder():
            return intake.register(command, order, now, timers)
        case RejectUnreadable():
            return intake.reject_unreadable(command, order)
        case CancelOrder():
            return intake.cancel(command, order)
        case RecordReservation():
            return payment.record_reservation(command, order, now, timers)
        case RecordShortage():
            return payment.record_shortage(command, order)
        case ConfirmOrder():
            return payment.confirm(command, order, now, timers)
        case DeclinePayment():
            return payment.decline(command, order, now, timers)
        case SuspendPayment():
            return payment.suspend(command, order)
        case ResumePayment():
            return payment.resume(command, order)
        case UpdatePaymentMethod():
            return payment.update_method(command, order, now, timers)
        case RecordDispatch():
            return release.record_dispatch(command, order)
        case RecordDelivery():
            return release.record_delivery(command, order)
        case RecordCapture():
            return release.record_capture(command, order)
        case PlaceHold():
            return operation.place_hold(command, order)
        case ResolveOrder():
            return operation.resolve(command, order)
        case RefundOrder():
            return operation.refund(command, order)
        case Wake():
            return deadline.wake(order, now, timers)
        case _:
            assert_never(command)


def decider(timers: OrderTimers) -> Decider[Command]:
    def streams(command: Command) -> Sequence[Stream[Order]]:
        return [stream_of(command)]

    def decide_on(command: Command, states: States, now: datetime) -> Sequence[OrderEvents]:
        return decide(command, states[stream_of(command)], now, timers)

    return Decider(aggregates=[ORDER], streams=streams, decide=decide_on)
