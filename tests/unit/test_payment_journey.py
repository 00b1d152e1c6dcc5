"""The whole payment service against a PSP that loses calls and answers: whatever happens, the books agree at rest."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from libs.events.base import Event
from libs.events.payment import (
    PaymentAuthorizationVoided,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentCaptureFailed,
    PaymentDeclined,
    PaymentRefunded,
    PaymentVoidFailed,
    RefundFailed,
)
from libs.runtime.decider import CommandRejected
from libs.runtime.effect import Effect, GatewayUnavailable
from libs.testing.payment_gateway import Fault, PspDouble, answers, busy, callback, lost_after, lost_before, refused
from libs.testing.scenario import NOW, projected, recorded, scenario
from services.payment.domain.call import Answer, Approved, Refused
from services.payment.domain.command import (
    AuthorizePayment,
    CapturePayment,
    Command,
    RecordAnswer,
    RecordUnknown,
    RefundPayment,
    RepeatCall,
    Request,
    SettlePayment,
    VoidPayment,
)
from services.payment.domain.decider import PaymentTerms, decider
from services.payment.effects import follow, perform
from services.payment.gateway import HttpPaymentGateway, PspCallback, PspSettings, Unknown
from services.payment.views import PAYMENT_VIEW, PaymentView

DECIDER = decider(PaymentTerms())
FAULTS: dict[str, Fault | None] = {
    "none": None,
    "refused": refused,
    "lost before": lost_before,
    "lost after": lost_after,
    "garbage": answers(200, html="<html>"),
    "error": answers(500),
    "busy": busy,
    "wrong": answers(201, json={"id": "X", "status": "authorized", "amount": 1, "currency": "EUR"}),
}
TERMINAL = (
    PaymentAuthorized
    | PaymentDeclined
    | PaymentCaptured
    | PaymentCaptureFailed
    | PaymentAuthorizationVoided
    | PaymentVoidFailed
    | PaymentRefunded
    | RefundFailed
)


class World:
    """One payment, its effects, and the PSP. Every step appends what is decided and checks the money."""

    def __init__(self) -> None:
        self.psp = PspDouble()
        self.gateway = HttpPaymentGateway("http://psp", PspSettings(), self.psp.transport)
        self.events: list[Event] = []
        self.effects: list[Effect] = []
        self.done: list[Command] = []

    def tell(self, command: Command) -> Sequence[Event]:
        try:
            events = scenario(DECIDER).given(*self.events).when(command).decide()
        except CommandRejected:
            return []
        self.events += events
        self.effects += [effect for event in events for effect in follow(recorded(event))]
        self.done.append(command)
        self.check_sums()
        return events

    def view(self) -> PaymentView:
        return projected(PAYMENT_VIEW, *self.events) or PaymentView(payment_id="o1-p", order_id="o1")

    async def call(self, index: int, fault: Fault | None, *, crash: bool = False) -> None:
        """Performs one effect. It stays if nothing came of it, or if the worker dies before it can write."""
        effect = self.effects[index % len(self.effects)]
        self.psp.faults.clear()
        if fault:
            self.psp.faults.append(fault)
        try:
            command = await perform(effect, self.gateway)
        except GatewayUnavailable:
            return
        if not crash:
            self.effects.remove(effect)
            self.tell(command)

    def call_back(self, index: int) -> None:
        key = sorted(self.psp.operations)[index % len(self.psp.operations)]
        told = PspCallback.model_validate(callback(self.psp, key))
        reply = told.reply(PspSettings())
        assert told.payment_id is not None
        assert not isinstance(reply, Unknown)
        self.tell(RecordAnswer(told.payment_id, key, reply, "CALLBACK"))

    def settle(self, index: int) -> None:
        """The operator looks into the PSP's portal and says what is there."""
        unknown = self.view().unknown
        key = unknown[index % len(unknown)].id
        self.tell(SettlePayment("o1-p", key, self._seen(key), "ann", "seen in the portal"))

    def _seen(self, key: str) -> Answer:
        if key not in self.psp.operations:
            return Refused("settled")
        _, _, (status_code, body) = self.psp.operations[key]
        return Approved(body["id"]) if status_code < 300 else Refused("settled")

    async def rest(self) -> None:
        for _ in range(200):
            if not self.effects:
                return
            await self.call(0, None)
        raise AssertionError(f"no rest: {self.effects}")

    def check_sums(self) -> None:
        view = self.view()
        assert 0 <= view.refunded <= view.captured <= view.authorised

    def check_books(self) -> None:
        """At rest the PSP's ledger and our events say the same, and every request has one answer."""
        view, held = self.view(), self.psp.held
        assert view.outcome == "KNOWN"
        asked_too_much = [key for key, (_, _, (status, _)) in self.psp.operations.items() if status == 409]
        assert not asked_too_much, "our own guards come before the PSP's"
        live = {row.id: row.amount for row in view.authorizations if row.status != "VOIDED" and row.amount}
        assert live == {auth_id: each.authorised for auth_id, each in held.items() if not each.voided}
        assert view.captured == sum(each.captured for each in held.values())
        assert view.refunded == sum(each.refunded for each in held.values())
        ends = Counter(_request_of(event) for event in self.events if isinstance(event, TERMINAL))
        assert ends == Counter({_asked_for(each): 1 for each in self.done if isinstance(each, Request)})

    def check_repeats(self) -> None:
        for command in tuple(self.done):
            assert self.tell(command) == []


def _request_of(event: Any) -> tuple[str, str]:
    match event:
        case PaymentAuthorized() | PaymentDeclined():
            return "AUTHORIZE", str(event.attempt)
        case PaymentCaptured() | PaymentCaptureFailed():
            return "CAPTURE", event.capture_id
        case PaymentAuthorizationVoided() | PaymentVoidFailed():
            return "VOID", event.auth_id
        case _:
            return "REFUND", event.refund_id


def _asked_for(command: Request) -> tuple[str, str]:
    match command:
        case AuthorizePayment():
            return "AUTHORIZE", str(command.attempt)
        case CapturePayment():
            return "CAPTURE", command.capture_id
        case VoidPayment():
            return "VOID", command.auth_id
        case RefundPayment():
            return "REFUND", command.refund_id


AUTHORIZED = AuthorizePayment("o1-p", "o1", "auth:o1:1:1", 1, 100, "EUR", "sim", "tok_visa", NOW)
TOKENS = ("tok_visa", "tok_visa", "tok_decline", "tok_capture_fails", "tok_timeout_after", "tok_garbage_once")
AMOUNTS = st.sampled_from((0, 30, 60, 60, 100, 101))


def requests(world: World) -> st.SearchStrategy[Request]:
    number = st.integers(1, 3)
    granted = [event.auth_id for event in world.events if isinstance(event, PaymentAuthorized)]
    return st.one_of(
        st.builds(
            lambda n, token: AuthorizePayment("o1-p", "o1", f"auth:o1:1:{n}", n, 100, "EUR", "sim", token, NOW),
            st.integers(1, 3),
            st.sampled_from(TOKENS),
        ),
        st.builds(
            lambda n, amount: CapturePayment("o1-p", "o1", f"cap:o1:s{n}", f"c{n}", f"s{n}", amount, "EUR"),
            number,
            AMOUNTS,
        ),
        st.builds(
            lambda auth_id: VoidPayment("o1-p", "o1", f"void:{auth_id}", auth_id),
            st.sampled_from([*granted, *granted, "A-none"]),
        ),
        st.builds(
            lambda n, amount: RefundPayment("o1-p", "o1", f"ref:o1:r{n}", f"r{n}", amount, "EUR"), number, AMOUNTS
        ),
    )


def possible(world: World) -> list[str]:
    steps = ["request", "request"]
    steps += ["call", "call", "call", "crash"] if world.effects else []
    steps += ["call back"] if world.psp.operations else []
    steps += ["settle"] if world.view().unknown else []
    return steps + (["repeat"] if repeatable(world) else [])


def repeatable(world: World) -> list[Command]:
    """What may be said twice while calls are under way. Of an effect's answer the runtime takes only the first, and by
    the effect's id: a lost call's second answer never meets the call that was made again under the same key."""
    return [command for command in world.done if not isinstance(command, RecordUnknown | RepeatCall)]


async def step(world: World, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, 5))
    match data.draw(st.sampled_from(possible(world))):
        case "request":
            world.tell(data.draw(requests(world)))
        case "call":
            await world.call(index, FAULTS[data.draw(st.sampled_from(sorted(FAULTS)))])
        case "crash":
            await world.call(index, None, crash=True)
        case "call back":
            world.call_back(index)
        case "settle":
            world.settle(index)
        case "repeat":
            world.tell(repeatable(world)[index % len(repeatable(world))])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_books_agree_at_rest_whatever_the_psp_loses(data: st.DataObject) -> None:
    async def story() -> None:
        world = World()
        if data.draw(st.booleans(), "already authorised"):
            world.tell(AUTHORIZED)
            await world.call(0, None)
        for _ in range(data.draw(st.integers(1, 30))):
            await step(world, data)
        await world.rest()
        world.check_books()
        world.check_repeats()
        world.check_books()
        await world.gateway.close()

    asyncio.run(story())
