"""The configuration of uvicorn for our server."""

import asyncio
import sys
from collections.abc import Sequence
from math import ceil
from typing import Any

import uvicorn

from app.server.connection_limits import ConnectionLimits
from app.server.deadlines import ClientLimits
from app.server.fast_path import FastPath
from app.server.forwarded import ProxyHeadersMiddleware
from app.server.request_log import RequestLog
from app.server.zerocopy import IS_POSSIBLE


class UvicornConfig(uvicorn.Config):
    """The configuration of uvicorn, with our protocol and limits."""

    def __init__(
        self,
        app: str,
        *,
        protocol: type[asyncio.Protocol],
        limits: ClientLimits,
        connections: ConnectionLimits,
        sendfile: bool,
        fast_path: bool,
        log_requests: bool,
        name_requests: bool,
        trusted_proxies: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(
            app,
            http=protocol,
            timeout_keep_alive=ceil(limits.idle),
            access_log=False,  # Exchange logs more
            proxy_headers=False,  # ProxyHeadersMiddleware knows Forwarded, too
            **options,
        )
        self.limits = limits
        self.connections = connections
        self.request_log: RequestLog | None = None
        self._log_requests = log_requests
        self.name_requests = name_requests
        self.sendfile = sendfile and IS_POSSIBLE
        self.fast_path = FastPath() if fast_path and self.sendfile else None
        self.trusted_proxies = trusted_proxies

    def load(self) -> None:
        """Load the application, wrap it in ProxyHeadersMiddleware, and open the log of requests.

        With --reload this configuration is pickled, and loaded in another process.
        """
        super().load()
        if self._log_requests:
            self.request_log = RequestLog(sys.stdout.fileno(), "json" if self.name_requests else "line")
        self.loaded_app = ProxyHeadersMiddleware(self.loaded_app, self.trusted_proxies)
