"""Schemathesis asks what the OpenAPI document allows, and what it does not, and holds us to it."""

import json
import re
from pathlib import Path

import pytest

from tests.live.clients import BIN
from tests.support import NewLibrary, run, running

pytestmark = pytest.mark.live

# The same requests in every run, to every operation of the document, with all of its checks. A name may be
# refused (400) that a JSON schema takes for valid: no pattern there tells bytes of UTF-8, or NFC.
CONFIG = """
[cache]
enabled = false

[generation]
deterministic = true
max-examples = {examples}

[dictionaries]
ranges.values = ["bytes=0-0", "bytes=0-0,2-2", "bytes=-5", "bytes=9999-"]
paths.values = ["film.mp4", "films/film.mp4"]
names.values = ["film.mp4"]
folders.values = ["", "films"]

[parameters]
"header.Range" = { dictionary = "ranges", probability = 0.5 }
"path.path" = { dictionary = "paths", probability = 0.5 }
"query.filename" = { dictionary = "names", probability = 0.5 }
"query.folder" = { dictionary = "folders", probability = 0.5 }

[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "400", "403", "404", "409", "412", "416"]

# All values in a form are text, so that a number where a text is meant is none on the wire.
[[operations]]
include-path = "/file/upload"
checks.negative_data_rejection.enabled = false

[checks.response_schema_conformance]
validate-formats = true
"""


# The document does not depend on the backend, and tests/http asks each of them all that is in it.
pytestmark = pytest.mark.backends("filesystem", pytest.param("gridfs", marks=pytest.mark.campaign))


@pytest.mark.parametrize("examples", [10, pytest.param(50, marks=pytest.mark.campaign)])
def test_every_operation_answers_as_it_is_documented(
    tmp_path: Path, new_library: NewLibrary, examples: int
) -> None:
    config, report = tmp_path / "schemathesis.toml", tmp_path / "report.json"
    config.write_text(CONFIG.replace("{examples}", str(examples)))
    with running(tmp_path / "server", **new_library()) as server:
        with server.client() as http:
            http.put("/files/films/film.mp4", content=bytes(100)).raise_for_status()
            paths = http.get("/openapi.json").json()["paths"]
        result = run(
            *(BIN / "schemathesis", "--config-file", config, "run", f"{server.url}/openapi.json"),
            *("--no-color", "--continue-on-failure", "--report", "json", "--report-json-path", report),
            timeout=110,
            check=False,
        )
        assert result.returncode == 0, result.stdout
        log = server.log()
    assert "Traceback" not in log
    statuses = set(map(int, re.findall(r'HTTP/1.1" ([0-9]{3})', log)))
    assert statuses >= {200, 201, 204, 206, 400, 404, 405, 409, 416, 422}
    told = json.loads(report.read_text())
    assert told["operations"]["tested"] == sum(len(methods) for methods in paths.values())
    assert told["test_cases"]["generated"] > 400
    for operation, phases in told["valid_rates"].items():
        counts = [(phase["accepted"], phase["unreachable"], phase["conflicts"]) for phase in phases.values()]
        assert any(map(any, counts)), f"all that was asked of {operation} was refused unseen"
