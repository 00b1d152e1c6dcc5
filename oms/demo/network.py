"""Stores as locations, with coordinates and a channel by a hash of the store: the data has neither."""

from dataclasses import dataclass

from oms.demo.chance import share

CHANNELS = ("web", "store", "mobile")
LATITUDES = (30.0, 47.0)
LONGITUDES = (-120.0, -76.0)
AROUND = 0.4  # degrees between a store and its customers, at most


@dataclass(frozen=True, kw_only=True)
class Store:
    location: str
    channel: str
    lat: float
    lon: float


def store(seed: int, number: str) -> Store:
    return Store(
        location=f"store-{number}",
        channel=CHANNELS[int(share(seed, "channel", number) * len(CHANNELS))],
        lat=round(_between(LATITUDES, share(seed, "lat", number)), 1),
        lon=round(_between(LONGITUDES, share(seed, "lon", number)), 1),
    )


def near(seed: int, here: Store, basket: str) -> tuple[float, float]:
    """Where a basket goes: a tenth of a degree is as exact as a destination may be."""
    lat = here.lat + AROUND * (2 * share(seed, "north", basket) - 1)
    lon = here.lon + AROUND * (2 * share(seed, "east", basket) - 1)
    return round(lat, 1), round(lon, 1)


def _between(bounds: tuple[float, float], part: float) -> float:
    low, high = bounds
    return low + (high - low) * part
