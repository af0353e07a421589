"""Validation of small bodies: the messages of invalid fields."""

from typing import Any

import pytest

from app.resources.account_items import NewLink, NewToken
from app.resources.accounts import Credentials, Deletion
from app.resources.request_body import InvalidFields, validate

CREDENTIALS = {"email": "anna@example.org", "password": "secret"}


def message(model: Any, fields: dict[str, Any]) -> str:
    with pytest.raises(InvalidFields) as raised:
        validate(model, fields)
    return str(raised.value)


@pytest.mark.parametrize("missing", ["email", "password"])
def test_absent_and_null_fields_are_missing(missing: str) -> None:
    others = {name: value for name, value in CREDENTIALS.items() if name != missing}
    assert message(Credentials, others) == f"{missing} is missing."
    assert message(Credentials, {**others, missing: None}) == f"{missing} is missing."


def test_message_contains_no_rejected_value() -> None:
    assert "secret" not in message(Credentials, {"email": "anna@example.org", "password": ["secret"]})


def test_every_invalid_field_is_named() -> None:
    assert message(Credentials, {}) == "email is missing. password is missing."


def test_unknown_fields_are_ignored() -> None:
    assert validate(Credentials, {**CREDENTIALS, "next": "/"}).model_dump() == CREDENTIALS


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, True), ("true", True), ("on", True), (False, False), ("", False), ("off", False), (None, False)],
)
def test_wish_to_keep_files_is_read_from_json_and_forms(value: object, expected: bool) -> None:
    assert validate(Deletion, {"password": "secret", "keep_files": value}).keep_files is expected


@pytest.mark.parametrize("value", ["yes please", "flase", 1, 0, []])
def test_misspelt_wish_to_keep_files_is_rejected(value: object) -> None:
    fields = {"password": "secret", "keep_files": value}
    assert message(Deletion, fields) == "keep_files: must be true or false."


@pytest.mark.parametrize("value", [0, -1, True, "3600", 1e9, float("nan"), None, []])
def test_expiry_that_is_no_number_of_seconds_is_rejected(value: object) -> None:
    assert message(NewLink, {"path": "a", "expires_in": value}).startswith("expires_in")


def test_expiry_is_cut_to_whole_seconds() -> None:
    assert validate(NewLink, {"path": "a", "expires_in": 90.7}).expires_in == 90


def test_unknown_scope_and_playlist_are_rejected() -> None:
    assert message(NewToken, {"name": "a", "scopes": ["read", "admin"]}).startswith("scopes.1: ")
    assert message(NewLink, {"playlist": "pls"}).startswith("playlist: ")
