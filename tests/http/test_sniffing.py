"""Every JSON response forbids content sniffing."""

from collections.abc import Callable

import httpx

SendRequest = Callable[..., httpx.Response]

PATCH = "Content-Type: application/merge-patch+json"


def test_json_responses_and_problems_forbid_sniffing(
    send_request: SendRequest, http: httpx.Client, folder: str
) -> None:
    path = f"/files/{folder}/film.mp4"
    requests: list[tuple[str, str, tuple[str, ...], bytes | None]] = [
        ("PUT", path, (), b"a film"),
        ("PATCH", path, (PATCH,), b"{}"),
        ("GET", "/files", (), None),
        ("GET", "/health", (), None),
        ("GET", "/health/live", (), None),
        ("GET", "/health/ready", (), None),
        ("GET", "/openapi.json", (), None),
        # Problems raised by routes, the framework, middleware and the server itself.
        ("GET", f"{path}x", (), None),
        ("GET", "/files?limit=x", (), None),
        ("POST", "/files", (), b""),
        ("PATCH", path, (), b"{}"),
        ("PUT", path, ("Origin: https://evil.example",), b""),
        ("GET", "/", ("Host: evil.example",), None),
        ("GET", "/events", (), None),
        ("GET", "/", (f"X: {'x' * 100_000}",), None),
        ("GET", "/", ("no header",), None),
    ]
    for method, target, headers, body in requests:
        response = send_request(method, target, *headers, body=body)
        assert "json" in response.headers["content-type"], (method, target)
        assert response.headers.get_list("x-content-type-options") == ["nosniff"], (method, target)
