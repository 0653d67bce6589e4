"""From answers to labels: log-probabilities or text become a label with a confidence, or a rejection with a reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from pipeline import answers, meaning
from pipeline.params import Parse, Task
from pipeline.scoring import Floats
from pipeline.wording import Words, fold


class Reason(StrEnum):
    """Why an answer gave no label."""

    MISSING = "no answer"
    FAILED = "request failed"
    FILTERED = "stopped by a content filter"
    EMPTY = "empty answer"
    CUT = "answer cut off"
    REFUSED = "refusal"
    NO_FINAL = "reasoning without a final answer"
    NO_LABEL = "no label named"
    SEVERAL = "several labels named"
    NEGATED = "label negated"
    MENTIONED = "label only asked about or mentioned"
    UNSURE = "confidence below parse.min_confidence"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A label with the probabilities of all labels (in order), or a reason why there is none."""

    label: str | None
    probabilities: list[float]
    reason: Reason | None = None
    sure: float | None = None  # of a set of labels

    @property
    def confidence(self) -> float:
        """The probability of the label; of a set that of its least sure yes or no."""
        return max(self.probabilities, default=0.0) if self.sure is None else self.sure


_UNANSWERED = {"error": Reason.FAILED, "refused": Reason.FAILED, "content_filter": Reason.FILTERED}


class TextParser:
    """Finds the one label that an answer names, by its name or a synonym, whatever stands around it.

    Better an answer rejected than a label that says the contrary. So an answer that names several labels is rejected,
    even where a comparison would tell ("negative, not positive", "more negative than positive"). There is one way out:
    a final answer at the end ("Answer: negative", or JSON), where the first sentence that names a label left it open.
    A label that is denied, asked about, or only mentioned ("some positive aspects") is no answer. In an answer that was
    cut, the part that names the label must be complete: "positive" may go on "or negative". Where the prompt asks for
    reasoning, only what follows the last marker of a final answer counts, or a label alone.
    """

    def __init__(self, task: Task, reasoning: bool = False) -> None:
        self._labels, self._reasoning = task.names, reasoning
        self._name = fold(task.name)
        self._words = Words(task.labels)

    def parse(self, answer: str | None, finish_reason: str = "stop") -> Verdict:
        """Free text to a verdict; a label that is named is certain."""
        if finish_reason in _UNANSWERED:
            return Verdict(None, [], _UNANSWERED[finish_reason])
        if answer is None:
            return Verdict(None, [], Reason.MISSING)
        found = self._read(answer, finish_reason == "length")
        if isinstance(found, Reason):
            return Verdict(None, [], found)
        return Verdict(found, [float(name == found) for name in self._labels])

    def _read(self, answer: str, cut: bool) -> str | Reason:
        said = answers.without_thoughts(answer)
        spelled = said if said is None else answers.spell_out(said, self._words, self._name)
        if spelled is None:
            return Reason.CUT
        text = fold(spelled)
        if self._reasoning and not self._is_label(text):
            final = answers.final_answer(text)
            if final is None:
                return self._unnamed(text, cut, Reason.NO_FINAL)
            text = final[1]
            if cut and not self._is_label(text):
                return Reason.CUT
        return self._judge(text, cut)

    def _is_label(self, text: str) -> bool:
        return bool(self._words.exact(text.strip(answers.AROUND))) or meaning.is_bare(self._words.blank(text)[0])

    def _judge(self, text: str, cut: bool) -> str | Reason:
        if whole := self._words.exact(text.strip(answers.AROUND)):
            return self._alone(whole, text, cut)
        skeleton, named = self._words.blank(text)
        if not named:
            return self._unnamed(text, cut, Reason.NO_LABEL)
        if answers.is_refusal(text, names_label=True):
            return Reason.REFUSED
        if meaning.is_bare(skeleton):
            return self._alone(named, text, cut)
        if len(named) > 1:
            return self._settled(text, cut)
        if (meant := meaning.meaning(skeleton)) != "stated":
            return Reason.NEGATED if meant == "denied" else Reason.MENTIONED
        return Reason.CUT if cut and not meaning.is_closed(skeleton) else named.pop()

    def _alone(self, named: set[str], text: str, cut: bool) -> str | Reason:
        if cut and self._words.may_go_on(text.strip(answers.AROUND)):
            return Reason.CUT
        return next(iter(named)) if len(named) == 1 else Reason.SEVERAL

    def _settled(self, text: str, cut: bool) -> str | Reason:
        """The final answer at the end of a text that names several labels."""
        final = answers.final_answer(text)
        if final is None or answers.final_answer(final[0]) or not self._is_label(final[1]):
            return Reason.SEVERAL
        label = self._judge(final[1], cut)
        by_sentence = (self._words.blank(sentence)[1] for sentence, _ in meaning.sentences(final[0]))
        first = next(filter(None, by_sentence), {label})
        return label if len(first) > 1 or first == {label} else Reason.SEVERAL

    def _unnamed(self, text: str, cut: bool, reason: Reason) -> Reason:
        if answers.is_refusal(text, names_label=False):
            return Reason.REFUSED
        if cut:
            return Reason.CUT
        return reason if text.strip(answers.AROUND) else Reason.EMPTY


def from_probabilities(probabilities: Floats, task: Task, params: Parse) -> Verdict:
    """(labels,) probabilities to a verdict; the first of equal labels wins."""
    values = [float(p) for p in probabilities]
    verdict = Verdict(task.names[int(np.argmax(probabilities))], values)
    if verdict.confidence < params.min_confidence:
        return Verdict(None, values, Reason.UNSURE)
    return verdict


def from_set(answer: str | None, task: Task) -> Verdict:
    """A whole set of labels, written as in gold, to a verdict."""
    if answer is None:
        return Verdict(None, [], Reason.MISSING)
    label = task.read(answer)
    if label is None:
        return Verdict(None, [], Reason.NO_LABEL)
    names = task.shape.names(label)
    return Verdict(label, [float(name in names) for name in task.names], sure=1.0)


def together(answers: Sequence[Verdict], task: Task, params: Parse) -> Verdict:
    """What was said of a text and each label, yes or no in label order, to a verdict on the text.

    Without an answer on one of the labels the set is unknown, and the text is rejected for that answer's reason.
    """
    if reasons := [answer.reason for answer in answers if answer.label is None]:
        return Verdict(None, [], reasons[0])
    yes = np.array([answer.probabilities[task.asked.names.index("yes")] for answer in answers])
    decided = task.shape.decide(yes[None])
    verdict = Verdict(decided.labels[0], yes.tolist(), sure=float(decided.confidence[0]))
    return verdict if verdict.confidence >= params.min_confidence else Verdict(None, yes.tolist(), Reason.UNSURE)
