from libs.runtime.main import main
from services.fulfillment.gateway import GatewaySettings, http_gateways
from services.fulfillment.service import service

main(
    "fulfillment",
    lambda settings: service(
        http_gateways(
            settings.warehouse_url,
            settings.carrier_url,
            settings.read(GatewaySettings, "OMS_WAREHOUSE_"),
            settings.read(GatewaySettings, "OMS_CARRIER_"),
        )
    ),
)
