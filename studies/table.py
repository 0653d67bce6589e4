"""Print a study's results as Markdown: accuracy on test gold by encoder and recipe, in percent.

python studies/table.py studies/umls
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(study: Path) -> str:
    """One row an encoder, one column a recipe; with the interval over seeds, or the bootstrap's of one."""
    evaluation = json.loads((study / "metrics/evaluate.json").read_text())
    test, recipes = evaluation["test"], evaluation["recipes"]
    encoders, columns = ([*dict.fromkeys(name.rsplit("-", 1)[part] for name in recipes)] for part in (0, 1))
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for encoder in encoders:
        cells = [cell(test, f"{encoder}-{recipe}", recipes[f"{encoder}-{recipe}"]) for recipe in columns]
        lines.append(f"| {encoder} | {' | '.join(cells)} |")
    teacher = test["teacher"]["accuracy"]
    lines.append("")
    lines.append(
        f"Teacher on the same {test['texts']:,} texts: {percent(teacher)}; "
        f"always the commonest label: {100 * test['majority_class_rate']:.2f}."
    )
    return "\n".join(lines)


def cell(test: dict[str, Any], name: str, over: dict[str, Any]) -> str:
    """Mean ± half width over seeds, or one seed's value with its interval."""
    if over["accuracy_half_width"] is not None:
        return f"{100 * over['accuracy_mean']:.2f} ± {100 * over['accuracy_half_width']:.2f}"
    return percent(next(c for n, c in test["candidates"].items() if n.startswith(f"{name}-"))["accuracy"])


def percent(measured: dict[str, float]) -> str:
    """Value and interval."""
    return "{value:.2f} [{low:.2f}, {high:.2f}]".format(**{k: 100 * v for k, v in measured.items()})


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
