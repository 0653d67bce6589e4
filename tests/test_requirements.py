"""What is imported, asked for and pinned: pyproject.toml, the images' lists, the Bento's and the two locks agree."""

import ast
import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPENDENCIES, EXTRAS = PROJECT["dependencies"], PROJECT["optional-dependencies"]
# what an image alone has, or has in narrower bounds
OWN = {"pipeline.txt": {"psycopg", "boto3"}, "serving-gpu.txt": {"onnxruntime-gpu"}}
# imported only where somebody asks for it, with a message of its own where it is missing
ELSEWHERE = {"torch", "ray", "nncf", "safetensors", "datasets"}
# a wheel pins the other to one version
PARTS = {"pydantic-core": "pydantic"}


def requirements(path: Path) -> dict[str, Requirement]:
    """What a requirements file asks for, its -r files included."""
    found: dict[str, Requirement] = {}
    for line in path.read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            found |= requirements(path.parent / line[3:])
        elif line:
            found[canonicalize_name(Requirement(line).name)] = Requirement(line)
    return found


def parsed(lines: list[str]) -> dict[str, Requirement]:
    """Requirements by name."""
    return {canonicalize_name(one.name): one for one in map(Requirement, lines)}


def direct() -> dict[str, Requirement]:
    """What the project asks for, with the extras that are locked: all but vllm."""
    lines = [*DEPENDENCIES, *(line for extra in EXTRAS.keys() - {"vllm"} for line in EXTRAS[extra])]
    return {name: one for name, one in parsed(lines).items() if name != PROJECT["name"]}


def pins(path: Path) -> dict[str, str]:
    """Versions of a lock file."""
    asked = requirements(path).values()
    return {canonicalize_name(one.name): next(iter(one.specifier)).version for one in asked}


def imported(package: Path) -> set[str]:
    """Top-level modules that are imported anywhere, in functions too."""
    found: set[str] = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).split(".")[0])
    return found - sys.stdlib_module_names - {"serving"}


@pytest.mark.parametrize("file", ["serving-cpu.txt", "serving-gpu.txt"])
def test_the_serving_image_has_what_serving_imports(file: str) -> None:
    distributions = importlib.metadata.packages_distributions()
    runtimes = {"onnxruntime", "openvino"}
    has = requirements(DOCKER / file)
    missing = []
    for module in imported(ROOT / "serving") - ELSEWHERE - runtimes:
        makers = {canonicalize_name(name) for name in distributions[module]}  # of mlflow there are three
        if not has.keys() & (makers | {PARTS[name] for name in makers & PARTS.keys()}):
            missing.append(module)
    assert missing == []
    assert has.keys() & {"onnxruntime", "onnxruntime-gpu"}
    assert not has.keys() & {"torch", "transformers", "mlflow", "llambert"}


def test_serving_imports_nothing_of_the_training_half() -> None:
    assert "pipeline" not in imported(ROOT / "serving")


@pytest.mark.parametrize("file", ["serving-cpu.txt", "serving-gpu.txt", "pipeline.txt"])
def test_images_ask_for_what_the_project_asks_for(file: str) -> None:
    asked, project = requirements(DOCKER / file), parsed([*DEPENDENCIES, *EXTRAS["s3"], *EXTRAS["serve"]])
    project["mlflow-skinny"] = project["mlflow"]  # of the same version always
    own = OWN.get(file, set())
    bounds = {name: one.specifier for name, one in asked.items() if name not in own}
    assert bounds == {name: project[name].specifier for name in asked.keys() - own}


def test_the_bento_asks_for_what_the_serving_image_asks_for() -> None:
    lines = YAML(typ="safe").load(ROOT / "bentofile.yaml")["python"]["packages"]
    assert parsed(lines) == requirements(DOCKER / "serving-cpu.txt")


@pytest.mark.parametrize("file", ["serving-cpu.txt", "serving-gpu.txt", "pipeline.txt", "pyproject.toml"])
def test_what_is_asked_for_is_pinned_within_its_bounds(file: str) -> None:
    locked = pins(ROOT / "constraints.txt")
    asked = direct() if file == "pyproject.toml" else requirements(DOCKER / file)
    assert asked.keys() <= locked.keys()
    assert [str(one) for name, one in asked.items() if not one.specifier.contains(locked[name])] == []


@pytest.mark.parametrize("path", [ROOT / "constraints.txt", DOCKER / "vllm.lock"], ids=lambda path: path.name)
def test_nothing_is_pinned_twice(path: Path) -> None:
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    names = [canonicalize_name(Requirement(line).name) for line in lines if line]
    assert len(names) == len(set(names))


def test_what_is_needed_indirectly_is_pinned_too() -> None:
    locked, found = pins(ROOT / "constraints.txt"), set()
    left = [*requirements(DOCKER / "serving-cpu.txt"), *direct()]
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # not here, as s3fs
        kept = (Requirement(line) for line in needs)
        left += [canonicalize_name(one.name) for one in kept if not one.marker or one.marker.evaluate({"extra": ""})]
    assert len(found) > 200
    assert found - locked.keys() == set()


def test_the_vllm_lock_has_what_the_project_asks_for() -> None:
    locked = pins(DOCKER / "vllm.lock")
    asked = parsed([*DEPENDENCIES, *EXTRAS["vllm"], *EXTRAS["s3"]]) | requirements(DOCKER / "pipeline.txt")
    assert [name for name, one in asked.items() if not one.specifier.contains(locked[name])] == []


def test_declared_prints_the_dependencies() -> None:
    command = [sys.executable, DOCKER / "declared.py", "s3"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    assert printed == [*DEPENDENCIES, *EXTRAS["s3"], ""]
