"""HTTP to one outside party: JSON under idempotency keys, no redirects or proxies, answers bounded in time and size."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
from pydantic import BaseModel, ConfigDict, Field

from libs.runtime.effect import GatewayUnavailable


class DoorSettings(BaseModel):
    """How one outside party is called."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    connect_seconds: Annotated[float, Field(gt=0, le=60)] = 2
    """How long a connection may take to come up: until then the call has surely had no effect."""
    read_seconds: Annotated[float, Field(gt=0, le=300)] = 5
    """How long the other side may be silent."""
    total_seconds: Annotated[float, Field(gt=0, le=300)] = 10
    """Bounds a whole call, however slowly its answer drips."""
    connections: Annotated[int, Field(ge=1, le=1000)] = 32
    """The most calls at once."""
    body_limit: Annotated[int, Field(ge=1)] = 1_000_000
    """The most bytes of an answer; a longer one is not believed."""


class CallLost(Exception):
    """The call left and no whole answer came back: it may or may not have had its effect."""


@dataclass(frozen=True, slots=True)
class Answered:
    status: int
    body: bytes


class HttpDoor:
    def __init__(self, url: str, settings: DoorSettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        self._client = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(settings.read_seconds, connect=settings.connect_seconds),
            limits=httpx.Limits(max_connections=settings.connections),
            # A compressed answer could unpack to any size: it is not asked for.
            headers={"accept": "application/json", "accept-encoding": "identity"},
            follow_redirects=False,
            trust_env=False,  # no proxy by accident: settings say where goods and money go
            transport=transport,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def call(self, method: str, path: str, key: str = "", body: Mapping[str, Any] | None = None) -> Answered:
        """Raises GatewayUnavailable where nothing was sent, CallLost where nobody knows."""
        headers = {"idempotency-key": key} if key else {}
        try:
            async with (
                asyncio.timeout(self._settings.total_seconds),
                self._client.stream(method, path, json=body, headers=headers) as response,
            ):
                return Answered(response.status_code, await self._bounded(response))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise GatewayUnavailable(type(error).__name__) from error
        except (httpx.HTTPError, TimeoutError) as error:
            raise CallLost(type(error).__name__) from error

    async def _bounded(self, response: httpx.Response) -> bytes:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise CallLost("compressed answer")
        body = bytearray()
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > self._settings.body_limit:
                raise CallLost("answer over the limit of size")
        return bytes(body)
