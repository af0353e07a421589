"""README, CONTRIBUTING and docs/ name real settings, defaults, make targets and paths."""

import re
from pathlib import Path

import pytest
from pydantic import ByteSize

from app.settings import Settings

ROOT = Path(__file__).parents[2]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md")),
]


def test_settings_table_lists_every_setting_and_default() -> None:
    rows = dict(re.findall(r"^\| `SEEKABLE_(\w+)` \| (.*?) \|", CONFIGURATION, re.MULTILINE))
    assert set(rows) == {name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        documented, default = rows[name.upper()].strip("`"), field.default
        if name == "base_url":
            assert default is None
        elif name == "database_url":
            assert default is None
            assert documented == "FILES_DIR/.seekable/seekable.db"
        elif isinstance(default, bool):
            assert documented == str(default).lower(), name
        elif isinstance(default, tuple):
            assert documented == (",".join(default) or "none"), name
        elif isinstance(default, ByteSize):
            assert default.human_readable(separator="").replace(".0", "") == documented
        else:
            assert documented == ("none" if default in (None, ()) else str(default)), name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_and_make_targets_in_document_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    for path in re.findall(r"`((?:app|tests|benchmarks|alembic|deploy|k8s)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:^|`)make ([a-z][\w-]*)", text, re.MULTILINE)
    assert named or document.startswith("docs/")
    assert set(named) <= targets
