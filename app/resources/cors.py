"""Which pages of other sites may read answers (Fetch: CORS protocol)."""

from starlette.datastructures import Headers
from starlette.middleware import cors
from starlette.responses import Response

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
