"""The Dockerfile, without a container engine: its instructions, and its steps run by hand."""

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
    """Return each instruction with its arguments, continued lines joined, without comments."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    words = (line.partition(" ") for line in text.splitlines() if line)
    return [(instruction, arguments.strip()) for instruction, _, arguments in words]


def arguments_of(name: str) -> list[str]:
    """Return the arguments of each instruction with this name."""
    return [arguments for instruction, arguments in instructions() if instruction == name]


def last_stage() -> dict[str, str]:
    """Return the last value of each instruction in the stage that becomes the image."""
    everything = instructions()
    begin = max(i for i, (instruction, _) in enumerate(everything) if instruction == "FROM")
    return dict(everything[begin:])


def environment() -> dict[str, str]:
    pairs = (word.partition("=") for word in shlex.split(last_stage()["ENV"]))
    return {name: value for name, _, value in pairs}


def command(text: str) -> list[str]:
    """Return the words of an exec form, which needs no shell."""
    words: list[str] = json.loads(text)
    return words


def locked_packages(lock: str) -> dict[str, str]:
    """Return the version and hashes of each package in a lock file, by name; without its environment marker.

    A package that the program needs on one system, tests may need on all.
    """
    text = (ROOT / lock).read_text().replace("\\\n", "")
    lines = (line.split("==", 1) for line in text.splitlines() if "==" in line)
    return {name: re.sub(r" ; .*?(?= --hash)", "", " ".join(rest.split())) for name, rest in lines}


def test_image_runs_as_numeric_user_other_than_root() -> None:
    user, group = last_stage()["USER"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert f"--owner={user} --group={group}" in arguments_of("RUN")[-1]


def test_every_installed_package_has_a_hash() -> None:
    steps = [
        step
        for text in arguments_of("RUN")
        for step in re.split(r"&&|;|\|", text)
        if " install " in step and "pip" in step
    ]
    assert len(steps) == 3
    for step in steps:
        words = set(shlex.split(step))
        is_own_wheel = words >= {"--no-deps", "--no-index", "dist/*.whl"}
        assert is_own_wheel or words >= HASHED
    for lock in re.findall(r"-r (\S+)", " ".join(steps)):
        assert all("--hash=sha256:" in rest for rest in locked_packages(lock).values())


@pytest.mark.parametrize("lock", ["default", "postgresql", "build"])
def test_installed_versions_are_those_of_tests(lock: str) -> None:
    """If this fails, run `make lock`."""
    locked, tested = locked_packages(f"locks/{lock}.lock"), locked_packages("locks/dev.lock")
    assert locked
    assert locked.items() <= tested.items()


def test_image_has_dependencies_of_program_and_no_test_packages() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    dependencies = re.search(r"^dependencies = \[(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    assert dependencies is not None
    names = {re.split(r"[\[>=]", name)[0] for name in re.findall(r'"(\S+)"', dependencies[1])}
    names |= {"psycopg", "psycopg-binary"}
    locked = locked_packages("locks/postgresql.lock").keys()
    assert {name.split("[")[0] for name in names} <= {name.split("[")[0] for name in locked}
    assert not {"pytest", "ruff", "mypy", "hatchling", "playwright"} & locked


def test_copied_files_exist_and_are_not_ignored() -> None:
    included = re.findall(r"^!(.+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    sources = [word for text in arguments_of("COPY") if "--from" not in text for word in text.split()[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists()
        assert any(fnmatch(source, pattern) for pattern in included)


def test_working_directory_is_outside_library() -> None:
    assert last_stage()["WORKDIR"] == "/"
    assert command(last_stage()["VOLUME"]) == [environment()["SEEKABLE_FILES_DIR"]]


def test_base_images_name_no_registry() -> None:
    assert [re.fullmatch(r"[a-z]+:\S+( AS \w+)?", source) is not None for source in arguments_of("FROM")] == [
        True,
        True,
    ]


@dataclass(frozen=True)
class Container:
    """A mount namespace for the image's commands and user, where only `data` is writable."""

    binaries: Path
    data: Path
    log: Path
    settings: dict[str, str]

    def command_line(self, *command: str) -> list[str]:
        """Return the command line that runs a command in the container."""
        user, group = last_stage()["USER"].split(":")
        # Only root may be able to read this machine's Python. The secure bit makes access(2) agree.
        read = "+dac_read_search"
        become = f"--reuid={user} --regid={group} --clear-groups --no-new-privs --securebits=+no_setuid_fixup"
        caps = f"--inh-caps=-all,{read} --ambient-caps=-all,{read} --bounding-set=-all,{read}"
        workdir = last_stage()["WORKDIR"]
        isolate = f"mount --bind {self.data} {self.data} && mount -o remount,bind,ro / && cd {workdir}"
        unprivileged = ["setpriv", *become.split(), *caps.split(), *command]
        return ["unshare", "--mount", "sh", "-c", f'{isolate} && exec "$@"', "sh", *unprivileged]

    def environment(self, **more: str) -> dict[str, str]:
        path = f"{self.binaries}:{os.environ['PATH']}"
        image = environment() | {"SEEKABLE_FILES_DIR": str(self.data), "SEEKABLE_HOST": "127.0.0.1"}
        return {**image, "PATH": path, **self.settings, **more}

    @contextmanager
    def running(self) -> Iterator[int]:
        """Run the image's command, and yield the server's port."""
        words = [*command(last_stage()["ENTRYPOINT"]), *command(last_stage()["CMD"])]
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                self.command_line(*words),
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
        """Run the image's health check, and return its exit status."""
        check = re.search(r"CMD (\[.*\])", last_stage()["HEALTHCHECK"])
        assert check is not None
        return subprocess.run(
            self.command_line(*command(check[1])),
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


def check_serves(container: Container) -> None:
    """Check that the server stores a film, is healthy while it runs, and can write nowhere else."""
    with container.running() as port:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            assert client.put("/files/film.mp4", content=b"film").status_code == 201
            assert client.get("/files/film.mp4").content == b"film"
        assert container.health(port) == 0
        container.log.chmod(0o666)
        written = run(*container.command_line("touch", str(container.log)), check=False)
        assert "Read-only file system" in written.stderr
    assert (container.data / "film.mp4").stat().st_uid == int(last_stage()["USER"].split(":")[0])
    assert container.health(port) == 1


def test_image_serves_as_its_user_when_only_library_is_writable(tmp_path: Path) -> None:
    check_serves(container(tmp_path, Path(sys.executable).parent, SEEKABLE_ACCESS="open"))


def test_image_refuses_to_start_without_access_setting(tmp_path: Path) -> None:
    isolated = container(tmp_path, Path(sys.executable).parent, SEEKABLE_HOST="0.0.0.0")
    done = subprocess.run(
        isolated.command_line("seekable", "serve"),
        env=isolated.environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "SEEKABLE_ACCESS" in done.stderr


@pytest.mark.campaign
@pytest.mark.timeout(600)
def test_steps_of_build_produce_working_server(tmp_path: Path) -> None:
    """Runs every step of the build stage by hand, in a folder instead of the root."""
    source, target_root = tmp_path / "src", tmp_path / "opt"
    source.mkdir()
    for instruction, arguments in instructions():
        if instruction == "COPY" and "--from" not in arguments:
            *names, target = arguments.split()
            for name in names:
                to = source / target / Path(name).name if target.endswith("/") else source / target
                to.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, to)
        elif instruction == "RUN" and "/opt/" in arguments:
            step = arguments.replace("/opt/", f"{target_root}/").replace("python -m", f"{sys.executable} -m")
            done = subprocess.run(["sh", "-c", step], cwd=source, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    assert not (target_root / "seekable" / "bin" / "pip").exists()
    check_serves(container(tmp_path / "container", target_root / "seekable" / "bin", SEEKABLE_ACCESS="open"))
