"""How operators' commands answer: JSON for programs, one clear red line for what went wrong."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import asyncpg
import httpx
import typer
from aiokafka.errors import KafkaError
from pydantic import ValidationError
from rich.console import Console

from oms.cluster.process import ClusterError
from oms.operate.doors import DoorError

errors = Console(stderr=True, highlight=False)
Json = Annotated[bool, typer.Option("--json", help="The same as JSON, for programs.")]


@contextmanager
def failing() -> Iterator[None]:
    """What operators can do something about is told in a line and ends the command with 1."""
    try:
        yield
    except (DoorError, ClusterError, OSError, UnicodeDecodeError) as error:
        _end(str(error))
    except ValidationError as error:
        _end("; ".join(f"OMS_{'_'.join(map(str, one['loc'])).upper()}: {one['msg']}" for one in error.errors()))
    except (KafkaError, TimeoutError, asyncpg.PostgresError, httpx.HTTPError) as error:
        _end(f"{type(error).__name__}: {error}")


def _end(words: str) -> None:
    errors.print(words, style="red", markup=False, soft_wrap=True)
    raise typer.Exit(1) from None


def print_json(data: Any) -> None:
    typer.echo(json.dumps(data, indent=2))
