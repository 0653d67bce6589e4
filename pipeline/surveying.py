"""What a response store holds, in figures: who answered how much and how fast, and what failed."""

from dataclasses import dataclass

from pipeline.responses import ResponseStore


@dataclass(frozen=True, slots=True)
class Source:
    """What one model has answered by one kind of annotator; both are unknown for answers of old stores."""

    annotator: str | None
    model: str | None
    prompts: int  # different ones
    answers: int
    unanswered: int  # refused, filtered or missing, among `answers`
    prompt_tokens: int
    answer_tokens: int
    seconds: float
    first: str  # YYYY-MM-DD HH:MM:SS, UTC
    last: str


@dataclass(frozen=True, slots=True)
class Failures:
    """Requests to a model that failed for one reason and were not answered since."""

    kind: str
    annotator: str | None
    model: str | None
    requests: int
    last: str
    example: str


@dataclass(frozen=True, slots=True)
class Pace:
    """How a model has answered so far."""

    answers: int
    seconds: float  # of an answer, median
    seconds_per_token: float  # of a prompt, mean
    answer_tokens: float  # mean


def sources(store: ResponseStore) -> list[Source]:
    """Who has answered what, the latest last."""
    rows = store.read(
        "SELECT annotator, model, count(DISTINCT prompt_hash), count(*), "
        "sum(finish_reason IN ('refused', 'content_filter', 'missing')), sum(prompt_tokens), sum(answer_tokens), "
        "total(seconds), min(created), max(created) FROM responses GROUP BY annotator, model ORDER BY max(created)"
    )
    return [Source(*row) for row in rows]


def failures(store: ResponseStore) -> list[Failures]:
    """Which requests failed and were not answered since, the most frequent kind first."""
    rows = store.read(
        "SELECT substr(error, 1, instr(error || ':', ':') - 1) AS kind, annotator, model, count(*), max(seen), "
        "min(error) FROM failures GROUP BY kind, annotator, model ORDER BY count(*) DESC, kind"
    )
    return [Failures(*row) for row in rows]


def pace(store: ResponseStore, annotator: str, model: str) -> Pace | None:
    """How a model has answered so far, or None."""
    who = (annotator, model)
    count, per_token, tokens = store.read(
        "SELECT count(*), total(seconds) / max(sum(prompt_tokens), 1), avg(answer_tokens) FROM responses "
        "WHERE annotator = ? AND model = ?",
        who,
    ).fetchone()
    if not count:
        return None
    seconds = store.read(
        "SELECT seconds FROM responses WHERE annotator = ? AND model = ? ORDER BY seconds LIMIT 1 OFFSET ?",
        (*who, count // 2),
    ).fetchone()
    return Pace(count, seconds[0], per_token, tokens)
