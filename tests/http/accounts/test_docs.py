"""The OpenAPI document and the API docs on a server with accounts."""

from tests.http.accounts.conftest import AccountServer, User
from tests.http.test_openapi import OPERATION_ID, operation_ids

FOR_EVERYBODY = {"/sign-up", "/login", "/health", "/health/live", "/health/ready"}


def test_openapi_describes_authentication(account_server: AccountServer, user: User) -> None:
    assert account_server.request("GET", "/openapi.json").status_code == 401
    document = user.request("GET", "/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert {(scheme["type"], scheme["scheme"]) for scheme in schemes.values()} == {
        ("http", "basic"),
        ("http", "bearer"),
    }
    assert {name for each in document["security"] for name in each} == set(schemes)
    operations = [(path, one) for path, all_of in document["paths"].items() for one in all_of.values()]
    assert {path for path, one in operations if one.get("security") == []} == FOR_EVERYBODY
    assert all("401" in one["responses"] for path, one in operations if path not in FOR_EVERYBODY)


def test_operation_ids_are_noun_and_verb(user: User) -> None:
    names = operation_ids(user.request("GET", "/openapi.json").json())
    assert len(names) == len(set(names)) > 25
    assert [name for name in names if not OPERATION_ID.fullmatch(name)] == []


def test_console_requires_login(account_server: AccountServer, user: User) -> None:
    assert account_server.request("GET", "/docs").status_code == 401
    page = user.request("GET", "/docs")
    assert page.status_code == 200
    assert "swagger-ui" in page.text
