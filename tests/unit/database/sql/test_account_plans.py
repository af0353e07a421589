"""Statements of the account store use indexes. (On MongoDB, the contract tests run on a server that refuses
table scans.)"""

from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import event, make_url

from app.accounts.login_limits import Bucket
from app.database.sql.accounts import SqlAccounts
from app.database.sql.opening import migrate
from app.database.sql.sqlite import Sqlite
from tests.contracts.test_accounts import NOW, make_account, make_invite, make_link, make_session, make_token

# Statements that may read a table: short lists that are read whole; a check for any row; and a check for an
# account that stays, which the first row nearly always satisfies.
ALLOWED_SCANS = (
    "FROM invite ORDER BY",
    "FROM signing_key",
    "count(*)",
    "IS NOT NULL LIMIT",
    "WHERE account.leaving = 0 LIMIT",
)


def test_account_statements_scan_no_table(tmp_path: Path) -> None:
    database = Sqlite(make_url(f"sqlite:///{tmp_path}/test.db"))
    migrate(database)
    sent: list[tuple[str, Any]] = []
    event.listen(
        database.engine,
        "before_cursor_execute",
        lambda _c, _r, statement, values, *_: sent.append((statement, values)),
    )
    try:
        _call_every_method(SqlAccounts(database, lambda step: step()))
        statements = [(one, values) for one, values in sent if one.startswith(("SELECT", "UPDATE", "DELETE"))]
        assert len(statements) > 40
        with database.reading() as session:
            for statement, values in statements:
                if not any(words in " ".join(statement.split()) for words in ALLOWED_SCANS):
                    # A list is of executemany(), which Python 3.12 refuses for this statement.
                    one = values[0] if isinstance(values, list) else values
                    plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", one)
                    lines = [str(row[-1]) for row in plan]
                    assert not [line for line in lines if _reads_all(line)], (statement, lines)
    finally:
        database.close()


def _reads_all(line: str) -> bool:
    """Return whether a line of the plan is a table scan. Partial indexes may be scanned."""
    return "SCAN" in line and "INDEX ix_" not in line and line != "SCAN CONSTANT ROW"


def _call_every_method(store: SqlAccounts) -> None:
    admin, anna = store.add(make_account()), store.add(make_account(is_admin=True))
    invite = make_invite()
    store.invites.add(invite)
    store.add(make_account(), invite=invite.hash)
    store.get(anna.id)
    store.by_email(anna.email)
    store.list(after=anna.email, limit=3)
    session, token, link = make_session(anna), make_token(anna), make_link(anna, automatic=True)
    store.sessions.add(session, version=1)
    store.tokens.add(token)
    store.links.add(link)
    store.sessions.get(session.hash)
    store.tokens.get(token.hash)
    store.links.get(link.id)
    store.sessions.list(anna.id)
    store.tokens.list(anna.id)
    store.links.list(anna.id)
    store.links.find_automatic(anna.id, "films", recursive=False, until=NOW)
    store.sessions.touch(session.hash, NOW + timedelta(days=1))
    store.active([(anna.id, 1)])
    store.sessions.existing([session.hash])
    store.tokens.existing([token.hash])
    store.links.existing([link.id])
    store.sessions.remove(session.hash)
    store.tokens.remove(token.id, account_id=anna.id)
    store.tokens.remove_all(anna.id)
    store.links.remove(link.id, account_id=anna.id)
    store.set_password(anna.id, "new", version=1)
    store.set_quota(anna.id, 7)
    store.set_disabled(anna.id, True)
    store.set_disabled(anna.id, False)
    buckets = [Bucket("one", 3, 60.0), Bucket("two", 3, 60.0, unless="three")]
    store.login_limits.attempt(buckets)
    store.login_limits.forgive(buckets, note="three", for_s=60)
    store.login_limits.sweep(0)
    store.set_admin(anna.id, True)
    store.set_admin(anna.id, False)
    store.set_admin(anna.id, True)
    store.announce("http://127.0.0.1:8000")
    store.announced()
    store.mark_leaving(admin.id)
    store.list_leaving()
    store.remove(admin.id)
    store.sweep(now=NOW, seen_before=NOW, created_before=NOW)
