"""Which pages of other sites may read answers (Fetch: CORS protocol)."""

from starlette.datastructures import Headers
from starlette.middleware import cors
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.resources.problems import problem

_PRIVATE = "access-control-request-private-network"


class CORSMiddleware(cors.CORSMiddleware):
    """Refuses a preflight as everything else is refused here."""

    def preflight_response(self, request_headers: Headers) -> Response:
        named = request_headers["origin"] in self.allow_origins
        if named and _PRIVATE in request_headers:
            # A page of the internet asks to reach an address at home (WICG Private Network Access 3.2).
            # Starlette would allow that to every site, `*` too, or to none.
            without = [(name, value) for name, value in request_headers.raw if name != _PRIVATE.encode()]
            response = super().preflight_response(Headers(raw=without))
            response.headers["access-control-allow-private-network"] = "true"
        else:
            response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        kept = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        said = bytes(response.body).decode()
        return problem(response.status_code, f"{said}; see SEEKABLE_CORS_ORIGINS.", kept)


_FIELD = (b"x-content-type-options", b"nosniff")


class NoSniffMiddleware:
    """Adds the field to every answer of the routes that lacks it. (Stored files, which are sent thousands of
    times a second, and problems have it without its help.)"""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                if all(name != _FIELD[0] for name, _ in headers):
                    message = {**message, "headers": [*headers, _FIELD]}
            await send(message)

        await self._app(scope, receive, send_marked if scope["type"] == "http" else send)
