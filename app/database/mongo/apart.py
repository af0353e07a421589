"""Whether two MongoDB URLs name the same database, as far as they say."""

from typing import Any

from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from app.database.mongo.connection import DEFAULT_NAME
from app.settings import ConfigurationError, Settings


def check_urls_apart(settings: Settings, other: Settings) -> None:
    """Raise ConfigurationError if both are on one of the same servers, in the same database."""
    one, two = settings.mongodb_url or "", other.mongodb_url or ""
    if one == two or _same(_parsed(one), _parsed(two)):
        raise ConfigurationError("Both MongoDB URLs name the same database.")


def _parsed(url: str) -> dict[str, Any]:
    if not url.startswith("mongodb://"):  # mongodb+srv:// would be looked up
        return {}
    try:
        return dict(parse_uri(url, validate=False, warn=False))
    except PyMongoError:
        return {}  # whoever opens it says what is wrong


def _same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    if not one or not two:
        return False
    servers = set(one["nodelist"]) & set(two["nodelist"])
    return bool(servers) and (one["database"] or DEFAULT_NAME) == (two["database"] or DEFAULT_NAME)
