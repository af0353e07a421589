"""The configuration of uvicorn, and a check of the undocumented parts that our protocol relies on."""

import inspect
import logging
import sys
from collections.abc import Sequence
from math import ceil
from typing import Any

import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.server.connection_limits import ConnectionLimits
from app.server.deadlines import ClientLimits
from app.server.forwarded import ProxyHeadersMiddleware
from app.server.request_log import RequestLog
from app.server.zerocopy import IS_POSSIBLE

log = logging.getLogger(__name__)

_METHODS: dict[type, dict[str, list[str]]] = {
    HttpToolsProtocol: {
        "_start_asgi_task": ["self", "cycle", "app"],
        "handle_websocket_upgrade": ["self"],
        "on_message_begin": ["self"],
        "on_header": ["self", "name", "value"],
        "on_headers_complete": ["self"],
        "on_body": ["self", "body"],
        "on_message_complete": ["self"],
        "on_response_complete": ["self"],
        "timeout_keep_alive_handler": ["self"],
    },
    RequestResponseCycle: {"send": ["self", "message"]},
    FlowControl: {"__init__": ["self", "transport"], "drain": ["self"], "resume_reading": ["self"]},
}
_ATTRIBUTES: dict[type, set[str]] = {
    HttpToolsProtocol: {
        "config",
        "cycle",
        "flow",
        "loop",
        "parser",
        "pipeline",
        "scheme",
        "server_state",
        "transport",
    },
    RequestResponseCycle: {
        "body",
        "chunked_encoding",
        "disconnected",
        "expected_content_length",
        "keep_alive",
        "message_event",
        "more_body",
        "on_response",
        "response_complete",
        "response_started",
        "scope",
        "waiting_for_100_continue",
    },
    FlowControl: {"read_paused", "write_paused"},
}


def missing_features() -> list[str]:
    """Return the methods and attributes that this version of uvicorn lacks or has changed."""
    methods = [
        f"{owner.__name__}.{name}"
        for owner, known in _METHODS.items()
        for name, parameters in known.items()
        if list(inspect.signature(getattr(owner, name, missing_features)).parameters) != parameters
    ]
    attributes = [
        f"{owner.__name__}.{name}"
        for owner, names in _ATTRIBUTES.items()
        for name in sorted(names - {*owner.__init__.__code__.co_names})  # type: ignore[misc]
    ]
    return methods + attributes


class UvicornConfig(uvicorn.Config):
    """The configuration of uvicorn, with our protocol unless this version of uvicorn is unexpected."""

    def __init__(
        self,
        app: str,
        *,
        protocol: type[HttpToolsProtocol],
        limits: ClientLimits,
        connections: ConnectionLimits,
        sendfile: bool,
        log_requests: bool,
        name_requests: bool,
        trusted_proxies: Sequence[str] = (),
        **options: Any,
    ) -> None:
        missing = missing_features()
        if missing:
            log.warning(
                "uvicorn %s is not as expected (%s): no zero-copy sending, no deadlines, no request counters",
                uvicorn.__version__,
                ", ".join(missing),
            )
        super().__init__(
            app,
            http="auto" if missing else protocol,
            timeout_keep_alive=ceil(limits.idle),
            access_log=log_requests and bool(missing),  # Exchange logs more
            proxy_headers=False,  # ProxyHeadersMiddleware knows Forwarded, too
            **options,
        )
        self.limits = limits
        self.connections = connections
        self.request_log: RequestLog | None = None
        self._log_requests = log_requests
        self.name_requests = name_requests
        self.sendfile = sendfile and IS_POSSIBLE
        self.trusted_proxies = trusted_proxies

    def load(self) -> None:
        """Load the application, wrap it in ProxyHeadersMiddleware, and open the log of requests.

        With --reload this configuration is pickled, and loaded in another process.
        """
        super().load()
        if self._log_requests:
            self.request_log = RequestLog(sys.stdout.fileno(), "json" if self.name_requests else "line")
        self.loaded_app = ProxyHeadersMiddleware(self.loaded_app, self.trusted_proxies)
