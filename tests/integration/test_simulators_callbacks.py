"""Signed callbacks of the simulators over real sockets: order, repeats, back-off, a schedule that survives a kill."""

import base64
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from standardwebhooks import Webhook

from simulators.running import Running, running

pytestmark = pytest.mark.integration

SECRET = "whsec_" + base64.b64encode(b"a secret of the simulators' test").decode()
LINES = [{"line_id": "l1", "sku": "SKU1", "qty": 2}]
RELEASE = {"release_id": "rel-1", "order_id": "o-1", "node": "n-1", "lines": LINES}
LABEL = {
    "shipment_id": "s-1",
    "package_id": "s-1-p1",
    "order_id": "o-1",
    "node": "n-1",
    "destination": {"country": "NL"},
    "weight": 1600,
    "lines": LINES,
}
DEADLINE_S = 10.0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.01)


class Receiver:
    """Takes callbacks and keeps those whose signature verifies; answers with `answers` first, then with 204."""

    def __init__(self, answers: Sequence[int] = ()) -> None:
        self.answers = list(answers)
        self.attempts = 0
        self.taken: list[dict[str, Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                event = Webhook(SECRET).verify(body, dict(self.headers))
                assert event["id"] == self.headers["webhook-id"]
                receiver.attempts += 1
                status = receiver.answers.pop(0) if receiver.answers else 204
                if status == 204:
                    receiver.taken.append(event)
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/callbacks/any"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait(self, count: int) -> list[dict[str, Any]]:
        wait_for(lambda: len(self.taken) >= count, f"{count} callbacks")
        return self.taken


class Client(httpx.Client):
    def __init__(self, simulator: Running) -> None:
        super().__init__(base_url=simulator.url, timeout=10, trust_env=False)
        self.simulator = simulator

    def callbacks(self) -> Any:
        """How many, by state."""
        return self.get("/ledger/summary").json()["callbacks"]

    def post_as(self, key: str, path: str, body: dict[str, Any]) -> httpx.Response:
        return self.post(path, json=body, headers={"Idempotency-Key": key})


@contextmanager
def calling(name: str, folder: Path, receiver: Receiver, **settings: object) -> Iterator[Client]:
    secret = folder / "secret"
    secret.write_text(SECRET + "\n")
    signed = {"seed": 7, "callback_url": receiver.url, "callback_secret_file": secret}
    with running(name, folder, **(signed | settings)) as simulator, Client(simulator) as client:
        yield client
    assert "Traceback" not in simulator.log.read_text()


def test_lost_answer_is_told_by_a_signed_callback_until_it_is_taken(tmp_path: Path) -> None:
    tuned = {"callback_delay_ms": 10, "callback_repeat_rate": 1, "timeout_hold_s": 0}
    with Receiver([500, 429, 302]) as receiver, calling("psp", tmp_path, receiver, **tuned) as psp:
        money = {"amount": 5, "currency": "EUR", "token": "tok_timeout_after", "reference": "p"}
        assert psp.post_as("lost", "/v1/authorizations", money).status_code == 504
        first, again = receiver.wait(2)
        assert first == again
        assert first == {
            "id": first["id"],
            "type": "operation.completed",
            "idempotency_key": "lost",
            "reference": "p",
            **psp.get("/v1/operations/lost").json(),
        }
        assert receiver.attempts == 5
        wait_for(lambda: psp.callbacks() == {"sent": 2}, "both to be settled")
        receiver.answers = [400, 400]
        psp.put("/behaviour", json={"callback_rate": 1})
        assert psp.post_as("told", "/v1/authorizations", money | {"token": "tok_visa"}).status_code == 201
        wait_for(lambda: psp.callbacks() == {"sent": 2, "given_up": 2}, "a refusal to be final")


def test_away_receiver_is_found_when_it_comes_back(tmp_path: Path) -> None:
    with (
        Receiver([503] * 1000) as receiver,
        calling("warehouse", tmp_path, receiver, pick_ms=1, pack_ms=1) as warehouse,
    ):
        for number in range(40):
            warehouse.post_as(f"w{number}", "/v1/releases", RELEASE | {"release_id": f"rel-{number}"})
        wait_for(lambda: receiver.attempts > 35, "the courier to notice")
        receiver.answers = []
        told = [event["id"] for event in receiver.wait(80)]
        assert sorted(told) == sorted(f"wh_rel-{number}_{place}" for number in range(40) for place in (1, 2))
        assert all(told.index(f"wh_rel-{number}_1") < told.index(f"wh_rel-{number}_2") for number in range(40))


def test_warehouse_schedule_survives_a_kill(tmp_path: Path) -> None:
    ledger = tmp_path / "warehouse.db"
    with Receiver() as receiver:
        with calling("warehouse", tmp_path, receiver, ledger=ledger, repeat_rate=1, pick_ms=700) as warehouse:
            accepted = warehouse.post_as("w1", "/v1/releases", RELEASE)
            warehouse.simulator.kill()
        assert (accepted.status_code, accepted.json()) == (202, {"release_id": "rel-1", "status": "accepted"})
        assert receiver.taken == []
        with calling("warehouse", tmp_path, receiver, ledger=ledger, reject_rate=1) as warehouse:
            told = receiver.wait(4)
            assert sorted(event["id"] for event in told) == ["wh_rel-1_1"] * 2 + ["wh_rel-1_2"] * 2
            by_type = {event["type"]: event for event in told}
            assert by_type["release.picked"]["lines"] == LINES
            (package,) = by_type["release.packed"]["packages"]
            assert package == {"package_id": "rel-1-p1", "weight": package["weight"], "lines": LINES}
            assert warehouse.post_as("w1", "/v1/releases", RELEASE).content == accepted.content
            assert warehouse.post_as("w2", "/v1/releases", RELEASE).json()["code"] == "release_exists"
            refused = warehouse.post_as("w3", "/v1/releases", RELEASE | {"release_id": "rel-2"})
            assert (refused.status_code, refused.json()["status"]) == (422, "rejected")
            assert refused.json()["reason"] in {"node_closed", "sku_unknown"}


def test_warehouse_may_tell_packed_before_picked(tmp_path: Path) -> None:
    with (
        Receiver() as receiver,
        calling("warehouse", tmp_path, receiver, reorder_rate=1, pick_ms=1, pack_ms=1) as warehouse,
    ):
        warehouse.post_as("w1", "/v1/releases", RELEASE)
        assert [event["id"] for event in receiver.wait(2)] == ["wh_rel-1_2", "wh_rel-1_1"]


def test_carrier_tells_the_journey_of_a_parcel(tmp_path: Path) -> None:
    tuned = {"step_ms": 5, "timeout_hold_s": 0}
    with Receiver() as receiver, calling("carrier", tmp_path, receiver, **tuned) as carrier:

        def journey(key: str, **behaviour: float) -> list[str]:
            carrier.put("/behaviour", json={"lost_rate": 0, "return_rate": 0, "reorder_rate": 0} | behaviour)
            tracking_number = carrier.post_as(key, "/v1/labels", LABEL).json()["tracking_number"]
            wait_for(lambda: set(carrier.callbacks()) == {"sent"}, f"the journey of {key}")
            return [event["status"] for event in receiver.taken if event["tracking_number"] == tracking_number]

        bought = carrier.post_as("c1", "/v1/labels", LABEL)
        assert (bought.status_code, bought.json()["carrier"], bought.json()["currency"]) == (201, "SIMEX", "EUR")
        assert journey("c1") == ["picked_up", "in_transit", "out_for_delivery", "delivered"]
        assert carrier.post_as("c1", "/v1/labels", LABEL).content == bought.content
        assert journey("c2", lost_rate=1) == ["picked_up", "in_transit", "lost"]
        returned = ["picked_up", "in_transit", "out_for_delivery", "delivery_failed", "return_to_sender"]
        assert journey("c3", return_rate=1) == returned
        shuffled = journey("c4", return_rate=1, reorder_rate=1)
        assert shuffled != returned
        assert sorted(shuffled) == sorted(returned)
        carrier.put("/behaviour", json={"timeout_after_rate": 1})
        assert carrier.post_as("c5", "/v1/labels", LABEL).status_code == 504
        assert carrier.get("/v1/operations/c5").json()["status_code"] == 201
