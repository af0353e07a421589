"""The grain of app/: how many modules, how large, and one name for one thing."""

import ast
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "app"

MAX_MODULES = 198
MIN_LINES = 80
"""A shorter module with a single importer belongs to that importer."""
MAX_FUNCTION_LINES = 60

PARALLEL = {
    "change_feed",
    "errors",
    "integrity",
    "list_index",
    "opening",
    "service",
    "shared_state",
}
"""Modules that backends or domain packages each have under the same name."""

PARALLEL_IN_DATABASE = {"accounts", "backend"}
"""Modules that only backends each have under the same name."""

NAMED_LIKE_BACKEND = {
    "app.resources.accounts",  # the routes of the accounts that the backends store
    "app.storage.backend",  # the protocol that the backends implement
}


@cache
def modules_of(app: Path) -> dict[str, ast.Module]:
    """Return the syntax trees of all modules, by dotted name without `__init__`; each is parsed once."""
    found = {}
    for file in sorted(app.rglob("*.py")):
        name = ".".join(("app", *file.relative_to(app).with_suffix("").parts))
        found[name.removesuffix(".__init__")] = ast.parse(file.read_text())
    return found


def packages_of(app: Path) -> set[str]:
    return {".".join(("app", *file.parent.relative_to(app).parts)) for file in app.rglob("__init__.py")}


def imported_modules(tree: ast.Module, modules: Collection[str]) -> Iterator[str]:
    """Yield the modules that a module imports. `from package import module` imports only the latter."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else node.module for name in submodules]
        else:
            continue
        yield from (name for name in names if name in modules)


def small_modules(app: Path) -> list[str]:
    """Return the modules below MIN_LINES that exactly one other module imports."""
    modules = modules_of(app)
    packages = packages_of(app)
    importers: dict[str, set[str]] = defaultdict(set)
    for name, tree in modules.items():
        for imported in imported_modules(tree, modules):
            importers[imported].add(name)
    return [
        name
        for name, tree in modules.items()
        if name not in packages
        and len(importers[name]) == 1
        and tree.body[-1].end_lineno is not None
        and tree.body[-1].end_lineno < MIN_LINES
    ]


def is_parallel(module: str) -> bool:
    """Return whether the module may have the name of others."""
    name = module.rpartition(".")[2]
    if name in PARALLEL_IN_DATABASE:
        return module.startswith("app.database.") or module in NAMED_LIKE_BACKEND
    return name in PARALLEL


def shared_names(app: Path) -> list[str]:
    """Return the names of modules and of public classes that stand for more than one thing."""
    modules = modules_of(app)
    names = Counter(
        name.rpartition(".")[2] for name in modules if name not in packages_of(app) and not is_parallel(name)
    )
    classes: dict[str, set[str]] = defaultdict(set)
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes[node.name].add(name)
    return [
        *(name for name, count in names.items() if count > 1),
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
    graph = {name: set(imported_modules(tree, modules)) for name, tree in modules.items()}

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
    for folder in ("one", "package", "two"):
        (tmp_path / folder).mkdir()
    for folder in ("one", "two"):
        (tmp_path / folder / "accounts.py").touch()
    (tmp_path / "one" / "same.py").write_text("from app.two import cycle\n" + "x = 1\n" * MIN_LINES)
    (tmp_path / "two" / "same.py").write_text("class Same:\n    pass\n" + "x = 1\n" * MIN_LINES)
    (tmp_path / "two" / "cycle.py").write_text("from app.one import same\nclass Same:\n    pass\n")
    (tmp_path / "package" / "__init__.py").write_text("def opened():\n    from app.package.inner import x\n")
    (tmp_path / "package" / "inner.py").write_text("from app.package import opened\n" + "x = 1\n" * MIN_LINES)
    (tmp_path / "long.py").write_text("def long():\n" + "    x = 1\n" * MAX_FUNCTION_LINES)
    expected = {
        small_modules: ["app.two.cycle"],
        shared_names: ["accounts", "same", "Same"],
        long_functions: ["app.long.long"],
        import_cycles: ["app.one.same", "app.package", "app.package.inner", "app.two.cycle"],
    }
    assert check(tmp_path) == expected[check]  # type: ignore[operator, index]
