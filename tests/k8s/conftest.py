from collections.abc import Iterator

import pytest

from tests.k8s.helm import Helm


@pytest.fixture(scope="session")
def helm() -> Iterator[Helm]:
    helm = Helm()
    yield helm
    helm.close()
