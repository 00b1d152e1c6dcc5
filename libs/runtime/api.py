"""The HTTP side of a service: what routers use to send commands and read views."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ConfigDict

from libs.runtime.projection import Projection

V = TypeVar("V", bound=BaseModel)
M = TypeVar("M", bound=BaseModel)


class Body(BaseModel):
    """A request body: strict types, unknown fields refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Receipt(BaseModel):
    """What a write answers: the stream it wrote, the version it is at now, and the types of the events appended.

    `token` may be given back as `min_version` to a GET, which then waits until the view has seen it.
    """

    stream_id: str
    stream_version: int
    events: list[str]
    token: str


class Page(BaseModel, Generic[V]):
    items: list[V]
    next_cursor: str | None = None


class Problem(Exception):
    """An answer that is not a success: RFC 9457 problem+json with a stable `code`."""

    def __init__(self, status: int, code: str, detail: str = "", errors: Sequence[Mapping[str, str]] = ()) -> None:
        super().__init__(detail or code)
        self.status, self.code, self.detail, self.errors = status, code, detail, errors


class CommandDoor:
    """Sends one command of this request down the one road of writing, under the request's Idempotency-Key."""

    async def handle(self, command: Any, *, key: str | None = None) -> Receipt:
        """The answer of a command, the same for the same key. Raises CommandRejected (mapped to 409)."""
        raise NotImplementedError


class ViewDoor:
    """Reads views; waits for the request's `min_version` first."""

    async def get(self, projection: Projection[V], key: str) -> V:
        """Raises Problem 404 `not_found`."""
        raise NotImplementedError

    async def page(self, projection: Projection[V], where: Mapping[str, str]) -> Page[V]:
        """Rows whose indexed fields equal `where`, in order of key; `limit` and `cursor` come from the query."""
        raise NotImplementedError


class SignedCallback:
    """A callback whose signature was right: its id, and its body on demand."""

    id: str

    def read(self, model: type[M]) -> M:
        """Raises Problem 422 when the body is not of this shape."""
        raise NotImplementedError


async def command_door(request: Request) -> CommandDoor:
    raise NotImplementedError


async def view_door(request: Request) -> ViewDoor:
    raise NotImplementedError


async def signed_callback(request: Request) -> SignedCallback:
    raise NotImplementedError


Commands = Annotated[CommandDoor, Depends(command_door)]
Views = Annotated[ViewDoor, Depends(view_door)]
Callback = Annotated[SignedCallback, Depends(signed_callback)]
