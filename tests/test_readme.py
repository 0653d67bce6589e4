"""The README's commands exist, its files too; `tests/e2e` runs the flow that it describes."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_commands_exist() -> None:
    named = set(re.findall(r"`?llambert ([a-z]+(?:-[a-z]+)?)\b", README))
    shown = subprocess.run([sys.executable, "-m", "pipeline", "--help"], capture_output=True, text=True, check=True)
    missing = {command for command in named if not re.search(rf"│ {command}\s", shown.stdout)}
    assert named >= {"init", "check", "dag", "results", "models", "promote", "rollback", "label-text"}
    assert not missing


def test_make_targets_exist_and_ci_runs_the_readmes_test_command() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)", README))
    assert {"demo", "test"} <= named <= targets
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_the_first_command_comes_within_25_lines() -> None:
    assert "make demo" in README.splitlines()[:25]


def test_linked_files_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert all((ROOT / link).exists() for link in links)


def test_every_stage_is_in_the_table() -> None:
    stages = {path.stem for path in (ROOT / "pipeline/stages").glob("[a-z]*.py")}
    assert stages == set(re.findall(r"^\| ([a-z]+) \| .* \| .* \|", README, flags=re.MULTILINE)) - {"stage"}
