"""Keep browsers from taking an answer for another type than it declares (Fetch: X-Content-Type-Options)."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
