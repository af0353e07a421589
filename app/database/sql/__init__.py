"""SQL databases: SQLite (embedded, the default) and PostgreSQL, through SQLAlchemy."""
