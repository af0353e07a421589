"""The language of docstrings, comments and Markdown prose, by the rules of CONTRIBUTING.md.

Each construction has a limit, as a rate per 1,000 words of a tree (a folder, or a document).
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# The start of a sentence: of a text, of a paragraph or list item, or after the end of another sentence.
_START = r"(?:\A\s*|[.:;!]\s+|\n\s*\n\s*|\n\s*(?:[-*]|\d+\.)\s+)(?:[-*]\s+)?"


@dataclass(frozen=True)
class Construction:
    """A way of writing that readers stumble over."""

    name: str
    limit: float
    """Occurrences per 1,000 words."""
    pattern: re.Pattern[str]


CONSTRUCTIONS = [
    Construction(name, limit, re.compile(pattern))
    for name, limit, pattern in [
        ("a sentence that begins with a headless What", 0.1, _START + r"(What)\s(?!if\b)[^?.]*(?=[.;:]|\Z)"),
        ("Who or Whoever as the subject", 0.05, _START + r"(Who(?:ever)?)\s(?!')"),
        (
            "whoever, or a headless who",
            0.05,
            r"\bwhoever\b|(?:\b(?:to|of|by|for|from|that|and)|,)\swho\b(?!\s(?:is|are|has|have)\b)",
        ),
        ("nobody, somebody, anybody, everybody", 0.05, r"\b(?:no|some|any|every)body\b"),
        (
            "it is waited, looked, asked, told …",
            0.0,
            r"\bit\sis\s(?:waited|looked|asked|told|said|known|tried|gone)\b",
        ),
        ("tell, told", 0.3, r"\b(?:tells?|told)\b"),
        ("say, said", 0.6, r"\b(?:says?|said)\b"),
        ("all else, all that", 0.2, r"\ball\s(?:else|that)\b"),
        ("is none", 0.1, r"\bis\snone\b"),
        ("anew", 0.05, r"\banew\b"),
    ]
]


@dataclass(frozen=True)
class Text:
    """A docstring, a comment or a document; its line breaks are those of the file."""

    path: Path
    line: int
    text: str


@dataclass(frozen=True)
class Measurement:
    """One construction in one tree."""

    construction: Construction
    places: list[str]
    words: int

    @property
    def rate(self) -> float:
        return 1000 * len(self.places) / max(self.words, 1)

    def __str__(self) -> str:
        head = f"{self.construction.name}: {self.rate:.2f} per 1,000 words, at most {self.construction.limit}"
        return "\n  ".join([head, *self.places])


def measure(root: Path) -> list[Measurement]:
    """Measure each construction in a file, or in the Python and Markdown files beneath a folder."""
    texts = [text for file in _files(root) for text in _texts(file)]
    words = sum(len(one.text.split()) for one in texts)
    return [
        Measurement(one, [place for text in texts for place in _places(one, text)], words)
        for one in CONSTRUCTIONS
    ]


def _files(root: Path) -> list[Path]:
    return [root] if root.is_file() else sorted([*root.rglob("*.py"), *root.rglob("*.md")])


def _texts(path: Path) -> list[Text]:
    source = path.read_text()
    if path.suffix == ".md":
        return [Text(path, 1, _prose(source))]
    return [*_docstrings(path, source), *_comments(path, source)]


def _docstrings(path: Path, source: str) -> Iterator[Text]:
    """Yield every string that stands alone as a statement: those below attributes too."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield Text(path, node.lineno, node.value.value)


def _comments(path: Path, source: str) -> Iterator[Text]:
    """Yield comments; consecutive lines of nothing but comments are one text."""
    block: list[str] = []
    next_line = 0  # where the comment of the next line would continue the block
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line = token.start[0]
        if block and line != next_line:
            yield Text(path, next_line - len(block), "\n".join(block))
            block = []
        text = token.string.lstrip("#").strip()
        if token.line[: token.start[1]].strip():  # it stands behind code
            yield Text(path, line, text)
        else:
            block.append(text)
            next_line = line + 1
    if block:
        yield Text(path, next_line - len(block), "\n".join(block))


def _prose(markdown: str) -> str:
    """Blank out code, headings and addresses, and keep the line breaks."""
    without = re.sub(r"(?ms)^ *```.*?^ *```$", _line_breaks, markdown)
    without = re.sub(r"(?m)^#+ .*$", "", without)
    return re.sub(r"`[^`]*`|\]\([^)]*\)", lambda code: "…" + _line_breaks(code), without)


def _line_breaks(found: re.Match[str]) -> str:
    return "\n" * found[0].count("\n")


def _places(construction: Construction, text: Text) -> Iterator[str]:
    """Yield file, line and words of each occurrence."""
    for found in construction.pattern.finditer(text.text):
        start = found.start(found.lastindex or 0)
        line = text.line + text.text.count("\n", 0, start)
        path = text.path.relative_to(ROOT) if text.path.is_relative_to(ROOT) else text.path
        yield f"{path}:{line}: {' '.join(text.text[start : start + 60].split())}"


def _trees() -> list[str]:
    documents = [
        name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs") if (ROOT / name).exists()
    ]
    return ["app", "tests", "benchmarks", "alembic", "deploy", *documents]


@pytest.mark.parametrize("tree", _trees())
def test_tree_is_within_the_limits(tree: str) -> None:
    if above := [one for one in measure(ROOT / tree) if one.rate > one.construction.limit]:
        pytest.fail("\n".join(map(str, above)), pytrace=False)


# Planted faults


@pytest.mark.parametrize(
    ("text", "construction"),
    [
        ("What is asked of a storage.", "headless What"),
        ("A list. What it\nholds is kept.", "headless What"),
        ("A list.\n\n- What it holds is kept", "headless What"),
        ("Who has no account may log in.", "Who or Whoever"),
        ("Kept: Whoever reads it is served.", "Who or Whoever"),
        ("The link works for whoever\nhas it.", "whoever"),
        ("It is sent to\nwho asked.", "whoever"),
        ("Of nobody in particular.", "nobody"),
        ("Kept while it is\nwaited for.", "it is waited"),
        ("The server tells the client.", "tell, told"),
        ("As the header says.", "say, said"),
        ("And all\nelse is refused.", "all else"),
        ("None if there is none.", "is none"),
        ("It is read anew.", "anew"),
    ],
)
@pytest.mark.parametrize("form", ["docstring", "comment", "markdown"])
def test_planted_fault_is_found_with_its_line(
    form: str, text: str, construction: str, tmp_path: Path
) -> None:
    planted = {
        "docstring": ("planted.py", f'def function():\n    """Return.\n\n    {text}"""\n'),
        "comment": ("planted.py", "\n\n# " + text.replace("\n", "\n# ") + "\n"),
        "markdown": ("planted.md", f"# What is here\n\n{text}\n"),
    }
    name, source = planted[form]
    (tmp_path / name).write_text(source)
    (above,) = [one for one in measure(tmp_path) if one.rate > one.construction.limit]
    assert construction in above.construction.name
    (place,) = above.places
    lines = source.splitlines()
    number = int(place.removeprefix(f"{tmp_path / name}:").split(":")[0])
    assert 1 <= number <= len(lines)
    assert place.split(": ")[1].split()[0] in lines[number - 1]


@pytest.mark.parametrize(
    "text",
    [
        "What if the disk is full?",
        "Why? What does it cost?",
        "The account of a person who is an administrator.",
        "Clients, who have no account, log in.",
        "Return what the header selects.",
    ],
)
def test_ordinary_sentence_is_no_offence(text: str, tmp_path: Path) -> None:
    (tmp_path / "plain.md").write_text(text)
    (tmp_path / "plain.py").write_text(f'"""{text}"""\n')
    assert [one.places for one in measure(tmp_path) if one.places] == []


def test_code_is_not_judged(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text('raise Error("nobody told anybody")  # explained elsewhere\n')
    (tmp_path / "code.md").write_text("## Who has it\n\nRun `tell nobody`:\n\n```sh\necho anew  # say\n```\n")
    assert [one.places for one in measure(tmp_path) if one.places] == []


def test_limit_is_a_rate_of_the_whole_tree(tmp_path: Path) -> None:
    (tmp_path / "long.md").write_text("word " * 2000)
    (tmp_path / "one.md").write_text("It says so.")
    assert [one for one in measure(tmp_path) if one.rate > one.construction.limit] == []
    (tmp_path / "two.md").write_text("It says so. It said so.")
    (above,) = [one for one in measure(tmp_path) if one.rate > one.construction.limit]
    assert [place.split(": ")[0].rpartition("/")[2] for place in above.places] == [
        "one.md:1",
        "two.md:1",
        "two.md:1",
    ]
