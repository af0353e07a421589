"""What a command says that fails."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from app import logs
from app.accounts.errors import AccountError
from app.settings import ConfigurationError
from app.storage.errors import StorageError


@contextmanager
def in_a_sentence() -> Iterator[None]:
    """End the command with a sentence and the exit status 1, if it cannot do what it should."""
    try:
        yield
    except (AccountError, ConfigurationError, StorageError) as error:
        raise click.ClickException(logs.escaped(str(error))) from None
