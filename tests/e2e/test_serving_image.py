"""The serving image, built and used as a user would: needs a docker engine and LLAMBERT_BASE_IMAGE (docs/images.md).

What `make` is to be given besides (PIP_CONF=..., BUILD_ARGS=...) goes into LLAMBERT_MAKE_IMAGES.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_bulk import ENVIRONMENT, contents, write_corpus
from toy_model import LABELS, exported

ROOT = Path(__file__).parents[2]
IMAGE = "llambert-serving:test"
LOCKED_DOWN = ["--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"]

pytestmark = pytest.mark.slow


def docker(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *map(str, arguments)], capture_output=True, text=True, check=check)


@pytest.fixture(scope="module")
def image() -> str:
    base = os.environ.get("LLAMBERT_BASE_IMAGE")
    if not base:
        pytest.skip("LLAMBERT_BASE_IMAGE names no base image to build on")
    if not shutil.which("docker") or docker("info", check=False).returncode:
        pytest.skip("no docker engine answers")
    more = shlex.split(os.environ.get("LLAMBERT_MAKE_IMAGES", ""))
    subprocess.run(["make", "image-serving", "TAG=test", f"BASE_IMAGE={base}", *more], cwd=ROOT, check=True)
    return IMAGE


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that the image's user may write to, with an exported model that it may read."""
    place = tmp_path_factory.mktemp("place")
    place.chmod(0o777)
    shutil.copytree(exported(), place / "export").chmod(0o755)
    return place


def test_it_is_small_unprivileged_and_says_what_it_is(image: str) -> None:
    about = json.loads(docker("inspect", image).stdout)[0]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert about["Size"] <= 500e6
    assert about["Config"]["User"] == "10001:10001"
    assert about["Config"]["Labels"]["org.opencontainers.image.version"] == version


def test_it_has_what_it_needs_and_no_more(image: str) -> None:
    script = """
import importlib.util, openvino, s3fs, serving.jobs, serving.runtimes.onnxruntime_
print([name for name in ("torch", "transformers", "pipeline", "pip") if importlib.util.find_spec(name)])
print(openvino.Core().available_devices)"""
    assert docker("run", "--rm", *LOCKED_DOWN, image, "python", "-c", script).stdout == "[]\n['CPU']\n"


@pytest.mark.parametrize(
    ("runtime", "precision"),
    [("onnxruntime", "int8"), ("onnxruntime", "fp32"), ("openvino", "int8"), ("openvino", "fp32")],
)
def test_it_labels_as_it_does_outside(image: str, place: Path, runtime: str, precision: str) -> None:
    write_corpus(place / "in.jsonl", 100)
    label = ["-m", "serving", "label", place / "in.jsonl"]
    options = ["--model", place / "export", "--runtime", runtime, "--precision", precision]
    options += ["--shard-rows", "30"]
    inside, outside = place / f"inside-{runtime}-{precision}", place / f"outside-{runtime}-{precision}"
    subprocess.run([sys.executable, *label, outside, *options], env=ENVIRONMENT, check=True)
    docker(
        "run",
        "--rm",
        *LOCKED_DOWN,
        "--network=none",
        "-v",
        f"{place}:{place}",
        image,
        "python",
        *label,
        inside,
        *options,
    )
    assert contents(inside) == contents(outside)


def test_a_mistake_is_one_message(image: str) -> None:
    done = docker("run", "--rm", image, "python", "-m", "serving", "label", "in.csv", "/tmp/out", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: export is no exported model")


def test_stopping_takes_no_kill(image: str) -> None:
    name = docker("run", "--detach", *LOCKED_DOWN, image, "sleep", "60").stdout.strip()
    try:
        docker("stop", "--time=20", name)
        assert docker("inspect", "--format={{.State.ExitCode}}", name).stdout == "143\n"  # SIGTERM; 137 is SIGKILL
    finally:
        docker("rm", "--force", name)


@pytest.fixture
def service(image: str, place: Path) -> Iterator[str]:
    if not (ROOT / "serving/service.py").exists():
        pytest.skip("there is no service yet")
    mount = f"{place / 'export'}:/app/export:ro"
    name = docker("run", "--detach", *LOCKED_DOWN, "--network=host", "-v", mount, image).stdout.strip()
    yield name
    docker("rm", "--force", name)


def test_it_serves_becomes_healthy_and_drains(service: str) -> None:
    deadline = time.monotonic() + 90
    while (health := docker("inspect", "--format={{.State.Health.Status}}", service).stdout.strip()) != "healthy":
        assert time.monotonic() < deadline, docker("logs", service).stderr
        assert health == "starting"
        time.sleep(1)
    request = urllib.request.Request(
        "http://127.0.0.1:3000/classify",
        data=json.dumps({"texts": ["a fine film", "dull"]}).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        results = json.load(response)["results"]
    assert [set(result["probabilities"]) for result in results] == [set(LABELS)] * 2
    docker("stop", "--time=60", service)
    assert docker("inspect", "--format={{.State.ExitCode}}", service).stdout in ("0\n", "143\n")
