from libs.runtime.main import main
from services.payment.domain.decider import PaymentTerms
from services.payment.gateway import HttpPaymentGateway, PspSettings
from services.payment.service import service

main(
    "payment",
    lambda settings: service(
        HttpPaymentGateway(settings.psp_url, settings.read(PspSettings, "OMS_PSP_")),
        settings.read(PaymentTerms, "OMS_PAYMENT_"),
        settings.read(PspSettings, "OMS_PSP_"),
    ),
)
