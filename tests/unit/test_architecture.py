"""Imports between the parts of app/, and of third-party libraries, follow docs/architecture.md."""

import ast
import shutil
import sys
from functools import cache
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "app"

EVERYTHING = {
    "accounts",
    "settings",
    "storage",
    "http",
    "formats",
    "streaming",
    "events",
    "library",
    "uploads",
    "media",
    "metrics",
    "database",
    "resources",
    "logs",
    "server",
    "main",
}

# The parts of the program, and the other parts that each may import.
MAY_IMPORT: dict[str, set[str]] = {
    "accounts": set(),
    "settings": set(),
    "storage": set(),
    "http": set(),
    "formats": set(),
    "streaming": {"storage", "http"},
    "events": {"storage"},
    "library": {"storage", "http", "events", "accounts"},
    "uploads": {"library", "storage", "http", "events"},
    "media": {"storage", "http", "library"},
    "metrics": {"storage"},
    "database": {"storage", "http", "settings", "accounts", "events"},
    "resources": {
        "storage",
        "http",
        "streaming",
        "events",
        "library",
        "uploads",
        "media",
        "accounts",
        "metrics",
    },
    "main": EVERYTHING,
    "logs": set(),
    "server": {"storage", "http", "logs", "metrics"},
    "cli": EVERYTHING,
    "__init__": set(),
}

# Backends do not import each other, so that a server loads the drivers of its own database only. But the
# filesystem backend imports SQL, the layer below it.
IMPORTS_FORBIDDEN_TO = {
    "database.gridfs": {"database.sql", "database.filesystem"},
    "database.sql": {"database.gridfs", "database.filesystem"},
    "database.filesystem": {"database.gridfs"},
}

# Third-party libraries, and the only parts, packages or modules that may import each.
ONLY_IN: dict[str, set[str]] = {
    "sqlalchemy": {"database.sql", "database.filesystem", "database.doctor_checks"},
    "alembic": {"database.sql"},
    "psycopg": {"database.sql"},
    "mongoengine": {"database.gridfs"},
    "pymongo": {"database.gridfs", "database.doctor_checks"},
    "gridfs": {"database.gridfs"},
    "bson": {"database.gridfs"},
    "fastapi": {"resources", "main", "streaming.file_response"},
    "starlette": {"resources", "main", "streaming.file_response"},
    "uvicorn": {"server", "cli"},
    "httptools": {"server"},
    "pydantic": {
        "__init__",
        "resources",
        "settings",
        "cli.account_commands",
        "cli.config_command",
        "cli.findings",
    },
    "pydantic_settings": {"resources", "settings"},
    "anyascii": {"http"},
    "argon2": {"accounts"},
    "cachetools": {"database", "accounts", "media", "server"},
    "click": {"cli"},
    "itsdangerous": {"accounts"},
    "jinja2": {"resources"},
    "markdown_it": {"resources"},
    "pathspec": {"storage", "settings"},
    "prometheus_client": {"metrics"},
    "psutil": {"server"},
    "python_multipart": {"http"},
    "segno": {"cli"},
}


def imports(file: Path) -> tuple[str, ...]:
    """Return the modules that a file imports, inside functions too."""
    return imports_of(file.read_text())


@cache
def imports_of(text: str) -> tuple[str, ...]:
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"imports are absolute: {ast.unparse(node)}"
            found.append(f"{node.module}.{node.names[0].name}" if node.module == "app" else node.module or "")
    return tuple(found)


def forbidden_imports(app: Path) -> list[str]:
    """Return the imports that the rules forbid."""
    forbidden = []
    for file in sorted(app.rglob("*.py")):
        module = ".".join(file.relative_to(app).with_suffix("").parts)
        part = module.partition(".")[0]
        package = ".".join(module.split(".")[:2])
        for imported in imports(file):
            top, _, rest = imported.partition(".")
            target = rest.partition(".")[0]
            if top == "app":
                is_forbidden = target != part and target not in MAY_IMPORT[part]
                is_forbidden |= ".".join(rest.split(".")[:2]) in IMPORTS_FORBIDDEN_TO.get(package, ())
            else:
                is_forbidden = top in ONLY_IN and not {part, package, module} & ONLY_IN[top]
            if is_forbidden:
                forbidden.append(f"{module} -> {imported}")
    return forbidden


def test_imports_follow_rules() -> None:
    assert forbidden_imports(APP) == [], (
        "see CONTRIBUTING.md, Where things go; a setting is passed as an argument"
    )


def test_parts_and_rules_are_the_same() -> None:
    parts = {path.stem for path in APP.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts == set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("storage/contract.py", "from app.http import ranges"),
        ("storage/types.py", "import app.settings"),
        ("storage/leases.py", "from app.database.sql import schema"),
        ("metrics/registry.py", "from app.server import exchange"),
        ("streaming/plan.py", "from starlette.responses import Response"),
        ("http/ranges.py", "from app.storage.types import Key"),
        ("formats/boxes.py", "from app.http import ranges"),
        ("uploads/service.py", "from app.resources import dependencies"),
        ("events/feed.py", "from app.library.service import Library"),
        ("library/service.py", "from app.uploads.service import Uploads"),
        ("media/segments.py", "from app.settings import Settings"),
        ("server/serving.py", "from app.settings import Settings"),
        ("resources/files.py", "from app.database.sql import schema"),
        ("resources/files.py", "from app import settings"),
        ("resources/health.py", "import sqlalchemy.orm"),
        ("http/media_types.py", "def f():\n    import pydantic"),
        ("database/filesystem/backend.py", "from app.resources.errors import problems"),
        ("database/sql/opening.py", "from app.database.gridfs.opening import VERSION"),
        ("database/sql/engine.py", "from app.database.filesystem.posix import make_private"),
        ("database/gridfs/backend.py", "from app.database.filesystem.disk import Disk"),
        ("database/paging.py", "import sqlalchemy"),
        ("database/filesystem/backend.py", "import pymongo"),
    ],
)
def test_planted_import_is_found(tmp_path: Path, file: str, line: str) -> None:
    shutil.copytree(APP, tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__", "web"))
    with (tmp_path / "app" / file).open("a") as planted:
        planted.write(f"\n{line}\n")
    assert len(forbidden_imports(tmp_path / "app")) == len(forbidden_imports(APP)) + 1


def test_migrations_do_not_import_app() -> None:
    """Later versions may change the code of app/, but not the result of a migration."""
    migrations = [*(APP.parent / "alembic" / "versions").glob("*.py")]
    assert migrations
    assert [file.name for file in migrations if any(name.startswith("app.") for name in imports(file))] == []


def private_imports(text: str) -> list[str]:
    """Return the imports of private modules and names, which libraries change without notice."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    names = [f"{node.module}.{alias.name}" for node in nodes for alias in node.names]
    names += [name for name in imports_of(text) if name not in names]
    return [name for name in names if any(part.startswith("_") for part in name.split("."))]


def test_modules_import_no_private_names() -> None:
    found = {name for file in APP.rglob("*.py") for name in private_imports(file.read_text())}
    # uvicorn has no public names for the types of its messages.
    assert {name for name in found if not name.startswith("uvicorn._types")} == set()


def test_planted_private_import_is_found() -> None:
    assert private_imports("from starlette._utils import get_route_path\nimport _ssl\n")
    assert private_imports("from starlette.routing import _Any\n")


def test_modules_import_only_required_libraries() -> None:
    """pyproject.toml lists each library that modules import, or one that depends on it."""
    ours = {"app", "click", "uvicorn", *ONLY_IN}
    found = {imported.partition(".")[0] for file in APP.rglob("*.py") for imported in imports(file)}
    assert found - set(sys.stdlib_module_names) <= ours
