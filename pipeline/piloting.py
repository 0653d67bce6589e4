"""What the first answers say before the money for the rest is spent, and what all so far say in the live line."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from pipeline import calibrating, parsing
from pipeline.calibrating import Calibration
from pipeline.params import Params
from pipeline.parsing import Verdict
from pipeline.responses import Answer
from pipeline.scoring import Floats

_SHOWN = 5  # labels in the live line
_ENOUGH = 20  # answers; fewer say nothing


class Judge:
    """Turns answers into verdicts as `parse` does, with the calibration that the answers given at first ask for.

    `gold` is validation gold: true labels and answers. `calibration` is the one that `parse` found, where it has run.
    """

    def __init__(
        self,
        params: Params,
        first: Sequence[Answer] = (),
        content_free: Sequence[Answer] = (),
        gold: Sequence[tuple[str, Answer]] = (),
        calibration: Calibration | None = None,
    ) -> None:
        self._task, self._params, self.min_yield = params.task.asked, params.parse, params.parse.min_yield
        self._sets = params.task if params.task.kind == "multi" and params.requests_per_text == 1 else None
        self._parser = parsing.TextParser(self._task, params.annotate.prompt.reasoning)
        scored = [(label, answer) for label, answer in gold if answer.log_probabilities]
        scores = calibrating.Scores(
            _scores(first), _scores(content_free), _scores([a for _, a in scored]), [label for label, _ in scored]
        )
        if params.task.kind == "multi":  # each label is calibrated by itself, by `parse`
            scores = calibrating.Scores(_scores([]), _scores([]), _scores([]), [])
            self._params = params.parse.model_copy(update={"calibration": "none", "prior": None})
        self._calibration = calibration or calibrating.calibrate(scores, self._params, self._task.names)

    def __call__(self, answer: Answer) -> Verdict:
        """A label, or a reason why there is none."""
        if self._sets is not None:
            return parsing.from_set(answer.answer, self._sets)
        if answer.log_probabilities is None:
            return self._parser.parse(answer.answer, answer.finish_reason)
        probabilities = self._calibration(np.array(answer.log_probabilities))
        return parsing.from_probabilities(probabilities, self._task, self._params)


def _scores(answers: Sequence[Answer]) -> Floats:
    return np.array([answer.log_probabilities for answer in answers if answer.log_probabilities])


class Tally:
    """Counts labels as they come, for the live line."""

    def __init__(self, judge: Judge, labels: Sequence[str]) -> None:
        self._judge, self._labels = judge, labels
        self._said: Counter[str | None] = Counter()

    def add(self, answers: Iterable[Answer]) -> None:
        """Judge and count."""
        self._said.update(self._judge(answer).label for answer in answers)

    def __str__(self) -> str:
        total = self._said.total()
        if not total:
            return ""
        labelled = max(total - self._said[None], 1)
        shown = self._labels
        if len(shown) > _SHOWN:
            shown = sorted(shown, key=lambda label: -self._said[label])[:_SHOWN]
        shares = ", ".join(f"{label} {self._said[label] / labelled:.0%}" for label in shown)
        return f"yield {1 - self._said[None] / total:.0%}, {shares}"


def objection(sample: Sequence[Verdict], gold: Sequence[tuple[str, Verdict]], min_yield: float) -> str | None:
    """Why it would be a waste to ask on, or None. Fewer than 20 answers say nothing.

    Args:
        sample: verdicts on the first texts of the sample.
        gold: (true label, verdict) of gold texts.
        min_yield: smallest share of answers that must give a label.
    """
    if len(sample) >= _ENOUGH:
        labelled = [verdict.label for verdict in sample if verdict.label is not None]
        if (share := len(labelled) / len(sample)) < min_yield:
            reasons = Counter(str(verdict.reason) for verdict in sample if verdict.label is None)
            reason, count = reasons.most_common(1)[0]
            return (
                f"only {share:.0%} of the first {len(sample)} answers give a label (parse.min_yield: {min_yield:.0%}; "
                f"the commonest reason is '{reason}', {count} times)"
            )
        if len(set(labelled)) == 1:
            return f"all of the first {len(sample)} answers say '{labelled[0]}'"
    names = Counter(true for true, _ in gold)
    if len(gold) >= _ENOUGH and len(names) > 1:  # of one class alone, always saying it can't be beaten
        right = sum(verdict.label == true for true, verdict in gold) / len(gold)
        name, count = names.most_common(1)[0]
        if right <= count / len(gold):
            return (
                f"the LLM is right on {right:.0%} of {len(gold)} gold texts, no better than always saying '{name}' "
                f"({count / len(gold):.0%})"
            )
    return None
