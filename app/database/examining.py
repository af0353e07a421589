"""Looks at the databases that the settings name, and changes nothing."""

from app.database.facts import DatabaseFacts
from app.settings import Settings


def examine(settings: Settings) -> list[DatabaseFacts]:
    """What is known of each; of the accounts' own only with access `accounts`. Does not raise what a database
    may say."""
    if settings.storage == "gridfs":
        from app.database.gridfs.doctor_checks import examine_mongo  # noqa: PLC0415

        return examine_mongo(settings)
    from app.database.sql.doctor_checks import examine_sql  # noqa: PLC0415

    return [examine_sql(settings)]
