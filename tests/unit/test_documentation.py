"""README, CONTRIBUTING and docs/ name real settings, defaults, make targets and paths."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import Settings
from tests.support.configuration_docs import DOCUMENT, documented

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md")),
]


def test_configuration_is_generated_from_settings() -> None:
    """If this fails, run `make docs`."""
    text = DOCUMENT.read_text()
    assert documented(text) == text
    rows = re.findall(r"^\| `SEEKABLE_(\w+)` \| .+ \| .+ \|$", text, re.MULTILINE)
    assert sorted(rows) == sorted(name.upper() for name in Settings.model_fields)


def test_generated_configuration_gains_new_settings_and_loses_removed_ones() -> None:
    text = DOCUMENT.read_text()
    (port,) = re.findall(r"^.*`SEEKABLE_PORT`.*\n", text, re.MULTILINE)
    outdated = text.replace(port, "| `SEEKABLE_GONE` | `1` | No longer a setting. |\n")
    updated = documented(outdated)
    assert "SEEKABLE_GONE" not in updated
    assert port in updated


@pytest.mark.parametrize("document", ["docs/architecture.md", "docs/mechanisms.md"])
def test_modules_in_document_exist(document: str) -> None:
    modules = {str(file.relative_to(ROOT / "app")) for file in (ROOT / "app").rglob("*.py")}
    named = re.findall(r"`([\w/]+\.py)`", (ROOT / document).read_text())
    assert len(named) > 20
    for name in named:
        if not name.startswith("tests/"):
            suffix = f"/{name.removeprefix('app/')}"
            assert any(f"/{module}".endswith(suffix) for module in modules), name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_and_make_targets_in_document_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    for path in re.findall(r"`((?:app|tests|benchmarks|alembic|deploy|k8s)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:^|`)make ([a-z][\w-]*)", text, re.MULTILINE)
    assert named or document.startswith("docs/")
    assert set(named) <= targets


def test_each_promise_names_its_tests() -> None:
    promises = re.split(r"^\d+\. ", (ROOT / "docs/promises.md").read_text(), flags=re.MULTILINE)[1:]
    assert len(promises) == 13
    assert [promise for promise in promises if "[`tests/" not in promise] == []


LOADED = re.compile(
    r'<(?:script|img)[^>]* src="([^"]+)|<link[^>]* href="([^"]+)|@import "([^"]+)|url\(["\']?([^)"\']+)'
)
"""The addresses of everything that a browser loads for a page or a style."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of `make docs`, built without a network."""
    folder = tmp_path_factory.mktemp("site")
    unreachable = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https")}
    built = subprocess.run(
        [sys.executable, "-m", "properdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, **unreachable},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_site_has_all_pages_and_loads_nothing_from_other_sites(site: Path) -> None:
    assert {file.stem for file in site.glob("*.html")} - {"404"} == {
        file.stem for file in (ROOT / "docs").glob("*.md")
    }
    for file in [*site.rglob("*.html"), *site.rglob("*.css")]:
        loaded = ["".join(found) for found in LOADED.findall(file.read_text())]
        assert [one for one in loaded if re.match(r"(\w+:)?//", one)] == [], file


def test_index_and_site_have_the_same_order() -> None:
    nav = re.findall(r"^ +- ([\w-]+\.md)$", (ROOT / "properdocs.yml").read_text(), re.MULTILINE)
    assert nav == ["index.md", *re.findall(r"\]\(([\w-]+\.md)\)", (ROOT / "docs/index.md").read_text())]


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_document_lead_to_files(document: str) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)[^)]*\)", (ROOT / document).read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_readme_is_short_and_its_images_are_small() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130
    for image in [*(ROOT / "docs").glob("*.png"), *(ROOT / "docs").glob("*.svg")]:
        assert image.stat().st_size < 200_000, image.name
