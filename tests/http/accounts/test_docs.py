"""The OpenAPI document and the API docs on a server with accounts."""

import re
from pathlib import Path
from typing import Any

import openapi_spec_validator
import pytest

from app.accounts.models import Scope
from tests.http.accounts.conftest import AccountServer, User, basic, bearer, run_account_server
from tests.http.test_openapi import OPERATION_ID, SUMMARY, keys_of, operation_ids, summaries
from tests.support import NewLibrary

FOR_EVERYBODY = {"/sign-up", "/login", "/health", "/health/live", "/health/ready"}


def test_openapi_describes_authentication(user: User) -> None:
    document = user.request("GET", "/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert {(scheme["type"], scheme.get("scheme") or scheme["in"]) for scheme in schemes.values()} == {
        ("http", "basic"),
        ("http", "bearer"),
        ("apiKey", "cookie"),
        ("apiKey", "query"),
    }
    assert re.fullmatch(r"(__Host-)?seekable-\d+", schemes["session"]["name"])
    operations = [(path, one) for path, all_of in document["paths"].items() for one in all_of.values()]
    assert {path for path, one in operations if one.get("security") == []} == FOR_EVERYBODY
    assert all("401" in one["responses"] for path, one in operations if path not in FOR_EVERYBODY)


def test_operation_ids_are_noun_and_verb(user: User) -> None:
    names = operation_ids(user.request("GET", "/openapi.json").json())
    assert len(names) == len(set(names)) > 25
    assert [name for name in names if not OPERATION_ID.fullmatch(name)] == []


def test_summaries_are_imperative_and_unique(user: User) -> None:
    texts = summaries(user.request("GET", "/openapi.json").json())
    assert len(texts) == len(set(texts)) > 25
    assert [text for text in texts if not SUMMARY.fullmatch(text) or len(text) > 40] == []


def test_document_is_valid(user: User) -> None:
    document = user.request("GET", "/openapi.json").json()
    openapi_spec_validator.validate(document)
    inline = [key for key in keys_of(document["paths"]) if key in ("properties", "enum", "$defs")]
    assert inline == []
    bodies = {"Credentials", "NewAccount", "PasswordChange", "Deletion", "NewLink", "NewInvite", "NewToken"}
    assert bodies | {"Receipt", "Scope"} < set(document["components"]["schemas"])


@pytest.mark.parametrize("scheme", ["session", "password", "token read", "token write", "link", "none"])
def test_operations_accept_documented_credentials_only(account_server: AccountServer, scheme: str) -> None:
    """A request that lacks its body, or names a missing thing, is refused after its credentials are."""
    user = account_server.new_user(is_admin=True)
    user.put("film.mp4")
    document = user.request("GET", "/openapi.json").json()
    headers = headers_of(user, scheme)
    links = {True: user.new_playlist_link("")["url"], False: user.new_link("film.mp4")["url"]}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if operation["operationId"] == "accounts_log_out":
                continue  # it would end the session, and the others would be refused
            target = path.format_map(Names(path="film.mp4" if method == "get" else "missing.mp4"))
            query = "?" + links["playlist" in path].partition("?")[2] if scheme == "link" else ""
            response = account_server.request(method, target + query, headers=headers)
            is_refused = response.status_code in (401, 403)
            assert is_refused is not is_documented(operation, scheme), (method, path, response.status_code)


class Names(dict[str, str]):
    """The values of path parameters."""

    def __missing__(self, name: str) -> str:
        return "missing"


def headers_of(user: User, scheme: str) -> dict[str, str]:
    """Return the headers of a request with these credentials."""
    match scheme.split():
        case ["session"]:
            return user.headers
        case ["password"]:
            return basic(user.email)
        case ["token", scope]:
            return bearer(user.new_token(Scope(scope)))
    return {}


def is_documented(operation: dict[str, Any], scheme: str) -> bool:
    name, _, scope = scheme.partition(" ")
    security: list[dict[str, list[str]]] = operation["security"]
    return security == [] or any(one.get(name) == ([scope] if scope else []) for one in security)


def test_api_docs_need_no_login(account_server: AccountServer, user: User) -> None:
    page = account_server.request("GET", "/docs")
    assert page.status_code == 200
    assert "swagger-ui" in page.text
    for asset in re.findall(r'(?:href|src)="(/assets/[^"]+)"', page.text):
        assert account_server.request("GET", asset).status_code == 200
    document = account_server.request("GET", "/openapi.json")
    assert document.json() == user.request("GET", "/openapi.json").json()
    assert account_server.request("GET", "/files").status_code == 401
    for path in ("/docs/", "/openapi.json/", "/docs/films"):
        assert account_server.request("GET", path).status_code == 401
    for path in ("/docs", "/openapi.json"):
        assert account_server.request("GET", path, headers={"host": "nas.example"}).status_code == 421
        assert account_server.request("PUT", path).status_code == 405


def test_setting_closes_api_docs_until_login(tmp_path: Path, new_library: NewLibrary) -> None:
    with run_account_server(tmp_path, new_library(), api_docs="login") as account_server:
        user = account_server.new_user()
        for path in ("/docs", "/openapi.json"):
            assert account_server.request("GET", path).status_code == 401
            assert account_server.request("GET", path, headers=basic(user.email)).status_code == 200
            assert user.request("GET", path).status_code == 200
            login = account_server.request("GET", path, headers={"accept": "text/html"})
            assert (login.status_code, login.headers["location"]) == (303, f"/login?next={path}")
