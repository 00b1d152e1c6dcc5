"""The door to the payment service provider (PSP): the port, its HTTP adapter, and how its answers are read.

An answer is believed only if it is wholly right. Whatever else comes back is `Unknown`: neither a success nor a
failure, but a call to be looked up.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import httpx
from pydantic import Field, JsonValue, ValidationError
from pydantic_core import to_json

from libs.events.base import Id, Minor, Moment, Value
from libs.events.payment import (
    Operation,
    PaymentAuthorizationSubmitted,
    PaymentCaptureSubmitted,
    PaymentOutcomeUnknown,
    PaymentVoidSubmitted,
    RefundSubmitted,
)
from libs.runtime.door import Answered, CallLost, DoorSettings, HttpDoor
from libs.runtime.effect import GatewayUnavailable
from services.payment.domain.call import Approved, Refused

Submitted = PaymentAuthorizationSubmitted | PaymentCaptureSubmitted | PaymentVoidSubmitted | RefundSubmitted


@dataclass(frozen=True, slots=True)
class Unknown:
    """The PSP may or may not have done it. `why` is for people."""

    why: str


@dataclass(frozen=True, slots=True)
class NotFound:
    """The PSP knows of no operation under this key."""


Reply = Approved | Refused | Unknown


class PaymentGateway(Protocol):
    """Every call is made under the intent's idempotency key: once in effect, however often it is made.

    Raises GatewayUnavailable where the call surely had no effect, so that it may be made again as it is.
    """

    async def authorize(self, intent: PaymentAuthorizationSubmitted) -> Reply: ...

    async def capture(self, intent: PaymentCaptureSubmitted) -> Reply: ...

    async def void(self, intent: PaymentVoidSubmitted) -> Reply: ...

    async def refund(self, intent: RefundSubmitted) -> Reply: ...

    async def close(self) -> None: ...

    async def lookup(self, lost: PaymentOutcomeUnknown) -> Reply | NotFound:
        """What became of a call that was lost; changes nothing at the PSP."""


class PspSettings(DoorSettings):
    """How the PSP is called, and how its declines are told."""

    decline_codes: frozenset[str] = frozenset(
        {
            "capture_declined",
            "card_declined",
            "do_not_honor",
            "expired_card",
            "insufficient_funds",
            "issuer_unavailable",
        }
    )
    """A 402 under a code that is not in it is unknown, not a decline: an operator settles it, or lists it."""


PspId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.:-]{0,119}$")]
"""It becomes part of a path and of the key `void:{auth_id}`."""

Code = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$")]


class _Authorized(Value):
    id: PspId
    status: Literal["authorized"]
    amount: Minor
    currency: str
    expires_at: Moment


class _Captured(Value):
    id: PspId
    status: Literal["captured"]
    amount: Minor
    currency: str


class _Voided(Value):
    id: PspId
    status: Literal["voided"]
    amount: None = None
    currency: None = None


class _Refunded(Value):
    id: PspId
    status: Literal["refunded"]
    amount: Minor
    currency: str


class _Declined(Value):
    status: Literal["declined"]
    code: Code
    retryable: bool


class _Failed(Value):
    code: Code


class _Found(Value):
    operation: str
    status_code: int
    body: JsonValue


class PspCallback(Value):
    """What the PSP tells us unasked. `reference` is the payment; a PSP that leaves it out is understood by the key."""

    type: str
    idempotency_key: Id
    operation: Literal["authorize", "capture", "void", "refund"]
    status_code: int
    body: JsonValue
    reference: Id | None = None

    @property
    def payment_id(self) -> str | None:
        """Keys are `auth:{order_id}:…`, `cap:{order_id}:…`, `ref:{order_id}:…`; a void's names no order."""
        kind, _, rest = self.idempotency_key.partition(":")
        named = kind in ("auth", "cap", "ref") and rest
        return self.reference or (f"{rest.partition(':')[0]}-p" if named else None)

    def reply(self, settings: PspSettings) -> Reply:
        operation: Operation = _OPERATIONS[self.operation]
        return read_reply(operation, self.status_code, to_json(self.body), settings)


_OPERATIONS: Mapping[str, Operation] = {
    "authorize": "AUTHORIZE",
    "capture": "CAPTURE",
    "void": "VOID",
    "refund": "REFUND",
}
_DONE: Mapping[Operation, type[_Authorized | _Captured | _Voided | _Refunded]] = {
    "AUTHORIZE": _Authorized,
    "CAPTURE": _Captured,
    "VOID": _Voided,
    "REFUND": _Refunded,
}

# Refused at the door, before any effect. 401, 403: our credentials are wrong, and no customer's card is to blame.
_NO_EFFECT = frozenset({401, 403, 407, 408, 425, 429, 503})


def read_reply(operation: Operation, status_code: int, body: bytes, settings: PspSettings) -> Reply:
    """What a status and a body say of an operation, whether answered, looked up or told by callback."""
    try:
        if status_code in (200, 201):
            done = _DONE[operation].model_validate_json(body)
            return Approved(done.id, done.amount, done.currency, getattr(done, "expires_at", None))
        if status_code == 402 and operation == "AUTHORIZE":
            declined = _Declined.model_validate_json(body)
            return _listed(Refused(declined.code, declined.retryable), settings)
        if 400 <= status_code < 500 and status_code not in _NO_EFFECT:
            code = _Failed.model_validate_json(body).code
            return Refused(code) if status_code != 402 else _listed(Refused(code), settings)
    except ValidationError:
        return Unknown(f"unreadable answer with status {status_code}")
    return Unknown(f"status {status_code}")


def _listed(declined: Refused, settings: PspSettings) -> Reply:
    return declined if declined.code in settings.decline_codes else Unknown(f"decline code {declined.code}")


class HttpPaymentGateway:
    """The PSP over HTTP. What is sent under a key must not change between releases: the PSP would refuse the repeat."""

    def __init__(self, url: str, settings: PspSettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        self._door = HttpDoor(url, settings, transport)

    async def close(self) -> None:
        await self._door.close()

    async def authorize(self, intent: PaymentAuthorizationSubmitted) -> Reply:
        return await self._call("AUTHORIZE", "/v1/authorizations", intent, {**_money(intent), "token": intent.token})

    async def capture(self, intent: PaymentCaptureSubmitted) -> Reply:
        return await self._call("CAPTURE", f"/v1/authorizations/{intent.auth_id}/captures", intent, _money(intent))

    async def void(self, intent: PaymentVoidSubmitted) -> Reply:
        return await self._call("VOID", f"/v1/authorizations/{intent.auth_id}/void", intent, None)

    async def refund(self, intent: RefundSubmitted) -> Reply:
        return await self._call("REFUND", f"/v1/authorizations/{intent.auth_id}/refunds", intent, _money(intent))

    async def lookup(self, lost: PaymentOutcomeUnknown) -> Reply | NotFound:
        answer = await self._exchange("GET", f"/v1/operations/{lost.idempotency_key}")
        if isinstance(answer, Unknown):
            return answer
        try:
            # A 404 from anything but the PSP itself (a proxy, a wrong address) is no proof that nothing happened.
            if answer.status == 404 and _Failed.model_validate_json(answer.body).code == "not_found":
                return NotFound()
            found = _Found.model_validate_json(answer.body) if answer.status == 200 else None
        except ValidationError:
            found = None
        if found is None or _OPERATIONS.get(found.operation) != lost.operation:
            return Unknown(f"unreadable look-up with status {answer.status}")
        reply = read_reply(lost.operation, found.status_code, to_json(found.body), self._settings)
        return _checked(reply, lost)

    async def _call(self, operation: Operation, path: str, intent: Submitted, body: Mapping[str, Any] | None) -> Reply:
        answer = await self._exchange("POST", path, intent.idempotency_key, body)
        if isinstance(answer, Unknown):
            return answer
        return _checked(read_reply(operation, answer.status, answer.body, self._settings), intent)

    async def _exchange(
        self, method: str, path: str, key: str = "", body: Mapping[str, Any] | None = None
    ) -> Answered | Unknown:
        try:
            answer = await self._door.call(method, path, key, body)
        except CallLost as lost:
            return Unknown(str(lost))
        if answer.status in _NO_EFFECT:
            raise GatewayUnavailable(f"status {answer.status}")
        return answer


def _money(intent: PaymentAuthorizationSubmitted | PaymentCaptureSubmitted | RefundSubmitted) -> dict[str, Any]:
    return {"amount": intent.amount, "currency": intent.currency, "reference": intent.payment_id}


def _checked(reply: Reply, asked: Submitted | PaymentOutcomeUnknown) -> Reply:
    """A success over other money than was asked for is no success; a void's answer names none."""
    if not isinstance(reply, Approved) or reply.amount is None or isinstance(asked, PaymentVoidSubmitted):
        return reply
    if (reply.amount, reply.currency) != (asked.amount, asked.currency):
        return Unknown("answer over another amount or currency")
    return reply
