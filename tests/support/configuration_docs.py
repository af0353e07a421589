"""Writes the defaults and meanings of docs/configuration.md from Settings: `make docs` runs it.

The tables of the document decide in which order the settings stand; a new setting is added to the last one.
"""

import re
from pathlib import Path

from pydantic import ByteSize
from pydantic.fields import FieldInfo

from app.settings import PREFIX, Settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"

_ROW = re.compile(rf"^\| `{PREFIX}(\w+)` \|.*\n", re.MULTILINE)
_PATTERNS = re.compile(r"^```gitignore\n.*?^```$", re.MULTILINE | re.DOTALL)

_DEFAULTS = {
    "base_url": "from the request",
    "database_url": "`sqlite:///FILES_DIR/.seekable/seekable.db`",
    "ignore": "[many](#ignored-names)",
}
"""Defaults that depend on a request or another setting, or that are too long for a table."""


def documented(text: str) -> str:
    """Return the document with its rows and patterns as Settings has them."""
    rows = {name.upper(): row(name, field) for name, field in Settings.model_fields.items()}
    present = _ROW.findall(text)
    text = _ROW.sub(lambda found: rows.get(found[1], ""), text)
    new = [rows[name] for name in rows if name not in present]
    last = [*_ROW.finditer(text)][-1].end()
    text = "".join([text[:last], *new, text[last:]])
    patterns = "".join(f"{pattern}\n" for pattern in Settings.model_fields["ignore"].default)
    return _PATTERNS.sub(lambda _: f"```gitignore\n{patterns}```", text)


def row(name: str, field: FieldInfo) -> str:
    default = _DEFAULTS.get(name) or shown(field.default)
    assert field.description, f"{name} has no description"
    if field.description.startswith("Seconds") and field.default and field.default % 86400 == 0:
        default += f" ({field.default // 86400} days)"
    return f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |\n"


def shown(default: object) -> str:
    """Return a default as it is written in the environment."""
    if default is None or default == ():
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, ByteSize):
        return f"`{default.human_readable(separator='').replace('.0', '')}`"
    return f"`{','.join(default) if isinstance(default, tuple) else default}`"


if __name__ == "__main__":
    DOCUMENT.write_text(documented(DOCUMENT.read_text()))
