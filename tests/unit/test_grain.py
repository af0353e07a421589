"""The grain of app/: how many modules, how large, and one name for one thing."""

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "app"

MAX_MODULES = 145
MIN_LINES = 80
"""A shorter module with a single importer belongs to that importer."""
MAX_FUNCTION_LINES = 60

PARALLEL = {
    "__init__",
    "accounts",
    "backend",
    "change_feed",
    "errors",
    "integrity",
    "list_index",
    "opening",
    "service",
    "shared_state",
    "store",
}
"""Modules that backends or domain packages each have under the same name."""


def modules_of(app: Path) -> dict[str, ast.Module]:
    """Return the syntax trees of all modules, by dotted name without `__init__`."""
    found = {}
    for file in sorted(app.rglob("*.py")):
        parts = ("app", *file.relative_to(app).with_suffix("").parts)
        found[".".join(parts)] = ast.parse(file.read_text())
    return found


def imported_modules(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def small_modules(app: Path) -> list[str]:
    """Return the modules below MIN_LINES that exactly one other module imports."""
    modules = modules_of(app)
    importers: dict[str, set[str]] = defaultdict(set)
    for name, tree in modules.items():
        for imported in imported_modules(tree):
            importers[imported].add(name)
    return [
        name
        for name, tree in modules.items()
        if not name.endswith("__init__")
        and len(importers[name]) == 1
        and tree.body[-1].end_lineno is not None
        and tree.body[-1].end_lineno < MIN_LINES
    ]


def shared_names(app: Path) -> list[str]:
    """Return the names of modules and of public classes that stand for more than one thing."""
    modules = modules_of(app)
    names = Counter(name.rpartition(".")[2] for name in modules)
    classes: dict[str, set[str]] = defaultdict(set)
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes[node.name].add(name)
    return [
        *(name for name, count in names.items() if count > 1 and name not in PARALLEL),
        *(name for name, places in classes.items() if len(places) > 1),
    ]


def long_functions(app: Path) -> list[str]:
    return [
        f"{name}.{node.name}"
        for name, tree in modules_of(app).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION_LINES
    ]


def import_cycles(app: Path) -> list[str]:
    """Return the modules that import themselves, directly or through others, at any level."""
    modules = modules_of(app)
    graph = {name: {i for i in imported_modules(tree) if i in modules} for name, tree in modules.items()}

    def reaches_itself(start: str) -> bool:
        seen: set[str] = set()
        queue = list(graph[start])
        while queue:
            name = queue.pop()
            if name == start:
                return True
            if name not in seen:
                seen.add(name)
                queue.extend(graph[name])
        return False

    return [name for name in graph if reaches_itself(name)]


def test_number_of_modules_stays_readable() -> None:
    assert len(modules_of(APP)) <= MAX_MODULES


def test_small_modules_with_one_importer_do_not_exist() -> None:
    assert small_modules(APP) == []


def test_no_name_stands_for_two_modules_or_classes() -> None:
    assert shared_names(APP) == []


def test_functions_are_short() -> None:
    assert long_functions(APP) == []


def test_modules_do_not_import_each_other_in_cycles() -> None:
    assert import_cycles(APP) == []


@pytest.mark.parametrize("check", [small_modules, shared_names, long_functions, import_cycles])
def test_planted_fault_is_found(tmp_path: Path, check: object) -> None:
    """A small tree with one fault of each kind."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    (tmp_path / "one" / "same.py").write_text("from app.two import cycle\n" + "x = 1\n" * MIN_LINES)
    (tmp_path / "two" / "same.py").write_text("class Same:\n    pass\n" + "x = 1\n" * MIN_LINES)
    (tmp_path / "two" / "cycle.py").write_text("from app.one import same\nclass Same:\n    pass\n")
    (tmp_path / "long.py").write_text("def long():\n" + "    x = 1\n" * MAX_FUNCTION_LINES)
    expected = {
        small_modules: ["app.two.cycle"],
        shared_names: ["same", "Same"],
        long_functions: ["app.long.long"],
        import_cycles: ["app.one.same", "app.two.cycle"],
    }
    assert check(tmp_path) == expected[check]  # type: ignore[operator, index]
