"""What fulfillment relies on from a warehouse and a carrier: the doubles keep it, and so do the real simulators."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import httpx
import pytest

from libs.runtime.door import DoorSettings, HttpDoor
from libs.runtime.effect import GatewayUnavailable
from libs.testing.fulfillment_gateway import (
    InMemoryCarrier,
    InMemoryWarehouse,
    Kept,
    package,
    release_created,
    shipment_created,
)
from services.fulfillment.gateway import Gateways, HttpCarrier, HttpWarehouse
from simulators.running import running

Party = Literal["warehouse", "carrier"]
Fault = Literal["before_effect", "answer_lost", "garbage"]
PARTIES: tuple[Party, ...] = ("warehouse", "carrier")
FAULTS: tuple[Fault, ...] = ("before_effect", "answer_lost", "garbage")


class World(Protocol):
    """Both parties behind their gateways, and their faults and books beside them."""

    @property
    def gateways(self) -> Gateways: ...

    async def strike(self, party: Party, fault: Fault) -> None:
        """The first call under the next key meets the fault."""

    async def set_away(self, party: Party, away: bool) -> None: ...

    async def refuse_releases(self) -> None: ...

    async def effects(self, party: Party, reference: str) -> int:
        """What the party's books say was done for a release or shipment."""


class Doubles:
    def __init__(self) -> None:
        self.warehouse, self.carrier = InMemoryWarehouse(), InMemoryCarrier()
        self.gateways = Gateways(warehouse=self.warehouse, carrier=self.carrier)

    def _kept(self, party: Party) -> Kept[Any]:
        return self.warehouse.kept if party == "warehouse" else self.carrier.kept

    async def strike(self, party: Party, fault: Fault) -> None:
        self._kept(party).faults.append("before_effect" if fault == "before_effect" else "answer_lost")

    async def set_away(self, party: Party, away: bool) -> None:
        self._kept(party).away = away

    async def refuse_releases(self) -> None:
        self.warehouse.refuses["berlin"] = "node_closed"

    async def effects(self, party: Party, reference: str) -> int:
        return sum(reference in key for key in self._kept(party).answers)


@dataclass(frozen=True)
class Simulators:
    gateways: Gateways
    client: httpx.AsyncClient
    urls: dict[Party, str]

    async def behave(self, party: Party, **rates: Any) -> None:
        (await self.client.put(f"{self.urls[party]}/behaviour", json=rates)).raise_for_status()

    async def calm(self) -> None:
        for party in PARTIES:
            await self.behave(party, away=False, error_rate=0, timeout_after_rate=0, garbage_rate=0)
        await self.behave("warehouse", reject_rate=0)

    async def strike(self, party: Party, fault: Fault) -> None:
        rate = {"before_effect": "error_rate", "answer_lost": "timeout_after_rate", "garbage": "garbage_rate"}[fault]
        await self.behave(party, **{rate: 1})

    async def set_away(self, party: Party, away: bool) -> None:
        await self.behave(party, away=away)

    async def refuse_releases(self) -> None:
        await self.behave("warehouse", reject_rate=1)

    async def effects(self, party: Party, reference: str) -> int:
        ledger = await self.client.get(f"{self.urls[party]}/ledger", params={"reference": reference})
        return len(ledger.json()["rows"])


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Party, str]]:
    folder: Path = tmp_path_factory.mktemp("simulators")
    with running("warehouse", folder) as warehouse, running("carrier", folder) as carrier:
        yield {"warehouse": warehouse.url, "carrier": carrier.url}


@pytest.fixture(params=["doubles", pytest.param("simulators", marks=pytest.mark.integration)])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "doubles":
        yield Doubles()
        return
    urls: dict[Party, str] = request.getfixturevalue("urls")
    impatient = DoorSettings(total_seconds=2)
    doors = {party: HttpDoor(url, impatient) for party, url in urls.items()}
    async with httpx.AsyncClient(trust_env=False) as client:
        gateways = Gateways(warehouse=HttpWarehouse(doors["warehouse"]), carrier=HttpCarrier(doors["carrier"]))
        simulators = Simulators(gateways, client, urls)
        await simulators.calm()
        yield simulators
    for door in doors.values():
        await door.close()


@pytest.fixture
def release_id(request: pytest.FixtureRequest) -> str:
    """Of this test alone: the simulators' books outlive it."""
    return "o1-" + "".join(letter if letter.isalnum() else "-" for letter in request.node.name)


@dataclass(frozen=True)
class Caller:
    """One call to a party, the same each time."""

    world: World
    party: Party
    release_id: str

    @property
    def reference(self) -> str:
        return self.release_id if self.party == "warehouse" else f"{self.release_id}-1"

    async def call(self, **changed: Any) -> object:
        if self.party == "warehouse":
            release = release_created(self.release_id, **changed)
            return await self.world.gateways.warehouse.submit(release, f"rel:{self.release_id}")
        parcel = package(weight=900 if changed else 500)
        shipment = shipment_created(parcel, release_id=self.release_id)
        return await self.world.gateways.carrier.buy_label(shipment, parcel, f"lbl:{self.reference}:p1:1")

    async def effects(self) -> int:
        return await self.world.effects(self.party, self.reference)


@pytest.fixture(params=PARTIES)
def caller(request: pytest.FixtureRequest, world: World, release_id: str) -> Caller:
    return Caller(world, request.param, release_id)


async def test_a_release_is_accepted_once_however_often_it_is_submitted(world: World, release_id: str) -> None:
    release = release_created(release_id)
    answers = [await world.gateways.warehouse.submit(release, f"rel:{release_id}") for _ in range(3)]
    assert answers == [None, None, None]
    assert await world.effects("warehouse", release_id) == 1


async def test_a_refused_release_names_the_same_reason_again(world: World, release_id: str) -> None:
    await world.refuse_releases()
    release = release_created(release_id)
    reasons = [await world.gateways.warehouse.submit(release, f"rel:{release_id}") for _ in range(2)]
    assert reasons[0]
    assert reasons[0] == reasons[1]


async def test_a_label_is_bought_once_however_often_it_is_asked_for(world: World, release_id: str) -> None:
    shipment = shipment_created(release_id=release_id)
    key = f"lbl:{shipment.shipment_id}:p1:1"
    first, again = [await world.gateways.carrier.buy_label(shipment, shipment.packages[0], key) for _ in range(2)]
    assert first == again
    assert first.tracking_number
    assert first.carrier
    assert first.cost > 0
    assert first.currency == "EUR"
    assert await world.effects("carrier", shipment.shipment_id) == 1


async def test_two_packages_have_two_tracking_numbers(world: World, release_id: str) -> None:
    shipment = shipment_created(package("p1"), package("p2"), release_id=release_id)
    labels = [
        await world.gateways.carrier.buy_label(shipment, parcel, f"lbl:{shipment.shipment_id}:{parcel.package_id}:1")
        for parcel in shipment.packages
    ]
    assert labels[0].tracking_number != labels[1].tracking_number
    assert await world.effects("carrier", shipment.shipment_id) == 2


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_call_that_failed_has_one_effect_when_it_is_made_again(caller: Caller, fault: Fault) -> None:
    await caller.world.strike(caller.party, fault)
    with pytest.raises(GatewayUnavailable):
        await caller.call()
    assert await caller.effects() == (0 if fault == "before_effect" else 1)
    assert await caller.call() == await caller.call()
    assert await caller.effects() == 1


async def test_a_party_that_is_away_is_unavailable_and_then_answers(caller: Caller) -> None:
    await caller.world.set_away(caller.party, True)
    with pytest.raises(GatewayUnavailable):
        await caller.call()
    await caller.world.set_away(caller.party, False)
    await caller.call()
    assert await caller.effects() == 1


async def test_another_request_under_the_same_key_gets_no_answer(caller: Caller) -> None:
    await caller.call()
    with pytest.raises(GatewayUnavailable):
        await caller.call(node="hamburg")
    assert await caller.effects() == 1
