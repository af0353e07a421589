"""What README says of settings, targets and places is so."""

import re
from pathlib import Path

from pydantic import ByteSize

from app.settings import Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_table_has_every_setting_and_its_default() -> None:
    rows = dict(re.findall(r"^\| `SEEKABLE_(\w+)` \| (.*?) \|", README, re.MULTILINE))
    assert set(rows) == {name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        told, default = rows[name.upper()].strip("`"), field.default
        if name == "base_url":
            assert default is None
        elif name == "database_url":
            assert default is None
            assert told == "FILES_DIR/.seekable/seekable.db"
        elif isinstance(default, bool):
            assert told == str(default).lower(), name
        elif isinstance(default, tuple):
            assert told == (",".join(default) or "none"), name
        elif isinstance(default, ByteSize):
            assert default.human_readable(separator="").replace(".0", "") == told
        else:
            assert told == ("none" if default in (None, ()) else str(default)), name


def test_places_and_targets_exist() -> None:
    for place in re.findall(r"`((?:app|tests|benchmarks|alembic)/[\w./]+)`", README):
        assert (ROOT / place).exists(), place
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make (\w+)|`make (\w+)", README, re.MULTILINE)) <= {
        pair for target in targets for pair in ((target, ""), ("", target))
    }
