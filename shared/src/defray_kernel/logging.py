"""One JSON line per log entry, ours and the libraries', with secrets masked and control characters escaped."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from defray_kernel import redaction

_OURS = frozenset({"event", "level", "timestamp", "service", "logger", "role"})


def configure(service: str, level: str, stream: TextIO | None = None) -> None:
    """Send everything to one stream (standard output) from `level` up; structlog and the standard library alike."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            lambda _logger, _method, entry: {"service": service, **entry},
            _redact,
            structlog.processors.JSONRenderer(sort_keys=False),
        ],
    )
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("uvicorn", "uvicorn.error", "uvicorn.access", "aiokafka", "asyncio"):
        logger = logging.getLogger(chatty)
        logger.handlers.clear()
        logger.propagate = True
        # uvicorn warns of every unreadable request, which lets a stranger fill the log; it is counted instead.
        logger.setLevel(logging.ERROR if chatty.startswith("uvicorn") else max(logging.WARNING, root.level))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(root.level),
        cache_logger_on_first_use=True,
    )


def _redact(_logger: object, _method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {redaction.clean(str(key)): _fit(str(key), value) for key, value in entry.items()}


def _fit(key: str, value: object) -> object:
    if key == "exception":
        return redaction.clean(str(value), characters_max=16_000, keep="\n")
    return redaction.clean(value) if key in _OURS and isinstance(value, str) else redaction.redact(value, key)
