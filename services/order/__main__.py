from libs.runtime.main import main
from services.order.domain.timers import OrderTimers
from services.order.service import service

if __name__ == "__main__":
    main("order", lambda settings: service(settings.read(OrderTimers, "OMS_ORDER_")))
