"""Lint the chart strictly with every values file and package it: `python k8s/package.py DIRECTORY`. Needs no helm."""

import sys
from pathlib import Path

import helm_python as helm

CHART = Path(__file__).with_name("llambert")
WARNING = 2


def findings() -> list[str]:
    """What a strict lint finds fault with, with the defaults and with each values file over them."""
    out = []
    for path in sorted(CHART.glob("values*.yaml")):
        report = helm.lint(CHART, helm.values_from_yaml(path.read_text()), strict=True)
        messages = [m["error"] for m in report["messages"] if m["severity"] >= WARNING]
        out += [f"{path.name}: {error}" for error in dict.fromkeys([*messages, *report["errors"]])]
    return out


def main(directory: str) -> None:
    """Write the package, or say what is wrong with the chart."""
    if found := findings():
        sys.exit("the chart is not as it should be:\n  " + "\n  ".join(found))
    Path(directory).mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"{helm.package(CHART, destination=directory)}\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python k8s/package.py DIRECTORY")
    main(sys.argv[1])
