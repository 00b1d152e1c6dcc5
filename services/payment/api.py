"""Payments over HTTP: what became of them, what the PSP tells unasked, and what an operator settles by hand."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, model_validator

from libs.events.base import Id
from libs.events.text import FreeText
from libs.runtime.api import Body, Callback, Commands, Page, Receipt, Views
from libs.runtime.decider import CommandRejected
from libs.runtime.scope import SIGNED, SaidBy, may
from services.payment.domain.call import Answer, Approved, Refused
from services.payment.domain.command import RecordAnswer, SettlePayment
from services.payment.gateway import PspCallback, PspId, PspSettings, Unknown
from services.payment.views import PAYMENT_VIEW, PaymentStatus, PaymentView

SEES = may("operator", "reader")


class Settlement(Body):
    """What an operator has found out. `psp_reference` is the PSP's id of what it did; a void's is the authorisation."""

    idempotency_key: Id
    outcome: Literal["SUCCEEDED", "FAILED"]
    psp_reference: PspId | None = None
    by: FreeText
    reason: FreeText

    @model_validator(mode="after")
    def _success_is_proven(self) -> "Settlement":
        if self.outcome == "SUCCEEDED" and self.psp_reference is None:
            raise ValueError("a success needs its psp_reference")
        return self

    @property
    def answer(self) -> Answer:
        return (
            Approved(self.psp_reference) if self.psp_reference and self.outcome == "SUCCEEDED" else Refused("settled")
        )


class CallbackTaken(BaseModel):
    """`ignored` says why nothing came of a callback; the PSP need not send it again."""

    events: list[str] = []
    ignored: str | None = None


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    409: {"description": "The domain says no: `code` says why"},
    422: {"description": "Not a request of this shape"},
}


def router(settings: PspSettings) -> APIRouter:
    routes = APIRouter()

    @routes.get(
        "/payments/{payment_id}",
        openapi_extra=SEES,
        tags=["payments"],
        summary="One payment",
        responses={404: {"description": "No such payment"}, 422: _PROBLEMS[422]},
    )
    async def read_payment(payment_id: Id, views: Views) -> PaymentView:
        return await views.get(PAYMENT_VIEW, payment_id)

    @routes.get("/payments", openapi_extra=SEES, tags=["payments"], summary="Payments", responses={422: _PROBLEMS[422]})
    async def list_payments(
        views: Views,
        status: PaymentStatus | None = None,
        order_id: Id | None = None,
        outcome: Annotated[Literal["KNOWN", "UNKNOWN"] | None, Query(description="UNKNOWN: needs a look")] = None,
    ) -> Page[PaymentView]:
        asked = {"status": status, "order_id": order_id, "outcome": outcome}
        return await views.page(PAYMENT_VIEW, {name: value for name, value in asked.items() if value is not None})

    @routes.post(
        "/payments/{payment_id}/settlements",
        openapi_extra=may("operator"),
        tags=["payments"],
        summary="Settle by hand a call whose outcome is unknown",
        status_code=201,
        responses={200: {"model": Receipt, "description": "Already done"}, **_PROBLEMS},
    )
    async def settle(
        payment_id: Id, body: Settlement, said_by: SaidBy, commands: Commands, response: Response
    ) -> Receipt:
        command = SettlePayment(payment_id, body.idempotency_key, body.answer, said_by(body.by), body.reason)
        receipt = await commands.handle(command)
        response.status_code = 201 if receipt.events else 200
        return receipt

    @routes.post(
        "/callbacks/psp",
        openapi_extra=SIGNED,
        tags=["callbacks"],
        summary="What the PSP tells unasked, signed as Standard Webhooks",
        responses={
            202: {"model": CallbackTaken, "description": "Understood, and nothing came of it"},
            401: {"description": "Not signed by the PSP, or too old"},
            422: _PROBLEMS[422],
        },
    )
    async def psp_callback(callback: Callback, commands: Commands, response: Response) -> CallbackTaken:
        told = callback.read(PspCallback)
        try:
            receipt = await commands.handle(_command(told, settings), key=callback.id)
        except CommandRejected as rejection:
            # Repeating it would not make it right, so the PSP is thanked; the outcome stays for the look-up to find.
            response.status_code = 202
            return CallbackTaken(ignored=rejection.code)
        return CallbackTaken(events=receipt.events)

    return routes


def _command(told: PspCallback, settings: PspSettings) -> RecordAnswer:
    if told.type != "operation.completed":
        raise CommandRejected("unknown_type")
    if told.payment_id is None:
        raise CommandRejected("unknown_reference")
    reply = told.reply(settings)
    if isinstance(reply, Unknown):
        raise CommandRejected("unreadable_outcome", reply.why)
    return RecordAnswer(told.payment_id, told.idempotency_key, reply, "CALLBACK")
