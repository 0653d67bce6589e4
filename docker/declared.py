"""Prints what pyproject.toml asks for, for `pip install --requirement`: `python declared.py EXTRA...`.

So that dependencies are a layer of their own, which a change of code leaves as it is.
"""

import sys
import tomllib
from pathlib import Path


def main() -> None:
    """Print one requirement a line."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras = [requirement for extra in sys.argv[1:] for requirement in project["optional-dependencies"][extra]]
    sys.stdout.write("\n".join([*project["dependencies"], *extras]) + "\n")


if __name__ == "__main__":
    main()
