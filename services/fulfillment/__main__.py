from libs.runtime.door import DoorSettings
from libs.runtime.main import main
from services.fulfillment.gateway import http_gateways
from services.fulfillment.service import service

main(
    "fulfillment",
    lambda settings: service(
        http_gateways(
            settings.warehouse_url,
            settings.carrier_url,
            settings.read(DoorSettings, "OMS_WAREHOUSE_"),
            settings.read(DoorSettings, "OMS_CARRIER_"),
        )
    ),
)
