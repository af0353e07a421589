"""Opening stores loads the drivers of the chosen database only."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import BACKENDS

OPEN = """
import asyncio, json, sys
from app.cli.commands import main
from app.database import open_stores
from app.database.doctor_checks import probe_databases, probe_folder
from app.settings import Settings

async def open_and_close(settings):
    async with open_stores(settings):
        pass

assert "sqlalchemy" not in sys.modules and "pymongo" not in sys.modules
settings = Settings(_env_file=None, **json.loads(sys.argv[1]))
asyncio.run(open_and_close(settings))
probe_databases(settings)
probe_folder(settings.files_dir)
print(*sorted({"sqlalchemy", "psycopg", "pymongo", "mongoengine"} & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    ("backend", "drivers"),
    [
        ("filesystem", "sqlalchemy"),
        ("postgresql", "psycopg sqlalchemy"),
        ("gridfs", "mongoengine pymongo"),
    ],
)
def test_store_loads_only_drivers_of_its_database(tmp_path: Path, backend: str, drivers: str) -> None:
    settings = json.dumps({"files_dir": str(tmp_path / "files"), **BACKENDS[backend]()}, default=str)
    loaded = subprocess.run(
        [sys.executable, "-c", OPEN, settings], check=True, capture_output=True, text=True
    )
    assert loaded.stdout.strip() == drivers
