"""dvc.yaml as it follows from params.yaml and, in this repository, from the code: stages depend on what they import.

Without that a changed module would leave a stale cache, silently. A user's project has no code in it, nor such lines.

What params.yaml does not have is left out: a stage that names an absent block or key among its `params`, what such a
stage writes from the dependencies of others, and from any stage's `params` an absent one marked with `?` (`certify?`).
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from textwrap import wrap
from typing import Any

from pipeline.params import Params

_ROOT = Path(__file__).parents[1]
_TEMPLATE = Path(__file__).with_name("template") / "dag.yaml"
STAGE = re.compile(r"^  (\w+):$", re.MULTILINE)
_DEPS = re.compile(r"^    deps: \[(.*)\]$")
_PARAMS = re.compile(r"^    params: \[(.*)\]$")
OPTIONAL = re.compile(r"\$\{(\w+)\.(\w+)\.path\}")


def render(params: Params, code: str | None = None) -> str:
    """The text of dvc.yaml.

    Args:
        params: decide which stages there are, and which gold files and corpora they depend on.
        code: path from the project to the directory that holds `pipeline` and `serving`; null: don't depend on code.
    """
    there, missing = stages(params), _missing(params)
    lines, stage = [], ""
    for line in _TEMPLATE.read_text().splitlines():
        stage = found[1] if (found := STAGE.match(line)) else stage
        if stage and stage not in there:
            continue
        if deps := _DEPS.match(line):
            given = (item for item in deps[1].split(", ") if _given(item, params) and item not in missing)
            items = [_resolved(item, params) for item in given]
            lines += _deps(items, stage, code)
        elif named := _PARAMS.match(line):
            kept = [
                e.rstrip("?") for e in named[1].split(", ") if e[0] != "~" and not (e[-1] == "?" and _absent(params, e))
            ]
            lines.append(f"    params: [{', '.join(kept)}]")
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def stages(params: Params) -> list[str]:
    """Names of the stages that params.yaml wants, in order."""
    return [name for name, stage in _template().items() if _wanted(stage, params)]


def _wanted(stage: dict[str, Any], params: Params) -> bool:
    """Each of its params is there, but those with `?`; those with `~`, whose stage is there instead, are not."""
    return all(
        _absent(params, e[1:]) if e[0] == "~" else e[-1] == "?" or not _absent(params, e) for e in stage["params"]
    )


def _missing(params: Params) -> set[str]:
    """What nobody writes because its stage is left out."""
    outs: dict[bool, set[str]] = {True: set(), False: set()}
    for stage in _template().values():
        named = (out if isinstance(out, str) else next(iter(out)) for out in stage.get("outs", []))
        outs[_wanted(stage, params)].update(named)
    return outs[False] - outs[True]


def _absent(params: Params, entry: str) -> bool:
    """Whether params.yaml has nothing at `entry`, such as `label.target_error`."""
    value: Any = params.model_dump(by_alias=True, exclude_unset=True)
    for part in entry.rstrip("?").split(".${")[0].split("."):
        value = None if value is None else value.get(part)
    return value is None


def _template() -> dict[str, dict[str, Any]]:
    from ruamel.yaml import YAML

    found: dict[str, dict[str, Any]] = YAML(typ="safe", pure=True).load(_TEMPLATE)["stages"]
    return found


def _deps(items: list[str], stage: str, code: str | None) -> list[str]:
    if code is None:
        return [f"    deps: [{', '.join(items)}]"]
    items = items + [(Path(code) / path).as_posix() for path in sources(f"pipeline.stages.{stage}")]
    first, *others = wrap(f"{', '.join(items)}]", 112, break_long_words=False, break_on_hyphens=False)
    return ["    deps:", f"      [{first}", *(f"       {part}" for part in others)]


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


def _resolved(item: str, params: Params) -> str:
    """DVC fills in what stands in params.yaml; a default that does not is written out."""
    match = OPTIONAL.search(item)
    if match is None or not _absent(params, f"{match[1]}.{match[2]}.path"):
        return item
    return str(getattr(getattr(params, match[1]), match[2]).path)


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
