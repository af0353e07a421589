"""The memory of a server does not grow with the length of uploads. Over the filesystem backend."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import Server, running
from tests.system.soak.memory import peak, post_form, put

SIZE = 128
LIMIT = 10
AT_ONCE = 20
LIMIT_EACH = 4  # a batch that is collected, a batch that is written, and the chunks of both


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running(tmp_path, storage="filesystem") as server:
        yield server


def test_memory_does_not_grow_with_length_of_uploads(server: Server) -> None:
    def growth(work: Callable[[], object]) -> float:
        peak(server)
        idle = server.rss() / (1 << 20)
        work()
        return peak(server) - idle

    put(server, 4, "first.bin")
    for upload in (put, post_form):
        assert growth(lambda upload=upload: upload(server, SIZE)) <= LIMIT, upload.__name__  # type: ignore[misc]
    with ThreadPoolExecutor(AT_ONCE) as clients:
        names = [f"{number}.bin" for number in range(AT_ONCE)]
        assert (
            growth(lambda: [*clients.map(lambda name: put(server, 8, name), names)]) <= LIMIT_EACH * AT_ONCE
        )
