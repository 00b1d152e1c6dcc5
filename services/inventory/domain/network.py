"""The network: one stream with every location, where it lies and whether it may serve orders."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import asin, cos, radians, sin, sqrt
from typing import assert_never

from libs.events.base import Destination
from libs.events.inventory import LocationRegistered, NetworkEvent, NodeDisabled, NodeEnabled
from libs.runtime.decider import Aggregate, CommandRejected
from services.inventory.domain.command import DisableNode, EnableNode, RegisterLocation

NetworkFact = LocationRegistered | NodeDisabled | NodeEnabled


@dataclass(frozen=True, slots=True)
class Location:
    name: str
    country: str
    lat: float
    lon: float


@dataclass(frozen=True, slots=True)
class Network:
    """`enabled` are the locations that orders may be served from."""

    locations: dict[str, Location] = field(default_factory=dict)
    enabled: frozenset[str] = frozenset()


def evolve(network: Network, event: NetworkFact) -> Network:
    match event:
        case LocationRegistered():
            # A new location is enabled; new data of a disabled one does not enable it.
            new = {event.location} - network.locations.keys()
            return Network({**network.locations, event.location: _located(event)}, network.enabled | new)
        case NodeDisabled():
            return Network(network.locations, network.enabled - {event.location})
        case NodeEnabled():
            return Network(network.locations, network.enabled | {event.location})
        case _:
            assert_never(event)


NETWORK = Aggregate(category="network", initial_state=Network, evolve=evolve)
MAIN = NETWORK.stream("main")


def register(command: RegisterLocation, network: Network) -> list[NetworkEvent]:
    if network.locations.get(command.location) == _located(command):
        return []
    return [
        LocationRegistered(
            location=command.location, name=command.name, country=command.country, lat=command.lat, lon=command.lon
        )
    ]


def _located(known: RegisterLocation | LocationRegistered) -> Location:
    return Location(known.name, known.country, known.lat, known.lon)


def disable(command: DisableNode, network: Network) -> list[NetworkEvent]:
    require_known(network, [command.location])
    if command.location not in network.enabled:
        return []
    return [NodeDisabled(location=command.location, by=command.by, reason=command.reason)]


def enable(command: EnableNode, network: Network) -> list[NetworkEvent]:
    require_known(network, [command.location])
    if command.location in network.enabled:
        return []
    return [NodeEnabled(location=command.location, by=command.by, reason=command.reason)]


def require_known(network: Network, locations: Iterable[str]) -> None:
    unknown = sorted(set(locations) - network.locations.keys())
    if unknown:
        raise CommandRejected("unknown_location", f"not registered: {', '.join(unknown[:10])}")


def distance_to(destination: Destination, network: Network) -> Callable[[str], float]:
    """Kilometres from a registered location to the destination: haversine on a sphere of the Earth's mean radius.

    Every order measures many locations, so what they share is computed once.
    """
    phi, lam = radians(destination.lat), radians(destination.lon)
    cos_phi = cos(phi)
    locations = network.locations

    def distance(location: str) -> float:
        here = locations[location]
        here_phi = radians(here.lat)
        north, east = sin((here_phi - phi) / 2), sin((radians(here.lon) - lam) / 2)
        return 12742.0 * asin(min(1.0, sqrt(north * north + cos(here_phi) * cos_phi * east * east)))

    return distance
