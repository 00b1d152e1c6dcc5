"""The PSP simulator over real sockets."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest

from simulators.behaviour import Shape
from simulators.running import running

pytestmark = pytest.mark.integration


class Client(httpx.Client):
    def __init__(self, url: str) -> None:
        super().__init__(base_url=url, timeout=10, trust_env=False)

    def post_as(self, key: str, path: str, body: dict[str, Any] | None = None, **options: Any) -> httpx.Response:
        return self.post(path, json=body, headers={"Idempotency-Key": key}, **options)

    def authorise(self, key: str, token: str = "tok_visa", amount: int = 1000, **options: Any) -> httpx.Response:
        body = {"amount": amount, "currency": "EUR", "token": token, "reference": f"pay-{token}"}
        return self.post_as(key, "/v1/authorizations", body, **options)

    def look_up(self, key: str) -> httpx.Response:
        return self.get(f"/v1/operations/{key}")

    def summary(self) -> Any:
        return self.get("/ledger/summary").json()


@contextmanager
def started(name: str, folder: Path, **settings: object) -> Iterator[Client]:
    with running(name, folder, **({"seed": 7} | settings)) as simulator, Client(simulator.url) as client:
        yield client
    assert simulator.process.returncode == 0
    assert "Traceback" not in simulator.log.read_text()


@pytest.fixture(scope="module")
def psp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("psp")
    with started("psp", folder, ledger=folder / "psp.db", timeout_hold_s=20) as client:
        yield client


def test_repeated_key_replays_the_same_bytes_and_has_one_effect(psp: Client) -> None:
    first, again = psp.authorise("replay"), psp.authorise("replay")
    assert (first.status_code, first.content) == (201, again.content)
    assert psp.look_up("replay").json() == {"operation": "authorize", "status_code": 201, "body": first.json()}
    rows = [row for row in psp.get("/ledger?limit=1000").json()["rows"] if row["idempotency_key"] == "replay"]
    assert [row["attempts"] for row in rows] == [2]


def test_known_key_with_another_body_is_refused(psp: Client) -> None:
    assert psp.authorise("mismatch").status_code == 201
    other = psp.authorise("mismatch", amount=1001)
    assert (other.status_code, other.json()) == (422, {"code": "idempotency_mismatch"})


def test_bad_requests_are_answered_with_a_code(psp: Client) -> None:
    assert psp.post("/v1/authorizations", json={}).json()["code"] in {"idempotency_key_missing", "invalid_request"}
    assert psp.authorise("negative", amount=-1).json()["code"] == "invalid_request"
    assert psp.look_up("negative").json() == {"code": "not_found"}
    assert psp.get("/v1/nothing").json() == {"code": "no_such_route"}, "which must not read as: no effect"
    money = {"amount": 1, "currency": "EUR", "reference": "r"}
    assert psp.post("/v1/authorizations/none/void").json() == {"code": "idempotency_key_missing"}
    unknown = psp.post_as("unknown", "/v1/authorizations/none/captures", money)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "authorization_not_found")
    assert psp.put("/behaviour", json={"decline_rate": 2}).json()["code"] == "invalid_behaviour"


@pytest.mark.parametrize(
    ("token", "first", "second"),
    [
        ("tok_decline", (402, "card_declined", False), (402, "card_declined", False)),
        ("tok_decline_retryable", (402, "issuer_unavailable", True), (402, "issuer_unavailable", True)),
        ("tok_decline_once", (402, "issuer_unavailable", True), (201, None, None)),
        ("tok_insufficient_once", (402, "insufficient_funds", False), (201, None, None)),
    ],
)
def test_magic_token_declines_as_it_says(psp: Client, token: str, first: object, second: object) -> None:
    def fate(key: str) -> tuple[int, Any, Any]:
        answer = psp.authorise(key, token)
        return answer.status_code, answer.json().get("code"), answer.json().get("retryable")

    assert fate(f"{token}-1") == first
    assert fate(f"{token}-2") == second
    assert fate(f"{token}-1") == first, "a decline is replayed as well"


def test_timeout_after_leaves_an_effect_that_a_look_up_finds(psp: Client) -> None:
    with pytest.raises(httpx.ReadTimeout):
        psp.authorise("after", "tok_timeout_after", timeout=0.3)
    found = psp.look_up("after")
    assert (found.status_code, found.json()["status_code"]) == (200, 201)
    assert psp.authorise("after", "tok_timeout_after").json() == found.json()["body"]


def test_timeout_before_leaves_none_and_a_retry_succeeds(psp: Client) -> None:
    with pytest.raises(httpx.ReadTimeout):
        psp.authorise("before", "tok_timeout_before", timeout=0.3)
    assert psp.look_up("before").status_code == 404
    assert psp.authorise("before", "tok_timeout_before").status_code == 201


def test_error_has_no_effect_and_garbage_hides_one(psp: Client) -> None:
    assert psp.authorise("error", "tok_error_once").status_code == 500
    assert psp.look_up("error").status_code == 404
    assert psp.authorise("error", "tok_error_once").status_code == 201
    garbage = psp.authorise("garbage", "tok_garbage_once")
    assert (garbage.status_code, garbage.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert psp.look_up("garbage").json()["body"] == psp.authorise("garbage", "tok_garbage_once").json()


@pytest.mark.parametrize("shape", get_args(Shape))
def test_garbage_of_every_shape_hides_an_effect(psp: Client, shape: str) -> None:
    psp.put("/behaviour", json={"garbage": shape})
    answer = psp.authorise(f"shape-{shape}", "tok_garbage_once")
    found = psp.look_up(f"shape-{shape}").json()
    assert (found["status_code"], found["body"]["amount"]) == (201, 1000)
    assert answer.content != psp.authorise(f"shape-{shape}", "tok_garbage_once").content
    psp.put("/behaviour", json={"garbage": "html"})


def test_captures_voids_and_refunds_keep_the_books(psp: Client) -> None:
    def move(key: str, id_: str, operation: str, amount: int, currency: str = "EUR") -> tuple[int, Any]:
        body = {"amount": amount, "currency": currency, "reference": "books"}
        answer = psp.post_as(key, f"/v1/authorizations/{id_}/{operation}", body)
        return answer.status_code, answer.json().get("code", answer.json()["status"])

    held, freed, stiff = (
        psp.authorise(f"books-{token}", token).json()["id"] for token in ("tok_a", "tok_b", "tok_capture_fails")
    )
    assert move("b1", held, "captures", 600) == (201, "captured")
    assert move("b2", held, "captures", 401) == (409, "amount_too_large")
    assert move("b3", held, "captures", 400, "USD") == (409, "currency_mismatch")
    assert move("b4", held, "captures", 400) == (201, "captured")
    assert move("b5", held, "refunds", 1001) == (409, "amount_too_large")
    assert move("b6", held, "refunds", 250) == (201, "refunded")
    assert psp.post_as("b7", f"/v1/authorizations/{held}/void").json()["code"] == "already_captured"
    assert psp.post_as("b8", f"/v1/authorizations/{freed}/void").json() == {"id": freed, "status": "voided"}
    assert psp.post_as("b9", f"/v1/authorizations/{freed}/void").status_code == 200
    assert move("b10", freed, "captures", 1) == (409, "authorization_closed")
    assert move("b11", stiff, "captures", 1) == (402, "capture_declined")
    columns = ("authorised", "captured", "refunded", "voided")
    rows = {row["authorization_id"]: row for row in psp.get("/ledger/balances?limit=1000").json()["rows"]}
    assert [rows[held][column] for column in columns] == [1000, 1000, 250, 0]
    assert [rows[freed][column] for column in columns] == [1000, 0, 0, 1000]
    assert psp.summary()["balanced"] is True


def test_away_closes_connections_and_comes_back(psp: Client) -> None:
    psp.put("/behaviour", json={"away": True})
    with pytest.raises(httpx.TransportError):
        psp.look_up("anything")
    assert psp.put("/behaviour", json={"away": False}).json()["away"] is False
    assert psp.authorise("back").status_code == 201


def test_same_seed_gives_the_same_fates_in_any_order(tmp_path: Path) -> None:
    rates = {"decline_rate": 0.4, "error_rate": 0.2, "rate_limit_rate": 0.2, "garbage_rate": 0.2}
    keys = [f"key-{number}" for number in range(60)]

    def fates(folder: Path, order: list[str], **settings: object) -> dict[str, tuple[int, bool]]:
        folder.mkdir()
        with started("psp", folder, **settings) as psp:
            return {key: ((answer := psp.authorise(key)).status_code, "id" in answer.text) for key in order}

    one = fates(tmp_path / "one", keys, **rates)
    assert one == fates(tmp_path / "two", keys[::-1], **rates)
    assert one != fates(tmp_path / "three", keys, seed=8, **rates)
    assert {status for status, _ in one.values()} == {200, 201, 402, 429, 500}
