"""The commands of docs/kubernetes.md: their values are taken by the chart, one after the other."""

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
from chart import CHART, Values, merged, render

ROOT = CHART.parents[1]
PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
LINES = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
BASE: Values = {"model": {"version": "1"}}


def arguments(line: str) -> Values:
    """Values of a command line, in Helm's own reading."""
    words = shlex.split(line)
    assert words[:2] in (["helm", "install"], ["helm", "upgrade"])
    assert (words[2], ROOT / words[3]) == ("llambert", CHART)
    values: list[Any] = [BASE if "--reset-then-reuse-values" in words else {}]
    for flag, word in pairwise(words):
        if flag == "-f":
            values.append(helm.values_from_yaml((ROOT / word).read_text()))
        if flag == "--set":
            values.append(helm.parse_set_string(word))
    return merged(*values)


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith(("helm install", "helm upgrade"))])
def test_its_values_are_taken(line: str) -> None:
    assert render(arguments(line), name="llambert")


def test_all_other_commands_are_of_tools_that_are_named() -> None:
    others = {" ".join(line.split()[:2]) for line in LINES if not line.startswith(("helm install", "helm upgrade"))}
    assert others == {"helm rollback", "helm test", "kubectl create", "make chart"}


def test_its_values_exist() -> None:
    """Those in the text as well, written `like.this`."""
    defaults = helm.values_from_yaml((CHART / "values.yaml").read_text())
    for path in re.findall(r"`((?:[a-z][A-Za-z]+\.)+[a-zA-Z]+)(?:=\S+)?`", PAGE):
        keys = path.split(".")
        if keys[0] not in defaults or keys[-1] in {"yaml", "md"}:
            continue
        value: Any = defaults
        for key in keys:
            assert key in value, path
            value = value[key]


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (Path(ROOT) / "docs" / target).exists(), target
