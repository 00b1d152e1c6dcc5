from libs.runtime.main import main
from services.inventory.service import service

if __name__ == "__main__":
    main("inventory", lambda _settings: service())
