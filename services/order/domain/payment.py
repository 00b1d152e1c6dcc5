"""From reserved stock to confirmed payment, with every way it can go wrong in between."""

from datetime import datetime
from typing import Literal, assert_never

from libs.events.base import ReservedLine
from libs.events.order import (
    OrderConfirmed,
    OrderEvents,
    OrderHoldPlaced,
    OrderHoldReleased,
    PaymentAuthorizationRequested,
    PaymentMethodUpdateRequested,
    PaymentVoidRequested,
    ReservationReleaseRequested,
)
from libs.runtime.decider import CommandRejected
from services.order.domain.command import (
    ConfirmOrder,
    DeclinePayment,
    RecordReservation,
    RecordShortage,
    ResumePayment,
    SuspendPayment,
    UpdatePaymentMethod,
)
from services.order.domain.intake import called_off
from services.order.domain.release import releases
from services.order.domain.state import Order, evolve, payment_holds
from services.order.domain.timers import OrderTimers

VoidReason = Literal["LATE", "PAYMENT_DECLINED"]


def record_reservation(
    command: RecordReservation, order: Order, now: datetime, timers: OrderTimers
) -> list[OrderEvents]:
    match order.status:
        case "new" | "rejected":
            raise CommandRejected("order_unknown")
        case "accepted":
            return [_authorization_requested(order, now, now, timers, order.received.token, command.lines)]
        case "cancelled":
            return [] if order.reservation_freed else [_released_late(command)]
        case "paying" | "awaiting_method" | "confirmed" | "released" | "in_fulfillment" | "completed":
            return []
        case _:
            assert_never(order.status)


def _released_late(command: RecordReservation) -> ReservationReleaseRequested:
    return ReservationReleaseRequested(
        order_id=command.order_id,
        request_id=f"rel:{command.reservation_id}:LATE:1",
        reservation_id=command.reservation_id,
        reason="LATE",
        lines=command.lines,
    )


def record_shortage(command: RecordShortage, order: Order) -> list[OrderEvents]:
    match order.status:
        case "new" | "rejected":
            raise CommandRejected("order_unknown")
        case "accepted":
            return called_off(order, "OUT_OF_STOCK")
        case "paying" | "awaiting_method" | "confirmed" | "released" | "in_fulfillment" | "completed" | "cancelled":
            return []
        case _:
            assert_never(order.status)


def _authorization_requested(
    order: Order,
    now: datetime,
    not_before: datetime,
    timers: OrderTimers,
    token: str,
    reserved: tuple[ReservedLine, ...],
) -> PaymentAuthorizationRequested:
    attempt = order.attempt + 1
    answer_by = not_before + timers.payment_answer
    return PaymentAuthorizationRequested(
        order_id=order.order_id,
        request_id=f"auth:{order.order_id}:{order.revision}:{attempt}",
        payment_id=order.payment_id,
        attempt=attempt,
        amount=order.received.total,
        currency=order.received.currency,
        psp=order.received.psp,
        token=token,
        reserved=reserved,
        not_before=not_before,
        answer_by=answer_by,
        expires_at=_expiry(order, now, answer_by, timers),
    )


def _expiry(order: Order, now: datetime, answer_by: datetime, timers: OrderTimers) -> datetime:
    """T7 runs from the reservation on; a later attempt does not renew it, but is always given the time to answer."""
    first = order.attempt == 0
    return max(now + timers.reservation if first else order.expires_at, answer_by)


def confirm(command: ConfirmOrder, order: Order, now: datetime, timers: OrderTimers) -> list[OrderEvents]:
    match order.status:
        case "new" | "rejected" | "accepted":
            raise CommandRejected("payment_not_requested")
        case "paying" | "awaiting_method":
            return _authorized(command, order, now, timers)
        case "confirmed" | "released" | "in_fulfillment" | "completed" | "cancelled":
            return [*_holds_lifted(order), *_voided(command, order, "LATE")]
        case _:
            assert_never(order.status)


def _authorized(command: ConfirmOrder, order: Order, now: datetime, timers: OrderTimers) -> list[OrderEvents]:
    """Any attempt's authorisation will do; should another one come as well, that one is void."""
    if command.auth_id in order.voided:
        return []
    lifted = _holds_lifted(order)
    if command.amount < order.received.total:
        voided = _voided(command, order, "PAYMENT_DECLINED")
        asked = _method_asked_for(order, "amount_short", now, timers) if order.status == "paying" else []
        return [*lifted, *voided, *asked]
    confirmed = OrderConfirmed(
        order_id=order.order_id,
        payment_id=command.payment_id,
        auth_id=command.auth_id,
        amount=command.amount,
        release_at=now + timers.remorse,
    )
    released = releases(evolve(order, confirmed), now, timers) if confirmed.release_at <= now else []
    return [*lifted, confirmed, *released]


def _voided(command: ConfirmOrder, order: Order, reason: VoidReason) -> list[PaymentVoidRequested]:
    if command.auth_id == order.auth_id or command.auth_id in order.voided:
        return []
    return [
        PaymentVoidRequested(
            order_id=order.order_id,
            request_id=f"void:{command.auth_id}",
            payment_id=command.payment_id,
            auth_id=command.auth_id,
            reason=reason,
        )
    ]


def decline(command: DeclinePayment, order: Order, now: datetime, timers: OrderTimers) -> list[OrderEvents]:
    match order.status:
        case "new" | "rejected" | "accepted":
            raise CommandRejected("payment_not_requested")
        case "paying":
            if command.attempt != order.attempt:
                return []
            return [*_holds_lifted(order), *_declined(command, order, now, timers)]
        case "cancelled":
            return [*_holds_lifted(order)]
        case "awaiting_method" | "confirmed" | "released" | "in_fulfillment" | "completed":
            return []
        case _:
            assert_never(order.status)


def _declined(command: DeclinePayment, order: Order, now: datetime, timers: OrderTimers) -> list[OrderEvents]:
    if command.retryable and order.attempt < timers.payment_attempts:
        not_before = now + timers.payment_backoff * 2 ** (order.attempt - 1)
        return [_authorization_requested(order, now, not_before, timers, order.token, order.reserved)]
    return _method_asked_for(order, command.code, now, timers)


def _method_asked_for(order: Order, code: str, now: datetime, timers: OrderTimers) -> list[OrderEvents]:
    if order.attempt >= timers.payment_attempts:
        return called_off(order, "PAYMENT_DECLINED")
    expires_at = now + timers.payment_method
    attempt = order.attempt
    return [PaymentMethodUpdateRequested(order_id=order.order_id, attempt=attempt, code=code, expires_at=expires_at)]


def update_method(command: UpdatePaymentMethod, order: Order, now: datetime, timers: OrderTimers) -> list[OrderEvents]:
    match order.status:
        case "awaiting_method":
            return [_authorization_requested(order, now, now, timers, command.token, order.reserved)]
        case "paying" if command.token == order.token:
            return []
        case (
            "new"
            | "rejected"
            | "accepted"
            | "paying"
            | "confirmed"
            | "released"
            | "in_fulfillment"
            | "completed"
            | "cancelled"
        ):
            raise CommandRejected("payment_method_not_awaited")
        case _:
            assert_never(order.status)


def suspend(command: SuspendPayment, order: Order) -> list[OrderEvents]:
    hold_id = f"payment:{command.key}"
    match order.status:
        case "new" | "rejected" | "accepted":
            raise CommandRejected("payment_not_requested")
        case "paying":
            if hold_id in order.trouble:
                return []
            reason = "the outcome of the authorisation is unknown"
            return [OrderHoldPlaced(order_id=order.order_id, hold_id=hold_id, type="PAYMENT", reason=reason)]
        case "awaiting_method" | "confirmed" | "released" | "in_fulfillment" | "completed" | "cancelled":
            return []
        case _:
            assert_never(order.status)


def resume(command: ResumePayment, order: Order) -> list[OrderEvents]:
    match order.status:
        case "new" | "rejected" | "accepted":
            raise CommandRejected("payment_not_requested")
        case "paying":
            return []  # what it became follows at once; lifted before, the hold would let T7 expire the order first
        case "awaiting_method" | "confirmed" | "released" | "in_fulfillment" | "completed" | "cancelled":
            return [*_holds_lifted(order)]
        case _:
            assert_never(order.status)


def _holds_lifted(order: Order) -> list[OrderHoldReleased]:
    reason = "the outcome is known"
    return [
        OrderHoldReleased(order_id=order.order_id, hold_id=hold_id, reason=reason) for hold_id in payment_holds(order)
    ]
