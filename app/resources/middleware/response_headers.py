"""Response headers of every route: CORS (Fetch standard), and nosniff."""

from starlette.datastructures import Headers
from starlette.middleware import cors
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.resources.errors import problem_response

_PRIVATE = "access-control-request-private-network"


class CORSMiddleware(cors.CORSMiddleware):
    """Starlette's middleware, with private networks for the configured sites and problem documents."""

    def preflight_response(self, request_headers: Headers) -> Response:
        named = request_headers["origin"] in self.allow_origins
        if named and _PRIVATE in request_headers:
            # A page of the internet requests an address of a home network (WICG Private Network Access §3.2).
            # Starlette would allow that to every site, `*` too, or to none.
            without = [(name, value) for name, value in request_headers.raw if name != _PRIVATE.encode()]
            response = super().preflight_response(Headers(raw=without))
            response.headers["access-control-allow-private-network"] = "true"
        else:
            response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        kept = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        reason = bytes(response.body).decode()
        return problem_response(response.status_code, f"{reason}; see SEEKABLE_CORS_ORIGINS.", kept)


_NOSNIFF = (b"x-content-type-options", b"nosniff")


class NoSniffMiddleware:
    """Adds nosniff to every response that lacks it.

    Stored files, of which thousands are sent per second, and problem documents have it already.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_nosniff(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                if all(name != _NOSNIFF[0] for name, _ in headers):
                    message = {**message, "headers": [*headers, _NOSNIFF]}
            await send(message)

        await self._app(scope, receive, send_with_nosniff if scope["type"] == "http" else send)
