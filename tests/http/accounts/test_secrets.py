"""Credentials are neither in the log nor, unhashed, in the database."""

from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, inspect, text

from tests.http.accounts.conftest import NUMBERS, AccountServer, basic, bearer
from tests.support import each_backend, mongo
from tests.support.sockets import Socket


@each_backend
def test_credentials_are_not_in_log_or_database(account_server: AccountServer, admin: Any) -> None:
    password = f"very secret words {next(NUMBERS)} é"
    new = f"other secret words {next(NUMBERS)}"
    email = f"secretive-{next(NUMBERS)}@example.org"
    signed_up = account_server.request("POST", "/sign-up", json={"email": email, "password": password})
    sessions = [signed_up.headers["set-cookie"].partition("=")[2].partition(";")[0]]
    mine = account_server.cookie(sessions[0])
    token = account_server.request(
        "POST", "/account/tokens", json={"name": "VLC", "scopes": ["read"]}, headers=mine
    ).json()["token"]
    invite = admin.request("POST", "/invites", json={}).json()["url"].partition("invite=")[2]
    assert account_server.request("GET", f"/sign-up?invite={invite}").status_code == 200
    account_server.request("GET", f"/login?next=%2Fsign-up%3Finvite%3D{invite}")
    account_server.request("PUT", "/files/film.mp4", content=b"x", headers=mine)
    link = account_server.request("POST", "/account/links", json={"path": "film.mp4"}, headers=mine).json()[
        "url"
    ]
    signature = link.rpartition(".")[2]
    assert account_server.open_link(link).status_code == 200
    account_server.request("GET", f"{link}x")
    account_server.request("GET", f"/files/none.mp4?a=1&link={link.partition('link=')[2]}&b=2")
    account_server.request("GET", f"/files?link={signature}.{signature}", headers={"accept": "text/html"})
    account_server.request("POST", "/login", data={"email": email, "password": f"{password} wrong"})
    account_server.request(
        "POST",
        "/login",
        content=f'{{"password": "{password}", '.encode(),
        headers={"content-type": "application/json"},
    )
    for headers in (basic(email, password), bearer(token), bearer(f"{token}x"), mine):
        account_server.request("GET", "/files/film.mp4", headers=headers)
        account_server.request("GET", "/nothing", headers=headers)
    changed = account_server.request(
        "POST", "/account/password", json={"password": password, "new_password": new}, headers=mine
    )
    sessions.append(changed.headers["set-cookie"].partition("=")[2].partition(";")[0])
    secrets = {
        "password": password,
        "new password": new,
        "token": token,
        "token without its prefix": token.removeprefix("skb_"),
        "invite": invite,
        "first session": sessions[0],
        "second session": sessions[1],
        "signature": signature,
        "credentials": basic(email, password)["Authorization"].removeprefix("Basic "),
    }
    for headers in ((), (f"Cookie: session={sessions[1]}",)):
        query = link.partition("?")[2]
        with Socket(account_server.server, f"/events?{query}", *headers) as refused:
            assert refused.status == 403
    log, database = account_server.server.log(), database_text(account_server)
    assert email in database, "the dump covers the accounts"
    assert "/files/film.mp4" in log
    for name, secret in secrets.items():
        assert len(secret) > 10
        assert secret not in log, name
        assert secret not in database, name
    assert "$argon2id$" in database
    assert "Traceback" not in log


def database_text(account_server: AccountServer) -> str:
    """Return the whole database as text; of SQLite, the bytes of its files."""
    settings = account_server.server.settings
    if settings["storage"] == "gridfs":
        users = mongo.database(settings["users_url"])
        names = users.list_collection_names()
        return repr([[*users[name].find()] for name in names])
    if "database_url" in settings:
        engine = create_engine(settings["database_url"])
        try:
            with engine.connect() as connection:
                tables = inspect(connection).get_table_names()
                return repr([connection.execute(text(f'SELECT * FROM "{name}"')).all() for name in tables])
        finally:
            engine.dispose()
    folder = Path(settings["files_dir"]) / ".seekable"
    files = sorted(folder.glob("seekable.db*"))
    assert files
    return "".join(path.read_bytes().decode("utf-8", "replace") for path in files)
