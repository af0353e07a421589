"""File metadata through SQLAlchemy, the bytes as ordinary files."""
