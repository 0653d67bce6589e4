"""What labelling will take, before it begins: the input is read through once, and a random part of it is labelled."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from serving import cores, corpus, layout
from serving.bulk import Labeller
from serving.engine import Engine
from serving.errors import UserError
from serving.estimating import Estimate, Part, amount, duration, table
from serving.jobs import Settings
from serving.progress import progress
from serving.reading import about, records
from serving.records import Unusable
from serving.targets import open_target

_TEXTS = 1_000  # whose tokens are counted
_FIRST = 16  # texts that give a first idea of the rate
_PROBE_S = 10.0


@dataclass(frozen=True, slots=True)
class Rate:
    """What the engine did with a random part of the texts."""

    texts: int
    tokens: int
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        """Real ones, without padding."""
        return self.tokens / max(self.seconds, 1e-9)


def plan(settings: Settings, price_per_hour: float) -> str:
    """Rows, tokens, time and money for an input on machines like this one.

    Raises:
        UserError: the input or the model can't be used, or there is no text.
    """
    engine = Engine.open(
        settings.model,
        settings.precision,
        runtime=settings.runtime,
        threads=cores.threads(settings.threads, settings.workers),
        max_batch_tokens=settings.max_batch_tokens,
    )
    engine.prove()
    sample, unusable = read_through(settings)
    if not sample.total:
        raise UserError(f"{settings.input.path} has no text that can be labelled ({unusable:,} rows are unusable)")
    tokens = Estimate.scaled([float(n) for n in engine.lengths(sample.items)], sample.total)
    rate = measure(engine, sample.items)
    done = _done(settings, engine)
    share = max(0.0, 1 - done / sample.total)
    machine_s = tokens.value * share / rate.tokens_per_s / settings.workers
    rows = [
        ("", "rows", "tokens", "time", "cost"),
        ("to label", f"{sample.total:,}", str(tokens), "", ""),
        ("  labelled already", f"{done:,}", "", "", ""),
        ("  unusable", f"{unusable:,}", "", "", ""),
        (f"  left, on {_machines(settings)}", f"{sample.total - done:,}", f"{tokens.value * share:,.0f}",
         duration(machine_s / settings.of), amount(machine_s / 3600 * price_per_hour)),
    ]  # fmt: skip
    whole = len(sample.items) == sample.total
    notes = [
        ("tokens", f"of {'all' if whole else f'{len(sample.items):,} random'} texts, cut to the model's length"),
        ("rate", f"{rate.texts / rate.seconds:,.1f} texts/s, {rate.tokens_per_s:,.0f} tokens/s: {rate.texts:,} random "
                 f"texts in {rate.seconds:.1f} s, {engine.precision} of {engine.runtime}" + _alone(settings)),
        ("cost", f"{price_per_hour:g} an hour of one machine (--price-per-hour)"),
    ]  # fmt: skip
    return "\n".join([*table(rows), "", *(f"{name:<8}{note}" for name, note in notes)])


def read_through(settings: Settings) -> tuple[Part[str], int]:
    """A random part of the texts, of known length, and the number of unusable rows."""
    sample, unusable = Part[str](_TEXTS), 0
    with progress("count", about(settings.input, ""), unit="rows") as advance:
        for record in records(settings.input, ""):
            row = corpus.check(record, settings.max_chars, made_ids=settings.input.id is None)
            if isinstance(row, Unusable):
                unusable += 1
            else:
                sample.add(row.text)
            advance(1)
    return sample, unusable


def measure(engine: Engine, texts: Sequence[str]) -> Rate:
    """Label as many of the texts as take about ten seconds."""
    rate = _measured(engine, texts[:_FIRST])
    wanted = int(_PROBE_S * rate.texts / max(rate.seconds, 1e-3))
    return rate if wanted <= _FIRST or len(texts) <= _FIRST else _measured(engine, texts[:wanted])


def _measured(engine: Engine, texts: Sequence[str]) -> Rate:
    before, start = engine.tokens, time.monotonic()
    engine.classify(texts)
    return Rate(len(texts), engine.tokens - before, max(time.monotonic() - start, 1e-9))


def _done(settings: Settings, engine: Engine) -> int:
    """Rows that an earlier run has labelled with this model."""
    if not settings.output:
        return 0
    target, labeller = open_target(settings.output), Labeller.of(engine, settings.min_confidence, settings.top)
    numbers = [int(m[1]) for name in target.names() if (m := layout.OURS.fullmatch(name)) and name.endswith(".json")]
    parts = (layout.sidecar(number, target) for number in numbers)
    return sum(part.rows for part in parts if part is not None and labeller.gave(part))


def _machines(settings: Settings) -> str:
    workers = f" with {settings.workers} workers" if settings.workers > 1 else ""
    return (f"{settings.of} machines" if settings.of > 1 else "this machine") + workers


def _alone(settings: Settings) -> str:
    return f"; one worker, measured alone, times {settings.workers}" if settings.workers > 1 else ""
