"""Which pages of other sites may read answers (Fetch: CORS protocol)."""

from starlette.datastructures import Headers
from starlette.middleware import cors
from starlette.responses import Response

from app.resources.problems import problem


class CORSMiddleware(cors.CORSMiddleware):
    """Refuses a preflight as everything else is refused here."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        kept = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        said = bytes(response.body).decode()
        return problem(response.status_code, f"{said}; see SEEKABLE_CORS_ORIGINS.", kept)
