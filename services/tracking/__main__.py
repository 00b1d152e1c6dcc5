from libs.runtime.main import main
from services.tracking.service import service

if __name__ == "__main__":
    main("tracking", lambda settings: service())
