"""The payment service: holds, takes, lets go and gives back money at the PSP when the order asks for it."""

from libs.events.topics import ORDER_EVENTS
from libs.runtime.service import Effects, Service
from services.payment.api import router
from services.payment.domain.command import Command
from services.payment.domain.decider import PaymentTerms, decider
from services.payment.effects import follow, perform
from services.payment.gateway import PaymentGateway, PspSettings
from services.payment.policy import WANTS, react
from services.payment.views import PAYMENT_VIEW


def service(
    gateway: PaymentGateway, terms: PaymentTerms | None = None, psp: PspSettings | None = None
) -> Service[Command]:
    psp = psp or PspSettings()
    return Service(
        name="payment",
        subscribes=[ORDER_EVENTS],
        wants=WANTS,
        decider=decider(terms or PaymentTerms()),
        react=react,
        effects=Effects(
            follow=follow, perform=perform, gateway=gateway, concurrency=psp.connections, close=gateway.close
        ),
        projections=[PAYMENT_VIEW],
        router=router(psp),
    )
