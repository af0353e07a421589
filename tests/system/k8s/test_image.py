"""The Dockerfile, as far as it goes without a container engine: its promises, and its steps done by hand."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import httpx
import pytest

from tests.support import need, need_root, run

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[3]
HASHED = {"--require-hashes", "--only-binary"}


def instructions() -> list[tuple[str, str]]:
    """Each instruction and its arguments, with continued lines joined and comments left out."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    words = (line.partition(" ") for line in text.splitlines() if line)
    return [(instruction, arguments.strip()) for instruction, _, arguments in words]


def of(name: str) -> list[str]:
    return [arguments for instruction, arguments in instructions() if instruction == name]


def last_stage() -> dict[str, str]:
    """What the image is made by."""
    everything = instructions()
    begin = max(i for i, (instruction, _) in enumerate(everything) if instruction == "FROM")
    return dict(everything[begin:])


def environment() -> dict[str, str]:
    pairs = (word.partition("=") for word in shlex.split(last_stage()["ENV"]))
    return {name: value for name, _, value in pairs}


def command(text: str) -> list[str]:
    """Of the exec form, which needs no shell."""
    words: list[str] = json.loads(text)
    return words


def pins(lock: str) -> dict[str, str]:
    """Names and versions of a lock file, with their hashes."""
    text = (ROOT / lock).read_text().replace("\\\n", "")
    lines = (line.split("==", 1) for line in text.splitlines() if "==" in line)
    return {name: " ".join(rest.split()) for name, rest in lines}


def test_it_runs_as_somebody_who_is_not_root_by_number() -> None:
    user, group = last_stage()["USER"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert f"--owner={user} --group={group}" in of("RUN")[-1]


def test_nothing_is_installed_whose_hash_is_not_known() -> None:
    steps = [
        step
        for text in of("RUN")
        for step in re.split(r"&&|;|\|", text)
        if " install " in step and "pip" in step
    ]
    assert len(steps) == 3
    for step in steps:
        words = set(shlex.split(step))
        ours = words >= {"--no-deps", "--no-index", "dist/*.whl"}
        assert ours or words >= HASHED
    for lock in re.findall(r"-r (\S+)", " ".join(steps)):
        assert all("--hash=sha256:" in rest for rest in pins(lock).values())


@pytest.mark.parametrize("lock", ["deploy/image.lock", "deploy/build.lock"])
def test_its_versions_are_those_that_were_tested(lock: str) -> None:
    """If this fails: make lock."""
    assert pins(lock)
    assert pins(lock).items() <= pins("requirements.lock").items()


def test_it_has_all_that_the_program_needs_and_nothing_of_the_tests() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    wanted = re.search(r"^dependencies = \[(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    assert wanted is not None
    names = {re.split(r"[\[>=]", name)[0] for name in re.findall(r'"(\S+)"', wanted[1])}
    have = pins("deploy/image.lock").keys()
    assert {name.split("[")[0] for name in names} <= {name.split("[")[0] for name in have}
    assert not {"pytest", "ruff", "mypy", "hatchling", "playwright"} & have


def test_what_it_copies_is_there_and_not_ignored() -> None:
    kept = re.findall(r"^!(.+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    sources = [word for text in of("COPY") if "--from" not in text for word in text.split()[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists()
        assert any(fnmatch(source, pattern) for pattern in kept)


def test_no_upload_could_be_taken_for_settings() -> None:
    assert last_stage()["WORKDIR"] == "/"
    assert command(last_stage()["VOLUME"]) == [environment()["SEEKABLE_FILES_DIR"]]


def test_it_is_no_registry_that_is_named() -> None:
    assert [re.fullmatch(r"[a-z]+:\S+( AS \w+)?", source) is not None for source in of("FROM")] == [
        True,
        True,
    ]


@dataclass(frozen=True)
class Container:
    """What runs the image's commands as its user, where only `data` can be written."""

    binaries: Path
    data: Path
    log: Path
    settings: dict[str, str]

    def words(self, *command: str) -> list[str]:
        user, group = last_stage()["USER"].split(":")
        # The Python of this machine may be where only root can read. With this bit access(2) knows, too.
        read = "+dac_read_search"
        become = f"--reuid={user} --regid={group} --clear-groups --no-new-privs --securebits=+no_setuid_fixup"
        caps = f"--inh-caps=-all,{read} --ambient-caps=-all,{read} --bounding-set=-all,{read}"
        place = last_stage()["WORKDIR"]
        alone = f"mount --bind {self.data} {self.data} && mount -o remount,bind,ro / && cd {place}"
        inside = ["setpriv", *become.split(), *caps.split(), *command]
        return ["unshare", "--mount", "sh", "-c", f'{alone} && exec "$@"', "sh", *inside]

    def environment(self, **more: str) -> dict[str, str]:
        path = f"{self.binaries}:{os.environ['PATH']}"
        ours = environment() | {"SEEKABLE_FILES_DIR": str(self.data), "SEEKABLE_HOST": "127.0.0.1"}
        return {**ours, "PATH": path, **self.settings, **more}

    @contextmanager
    def running(self) -> Iterator[int]:
        """Its port."""
        command_line = [*command(last_stage()["ENTRYPOINT"]), *command(last_stage()["CMD"])]
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                self.words(*command_line),
                env=self.environment(SEEKABLE_PORT="0"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            yield self._port(process)
        finally:
            process.terminate()
            assert process.wait(timeout=60) == 0, self.log.read_text()

    def _port(self, process: "subprocess.Popen[bytes]") -> int:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and process.poll() is None:
            if found := re.search(r"running on http://127.0.0.1:(\d+)", self.log.read_text()):
                return int(found[1])
            time.sleep(0.02)
        raise AssertionError(self.log.read_text())

    def health(self, port: int) -> int:
        """The exit status of the health check."""
        check = re.search(r"CMD (\[.*\])", last_stage()["HEALTHCHECK"])
        assert check is not None
        return subprocess.run(
            self.words(*command(check[1])),
            env=self.environment(SEEKABLE_PORT=str(port)),
            stderr=subprocess.DEVNULL,
        ).returncode


def container(folder: Path, binaries: Path, **settings: str) -> Container:
    need_root()
    need("unshare", "setpriv", "mount")
    user, group = last_stage()["USER"].split(":")
    data = folder / "data"
    data.mkdir(parents=True)
    shutil.chown(data, int(user), int(group))
    return Container(binaries, data, folder / "log", settings)


def serves(container: Container) -> None:
    """That it takes a film, is healthy as long as it runs, and can write nowhere else."""
    with container.running() as port:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            assert client.put("/files/film.mp4", content=b"film").status_code == 201
            assert client.get("/files/film.mp4").content == b"film"
        assert container.health(port) == 0
        container.log.chmod(0o666)
        written = run(*container.words("touch", str(container.log)), check=False)
        assert "Read-only file system" in written.stderr
    assert (container.data / "film.mp4").stat().st_uid == int(last_stage()["USER"].split(":")[0])
    assert container.health(port) == 1


def test_its_commands_work_as_its_user_where_only_the_films_can_be_written(tmp_path: Path) -> None:
    serves(container(tmp_path, Path(sys.executable).parent, SEEKABLE_ACCESS="open"))


def test_it_lets_in_nobody_until_somebody_says_whom(tmp_path: Path) -> None:
    here = container(tmp_path, Path(sys.executable).parent, SEEKABLE_HOST="0.0.0.0")
    done = subprocess.run(
        here.words("seekable", "serve"), env=here.environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "SEEKABLE_ACCESS" in done.stderr


@pytest.mark.campaign
@pytest.mark.timeout(600)
def test_its_steps_make_what_runs(tmp_path: Path) -> None:
    """All of it, by hand: the build stage's steps in a folder in place of the root."""
    source, place = tmp_path / "src", tmp_path / "opt"
    source.mkdir()
    for instruction, arguments in instructions():
        if instruction == "COPY" and "--from" not in arguments:
            *names, target = arguments.split()
            for name in names:
                to = source / target / Path(name).name if target.endswith("/") else source / target
                to.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, to)
        elif instruction == "RUN" and "/opt/" in arguments:
            step = arguments.replace("/opt/", f"{place}/").replace("python -m", f"{sys.executable} -m")
            done = subprocess.run(["sh", "-c", step], cwd=source, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    assert not (place / "seekable" / "bin" / "pip").exists()
    serves(container(tmp_path / "here", place / "seekable" / "bin", SEEKABLE_ACCESS="open"))
