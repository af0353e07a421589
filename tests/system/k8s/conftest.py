import platform
import sys
from collections.abc import Iterator

import pytest

from tests.support import skip_or_fail
from tests.system.k8s.environments import ENVIRONMENTS
from tests.system.k8s.helm import Helm
from tests.system.k8s.installed import Installed, environment_of


@pytest.fixture(scope="session")
def helm() -> Iterator[Helm]:
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        skip_or_fail("Helm's package runs only on Linux on x86-64")
    helm = Helm()
    yield helm
    helm.close()


@pytest.fixture(params=ENVIRONMENTS)
def installed(request: pytest.FixtureRequest, helm: Helm) -> Installed:
    """The chart, installed with the values of each environment."""
    return environment_of(helm, request.param)
