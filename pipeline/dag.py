"""dvc.yaml as it follows from params.yaml and, in this repository, from the code: stages depend on what they import.

Without that a changed module would leave a stale cache, silently. A user's project has no code in it, nor such lines.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from textwrap import wrap

from pipeline.params import Params

_ROOT = Path(__file__).parents[1]
_TEMPLATE = Path(__file__).with_name("template") / "dag.yaml"
_STAGE = re.compile(r"^  (\w+):$")
_DEPS = re.compile(r"^    deps: \[(.*)\]$")
OPTIONAL = re.compile(r"\$\{(\w+)\.(\w+)\.path\}")


def render(params: Params, code: str | None = None) -> str:
    """The text of dvc.yaml.

    Args:
        params: decide which gold files and corpora there are to depend on.
        code: path from the project to the directory that holds `pipeline` and `serving`; null: don't depend on code.
    """
    lines, stage = [], ""
    for line in _TEMPLATE.read_text().splitlines():
        stage = found[1] if (found := _STAGE.match(line)) else stage
        if not (deps := _DEPS.match(line)):
            lines.append(line)
            continue
        items = [item for item in deps[1].split(", ") if _given(item, params)]
        if code is not None:
            items += [(Path(code) / path).as_posix() for path in sources(f"pipeline.stages.{stage}")]
        listed = ", ".join(items)
        short = f"    deps: [{listed}]"
        broken = wrap(listed, 112, break_long_words=False, break_on_hyphens=False)
        lines += (
            [short]
            if code is None
            else ["    deps:", f"      [{broken[0]}", *(f"       {part}" for part in broken[1:])]
        )
        if code is not None:
            lines[-1] += "]"
    return "\n".join(lines) + "\n"


def sources(module: str) -> list[str]:
    """Files of ours that a module imports, directly or not, and the files that it names; relative to the repository."""
    found: dict[str, None] = {}
    todo = [module]
    while todo:
        path = _file(todo.pop())
        if path is None or (name := path.relative_to(_ROOT).as_posix()) in found:
            continue
        found[name] = None
        modules, named = _mentions(path)
        todo += modules
        found |= dict.fromkeys(named)
    return sorted(found)


def _given(item: str, params: Params) -> bool:
    match = OPTIONAL.search(item)
    return match is None or getattr(getattr(params, match[1]), match[2]) is not None


@cache
def _mentions(path: Path) -> tuple[list[str], list[str]]:
    modules, named = [], []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            named += _named_files(path, node.value)
    return [part for module in modules for part in _with_packages(module)], named


def _with_packages(module: str) -> Iterator[str]:
    parts = module.split(".")
    yield from (".".join(parts[: i + 1]) for i in range(len(parts)))


def _named_files(path: Path, text: str) -> list[str]:
    """Templates and scripts of the package that a module names."""
    if not re.fullmatch(r"[\w.]+\.(j2|py)", text):
        return []
    places = {path.with_name(text), Path(__file__).with_name(text)} - {path}
    return [place.relative_to(_ROOT).as_posix() for place in places if place.is_file()]


def _file(module: str) -> Path | None:
    if module.split(".")[0] not in ("pipeline", "serving"):
        return None
    base = _ROOT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
