"""Schemathesis sends valid and invalid requests by the OpenAPI document, and checks the responses."""

import json
import re
from pathlib import Path

import pytest

from tests.support import NewLibrary, run, running
from tests.system.live.clients import BIN

pytestmark = pytest.mark.live

# Each run sends the same requests to every operation, with all checks of Schemathesis. The server may refuse
# (400) a name that the schema allows: a pattern of JSON Schema cannot count UTF-8 bytes, nor check NFC.
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

# Every form value is text, so that a number instead of a string is no invalid request.
[[operations]]
include-path = "/file/upload"
checks.negative_data_rejection.enabled = false

[checks.response_schema_conformance]
validate-formats = true
"""


# The document does not depend on the backend, and tests/http sends every operation to each of them.
pytestmark = pytest.mark.backends("filesystem", pytest.param("gridfs", marks=pytest.mark.campaign))


@pytest.mark.parametrize("examples", [10, pytest.param(50, marks=pytest.mark.campaign)])
def test_every_operation_responds_as_documented(
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
    results = json.loads(report.read_text())
    assert results["operations"]["tested"] == sum(len(methods) for methods in paths.values())
    assert results["test_cases"]["generated"] > 400
    for operation, phases in results["valid_rates"].items():
        counts = [(phase["accepted"], phase["unreachable"], phase["conflicts"]) for phase in phases.values()]
        assert any(map(any, counts)), f"every request to {operation} failed validation"
