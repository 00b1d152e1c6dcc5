"""The internal doors of running services: found by the local cluster's state, or by the addresses given."""

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from oms.cluster.settings import ClusterSettings
from oms.cluster.state import ClusterState, StateDirectory

SECONDS = httpx.Timeout(300.0, connect=5.0)
"""A large topic takes its time to be put back into the outbox."""
PAGE = 200


class DoorError(Exception):
    """What an operator's command could not do, in words for the operator; `code` is the service's own."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Door:
    """One service's internal door. `topics` it reads and `owned` ones it writes."""

    service: str
    url: str
    topics: tuple[str, ...] = ()
    owned: tuple[str, ...] = ()

    def get(self, path: str, **query: Any) -> Any:
        return _asked("GET", self.url, path, params=query)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The same key for every try: a request whose answer was lost is repeated without a second effect."""
        headers = {"idempotency-key": f"oms-{uuid.uuid4()}"}
        for _ in range(2):
            try:
                return _asked("POST", self.url, path, json=body, headers=headers)
            except DoorError as error:
                if error.code not in ("lost", "unavailable", "busy"):
                    raise
        return _asked("POST", self.url, path, json=body, headers=headers)

    def pages(self, path: str) -> Iterator[dict[str, Any]]:
        query: dict[str, Any] = {"limit": PAGE}
        while True:
            page = self.get(path, **query)
            yield from page["items"]
            if page["next_cursor"] is None:
                return
            query["cursor"] = page["next_cursor"]


def _asked(method: str, url: str, path: str, **options: Any) -> Any:
    try:
        with httpx.Client(base_url=url, timeout=SECONDS, trust_env=False, headers=_shown_key()) as client:
            answer = client.request(method, path, **options)
    except httpx.ConnectError as error:
        raise DoorError(f"{url} does not answer: {error}. Is the service running?") from None
    except httpx.HTTPError as error:
        raise DoorError(f"{url}: no answer to {method} {path}: {type(error).__name__}", "lost") from None
    if answer.is_success:
        return answer.json()
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    code = str(problem.get("code", answer.status_code)) if isinstance(problem, dict) else str(answer.status_code)
    if code in ("key_missing", "key_invalid", "scope_missing"):
        raise DoorError(f"{url} says {code}: let OMS_OPERATOR_KEY_FILE name a file with an operator's API key.", code)
    detail = problem.get("detail", "") if isinstance(problem, dict) else ""
    wrong = "; ".join(f"{one['field']}: {one['message']}" for one in problem.get("errors", ())) if detail else ""
    raise DoorError(f"{url} says {code}: {detail}{' (' + wrong + ')' if wrong else ''}", code)


def _shown_key() -> Mapping[str, str]:
    """The operator's own API key, from the file that OMS_OPERATOR_KEY_FILE names. Raises OSError."""
    file = os.environ.get("OMS_OPERATOR_KEY_FILE")
    return {"authorization": f"Bearer {Path(file).read_text().strip()}"} if file else {}


def state_of_cluster() -> ClusterState:
    directory = StateDirectory(ClusterSettings().state_dir)
    state = directory.read()
    if state is None or not state.running:
        raise DoorError(
            f"No cluster runs on {directory.path}. 'oms up' starts one; OMS_STATE_DIR names another; "
            "--url names services that run elsewhere."
        )
    return state


def doors(urls: Sequence[str]) -> list[Door]:
    """The doors at these addresses, or those of the local cluster. Raises DoorError when one does not answer."""
    if not urls:
        urls = [service.url for service in state_of_cluster().services.values() if service.url]
    return [_met(url.rstrip("/")) for url in urls]


def door(service: str, urls: Sequence[str]) -> Door:
    found = {one.service: one for one in doors(urls)}
    if service not in found:
        raise DoorError(f"There is no service {service!r}; there are {', '.join(sorted(found))}.")
    return found[service]


def _met(url: str) -> Door:
    told = _asked("GET", url, "/internal/wiring")
    return Door(told["service"], url, tuple(told["subscribes"]), tuple(told["publishes"]))
