"""Log lines: JSON on stdout, our own and those of libraries, with no way in for what a request or an order says."""

import json
import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import asyncpg
import orjson
import structlog
from opentelemetry import trace
from pydantic import ValidationError
from structlog.stdlib import ProcessorFormatter
from structlog.types import Processor

from libs.events.codec import describe

_FRAMES = 20


def words_of(error: BaseException) -> str:
    """Type and message of an error; without a message that would repeat what it was given."""
    name = type(error).__name__
    if isinstance(error, ValidationError):
        return f"{name}: {describe(error)}"
    if isinstance(error, asyncpg.PostgresError):
        return f"{name} {error.sqlstate or ''}"
    return name if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError) else f"{name}: {error}"


def configure(service: str, level: str) -> None:
    """Of libraries only warnings and worse: below that they may tell whole records."""

    def named(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        line["service"] = service
        return line

    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        named,
        _traced,
        _without_values,
    ]
    structlog.configure(
        processors=[*common, _rendered],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *common],
            processors=[ProcessorFormatter.remove_processors_meta, _rendered],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)


def _rendered(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> str:
    try:
        return orjson.dumps(line, default=str).decode()
    except TypeError:  # half a surrogate, a number beyond 64 bits: slower, and it bears anything
        return json.dumps(line, default=str)


def _traced(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        line["trace_id"], line["span_id"] = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    return line


def _without_values(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """An exception as what and where, with its causes. No values of variables, no lines of source."""
    found = line.pop("exc_info", None)
    error = sys.exc_info()[1] if found is True else found[1] if isinstance(found, tuple) else found
    if not isinstance(error, BaseException):
        return line
    told: list[dict[str, Any]] = []
    line["exceptions"] = told
    while error is not None and len(told) < _FRAMES:
        told.append({"what": words_of(error), "where": _frames(error)})
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return line


def _frames(error: BaseException) -> list[str]:
    frames = []
    at = error.__traceback__
    while at is not None:
        code = at.tb_frame.f_code
        frames.append(f"{code.co_filename}:{at.tb_lineno} {code.co_name}")
        at = at.tb_next
    return frames[-_FRAMES:]
