"""review: people look at items on a local page; what they say becomes corrections or gold, and a table of errors."""

import getpass
import socket
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pipeline import params, reviewing
from pipeline.artifacts import BEST, GOLD, REVIEWED, metrics
from pipeline.errors import UserError
from pipeline.params import Params
from pipeline.project import locked
from pipeline.review import applying, items, label_studio
from pipeline.review.applying import Sheet, Verdict
from pipeline.review.items import Kind
from pipeline.review.store import opened
from pipeline.reviewing import UNCLEAR, Item
from serving.estimating import table
from serving.files import replacing

PORT = 8420
_BIASED = (
    "Test gold was left as it is: correcting only what this model got wrong would flatter it. "
    "--test-gold does it all the same."
)


def open_(
    kind: Kind, count: int, reason: str | None, reviewer: str | None, seed: int | None, port: int | None, sheet: Path,
    *, show: bool,
) -> str:  # fmt: skip
    """Serve the page until Ctrl+C, and say what can be done with the answers.

    Raises:
        UserError: there is nothing to review, the port is taken, or the store can't be used.
    """
    import uvicorn

    from pipeline.review.app import Review, create
    from pipeline.review.store import STORE

    settings = params.load()
    who = (reviewer or getpass.getuser()).strip()
    with opened() as store:
        store.check()
        found = items.collect(kind, settings, count, settings.sample.seed if seed is None else seed, sheet, reason)
        store.put(found)
        token = store.token()
    title = f"{settings.task.name}: {kind}"
    review = Review(title, settings.task.criterion, settings.task.shape, found, who, not show, STORE.absolute())
    with _listening(port) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/{token}/"
        _say(f"{len(found)} items for {who}; answers go to {STORE} as they are given\nopen {address}\nCtrl+C ends it")
        config = uvicorn.Config(
            create(review, token), log_level="warning", access_log=False, timeout_graceful_shutdown=2
        )
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
    done = sum(one["label"] is not None for one in review.state()["items"])
    sheet_option = f" --to sheet --sheet {sheet}" if kind == "gold-sheet" else ""
    return f"\n{done} of {len(found)} items are labelled; `llambert review apply{sheet_option}` puts them to use"


def _say(text: str) -> None:
    import sys

    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _listening(port: int | None) -> socket.socket:
    """The port that is asked for; without one the usual one, or any where that is taken."""
    for wanted in (PORT, 0) if port is None else (port,):
        try:
            return socket.create_server(("127.0.0.1", wanted))
        except OSError as error:
            if port is not None:
                raise UserError(
                    f"port {port} can't be used ({error.strerror}): another review may be open; give another --port, "
                    "or none"
                ) from error
    raise UserError("no port of this machine is free: close some program that listens")


def apply(to: Literal["corrections", "gold", "sheet"], reviewer: str | None, sheet: Path, *, test_gold: bool) -> str:
    """Use what people agree on; what they don't is counted and left out.

    Raises:
        UserError: nobody has answered yet, a file can't be used, or a run works in this directory; no file is changed.
    """
    settings = params.load()
    with locked():
        verdicts, lines, ours = _verdicts(settings, reviewer)
        if to == "corrections":
            lines = [*_corrections(settings, verdicts, ours), *lines]
        elif to == "gold":
            lines = [*_gold(settings, verdicts, test_gold=test_gold), *lines]
        else:
            lines = [*_sheet(verdicts, sheet), *lines]
        if any(row.split == "test" for row in (GOLD if GOLD.path.is_file() else ())) and BEST.path.is_file():
            _measure(settings, reviewer)
            lines.append("the table of errors is in metrics/review.json; `dvc repro report` shows it")
    return "\n".join(lines)


def _verdicts(settings: Params, reviewer: str | None) -> tuple[list[Verdict], list[str], dict[str, Item]]:
    with opened() as store:
        known, answers = store.items(), store.answers(reviewer)
    if not answers:
        raise UserError(
            f"{'nobody' if reviewer is None else reviewer} has answered yet: `llambert review` opens the page"
        )
    agreed, contested = reviewing.settled(answers)
    fit = {key: answer for key, answer in agreed.items() if reviewing.takes(settings.task.shape, answer.label)}
    lines = []
    if contested:
        names = ", ".join(known[key].id for key in contested[:5])
        lines.append(f"{len(contested)} left out, on which reviewers differ ({names}): --reviewer takes one's word")
    if len(fit) < len(agreed):
        lines.append(f"{len(agreed) - len(fit)} left out, whose label task.labels no longer has")
    return [Verdict(known[key], answer) for key, answer in fit.items()], lines, known


def _corrections(settings: Params, verdicts: Sequence[Verdict], known: dict[str, Item]) -> list[str]:
    candidates = [v for v in verdicts if v.item.reason != reviewing.GOLD]
    now = items.texts_now(settings, {v.item.id for v in candidates})
    there = [v for v in candidates if now.get(v.item.id) == v.item.text_hash]
    rows = applying.write_reviewed(there, {item.id for item in known.values()})
    lines = [f"{REVIEWED}: {rows} rows; the stages that read it run at the next `dvc repro`"]
    if away := len(candidates) - len(there):
        lines.append(f"{away} left out, whose id is not in the corpus or stands for another text there (gold, mostly)")
    return lines


def _gold(settings: Params, verdicts: Sequence[Verdict], *, test_gold: bool) -> list[str]:
    sources = {name: getattr(settings.ingest, f"gold_{name}") for name in ("train", "validation", "test")}
    files = {name: Sheet.of(source, f"ingest.gold_{name}") for name, source in sources.items() if source is not None}
    frozen = () if test_gold else ("test",)
    counts = applying.to_gold([v for v in verdicts if v.item.reason != reviewing.GOLD], files, frozen)
    lines = [f"{files[name].path}: {files[name].changed} rows changed or added; as it was: {files[name].write()}"
             for name in files if files[name].changed]  # fmt: skip
    lines = lines or ["no gold file is changed"]
    lines += [_BIASED] * bool(counts["kept test"])
    lines += [f"{n} left out: {why}" for why, n in (
        ("people could not tell", counts[UNCLEAR]), ("their id is another text's in gold", counts["id used"]),
        ("test gold that people see otherwise", counts["kept test"]),
    ) if n]  # fmt: skip
    return lines


def _sheet(verdicts: Sequence[Verdict], path: Path) -> list[str]:
    sheet = Sheet.read(path, "text", "id", "label", "--sheet")
    counts = applying.to_sheet(verdicts, sheet)
    lines = [f"{path}: {counts['filled in']} labels filled in; next: `llambert gold add {path}`"]
    if counts[UNCLEAR]:
        lines.append(
            f"{counts[UNCLEAR]} unclear ones stay empty: gold without them would be too kind, so decide on a label"
        )
    if sheet.changed:
        lines.append(f"as it was: {sheet.write()}")
    return lines


def measure(reviewer: str | None) -> str:
    """Table 3: what the model said of its errors, and what people say; written to metrics/review.json, too.

    Raises:
        UserError: there is no test gold, or nothing was evaluated yet.
    """
    settings = params.load()
    if all(row.split != "test" for row in GOLD):
        raise UserError("the table is of errors on test gold, and there is none (ingest.gold_test)")
    found = _measure(settings, reviewer)
    rows = [("the model said", *next(iter(found["table"].values()), {}))]
    rows += [(model, *(str(n) for n in counts.values())) for model, counts in found["table"].items()]
    lines = [f"{found['reviewed']} of {found['errors']} errors of {found['candidate']} looked at; people said:", ""]
    shown = table(rows) if len(rows) <= reviewing.PICKED_WITH_ONE_KEY else []
    sides = [f"{side:<8} {n['count']:>4}  {n['value']:.3f} [{n['low']:.3f}, {n['high']:.3f}]"
             for side, n in found["sides"].items()]  # fmt: skip
    pairs = [
        f"{' and '.join(p['reviewers'])} agree on {p['agree']:.1%} of {p['items']} items"
        + ("" if p["kappa"] is None else f", Cohen's kappa {p['kappa']:.2f}")
        for p in found["agreement"]
    ]
    return "\n".join([*lines, *shown, "", "people side with", *(sides or ["nobody yet"]), *pairs])


def _measure(settings: Params, reviewer: str | None) -> dict[str, Any]:
    with opened() as store:
        answers = store.answers(reviewer)
    errors = {item.key: item for item in items.errors(settings)}
    level = settings.evaluate.confidence_level
    found = reviewing.summary(errors, answers, settings.task.shape, level) | {"candidate": BEST.read()["candidate"]}
    metrics("review").write(found)
    return found


def export(path: Path) -> str:
    """Write all items and answers as Label Studio's JSON.

    Raises:
        UserError: there are none, or the name does not end in .json.
    """
    import json

    if path.suffix != ".json":
        raise UserError(f"{path} must end in .json")
    shape = params.load().task.shape
    with opened() as store:
        found = label_studio.tasks(store.items(), store.answers(), store.seconds(), shape)
    if not found:
        raise UserError("there is nothing to export: `llambert review` opens the page")
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return f"{len(found)} tasks with {sum(len(task['annotations']) for task in found)} annotations are in {path}"


def import_(path: Path) -> str:
    """Add the annotations of a Label Studio export to the store; those that are there already are not added again.

    Raises:
        UserError: it can't be read, or has labels that the task doesn't have: then nothing is imported.
    """
    shape = params.load().task.shape
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}): export it again, as JSON") from error
    found, answers = label_studio.read(text, str(path), shape, datetime.now(UTC).isoformat(timespec="seconds"))
    with opened() as store:
        there = {(a.item, a.reviewer): (a.label, a.note) for a in store.answers()}
        new = [a for a in answers if there.get((a.item, a.reviewer)) != (a.label, a.note)]
        store.put(found)
        store.add(new)
    return f"{len(found)} tasks read; {len(new)} annotations are new, {len(answers) - len(new)} were there already"
