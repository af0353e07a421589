"""Run tests that mostly wait at the same time, each in a thread."""

import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

Case = Callable[..., None]
Outcomes = dict[str, "Future[None]"]


class Together:
    """A decorator for tests whose only arguments come from the fixture with this name.

    The fixture has module scope; the first test that requests it starts all tests, and each test reports its
    own outcome."""

    def __init__(self, fixture: str) -> None:
        self._fixture = fixture
        self._cases: dict[str, Case] = {}

    def __call__(self, case: Case) -> Case:
        self._cases[case.__name__] = case

        def test(**fixtures: Outcomes) -> None:
            fixtures[self._fixture][case.__name__].result()

        parameter = inspect.Parameter(self._fixture, inspect.Parameter.KEYWORD_ONLY)
        test.__name__, test.__doc__, test.__wrapped__ = case.__name__, case.__doc__, case  # type: ignore[attr-defined]
        test.__signature__ = inspect.Signature([parameter])  # type: ignore[attr-defined]
        return test

    @contextmanager
    def begun(
        self, request: pytest.FixtureRequest, given: Callable[[str], tuple[object, ...]]
    ) -> Iterator[Outcomes]:
        """Run all tests that are selected. `given` returns the arguments of a test, by its name."""
        chosen = {getattr(item, "originalname", "") for item in request.session.items}
        cases = {name: case for name, case in self._cases.items() if name in chosen}
        with ThreadPoolExecutor(len(cases)) as pool:
            yield {name: pool.submit(case, *given(name)) for name, case in cases.items()}
