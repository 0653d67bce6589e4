"""A prompt: fixed rules around one text. The text is data; nothing in it is ever read as part of the template."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property

from pipeline.params import Prompt, Task

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": ...}
_ANSWER = "Answer: "
_MARK = "(the text 6f1b2c stands here)"
_REASONING = f'Think step by step first. End with one line that reads "{_ANSWER.strip()}" and then one of: {{labels}}.'
_INVISIBLE = "[\u00ad\u034f\u180e\u200b-\u200f\u2060-\u2064\ufeff]*"  # soft hyphen, joiners, zero-width spaces


@dataclass(frozen=True, slots=True)
class Variant:
    """What may differ from request to request: the order of the labels, the examples with the index of their label.

    Where a text is asked about once for each label: which one it is.
    """

    order: tuple[int, ...]
    examples: tuple[tuple[str, int], ...]
    label: str | None = None

    def to_json(self) -> str:
        """As it is recorded with each answer."""
        values = asdict(self)
        if self.label is None:
            del values["label"]
        return json.dumps(values, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Variant":
        """Read it back."""
        values = json.loads(text)
        examples = tuple((shot, label) for shot, label in values["examples"])
        return cls(tuple(values["order"]), examples, values.get("label"))


class Marks:
    """Breaks marks up where a text spells them, in any case and with invisible characters between.

    A space goes in after the first character; a mark of one character becomes a space.
    """

    def __init__(self, marks: Iterable[str]) -> None:
        whole = sorted({mark.strip() or mark for mark in marks})
        self._single = {mark for mark in whole if len(mark) == 1}
        parts = [f"{re.escape(mark[0])}(?={_INVISIBLE}{_INVISIBLE.join(map(re.escape, mark[1:]))})" for mark in whole]
        # Looking ahead finds marks that overlap: both of <<< where << is one.
        self._pattern = re.compile("|".join(parts), re.IGNORECASE) if parts else None

    def apart(self, text: str) -> str:
        """The text without any of the marks."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda found: " " if found[0] in self._single else f"{found[0]} ", text)


@dataclass(frozen=True)
class Template:
    """The rules of a prompt; `before` and `after` stand around the text."""

    style: str
    system: str | None
    before: str
    after: str
    variant: Variant  # for texts that have none of their own
    answers: tuple[tuple[str, ...], ...]  # the words that count for each label, in label order
    names: tuple[str, ...]
    delimiters: tuple[str, str] | None
    reasoning: bool

    @classmethod
    def of(cls, prompt: Prompt, task: Task) -> "Template":
        """Fill in what does not depend on the text. Of kind multi, examples are a matter of each label's variant."""
        asked = task.asked
        space = " " if prompt.style == "completion" else ""
        words = prompt.answers or {label: [space + label] for label in asked.names}
        answers = tuple(tuple(words[label]) for label in asked.names)
        user = f"{prompt.user}\n{_REASONING}" if prompt.reasoning else prompt.user
        before, after = (part.replace("{criterion}", task.criterion) for part in user.split("{text}"))
        system = None if prompt.system is None else prompt.system.replace("{criterion}", task.criterion)
        shots = prompt.examples if asked is task else []
        examples = tuple((shot.text, task.names.index(shot.label)) for shot in shots)
        variant = Variant(tuple(range(len(answers))), examples)
        names = tuple(asked.names)
        return cls(
            prompt.style, system, before, after, variant, answers, names, prompt.delimiters, prompt.reasoning
        )  # fmt: skip

    @cached_property
    def hash(self) -> str:
        """16 hex digits that stand for the rules, whatever the text."""
        rules = [self.style, self.system, self.before, self.after, self.variant.to_json(), self.answers, self.names]
        return hashlib.sha256(json.dumps([*rules, self.delimiters]).encode()).hexdigest()[:16]

    def messages(self, text: str, variant: Variant | None = None) -> list[Message]:
        """The chat that asks about `text`."""
        own = variant or self.variant
        chat = [] if self.system is None else [{"role": "system", "content": self._labels(self.system, own)}]
        said = _ANSWER if self.reasoning else ""
        for shot, label in own.examples:
            chat.append({"role": "user", "content": self._ask(shot, own)})
            chat.append({"role": "assistant", "content": said + self.answers[label][0]})
        return [*chat, {"role": "user", "content": self._ask(text, own)}]

    def messages_as_json(self, text: str, variant: Variant | None = None) -> str:
        """`messages` as JSON; where the text has no variant of its own, what stands around it is rendered once."""
        if variant is not None:
            return json.dumps(self.messages(text, variant))
        before, after = self._around
        return f"{before}{json.dumps(self._apart(text))[1:-1]}{after}"

    @cached_property
    def _around(self) -> tuple[str, str]:
        before, _, after = json.dumps(self.messages(_MARK)).rpartition(_MARK)
        return before, after

    def completion(self, text: str, variant: Variant | None = None) -> str:
        """The plain text whose continuation is the answer."""
        own = variant or self.variant
        shots = "".join(f"{self._ask(shot, own)}{self.answers[label][0]}\n\n" for shot, label in own.examples)
        return shots + self._ask(text, own)

    def rules(self, variant: Variant | None = None) -> str:
        """All that stands around a text, examples among it, to count its tokens."""
        chat = self.messages("", variant)
        return (
            self.completion("", variant) if self.style == "completion" else "\n".join(turn["content"] for turn in chat)
        )

    @cached_property
    def _marks(self) -> Marks:
        return Marks(self.delimiters or ())

    def _ask(self, text: str, variant: Variant) -> str:
        opening, closing = self.delimiters or ("", "")
        text = f"{opening}{self._apart(text)}{closing}"
        return f"{self._labels(self.before, variant)}{text}{self._labels(self.after, variant)}"

    def _apart(self, text: str) -> str:
        """The text without anything that could end it early."""
        return self._marks.apart(text) if self.delimiters else text

    def _labels(self, part: str, variant: Variant) -> str:
        listed = part.replace("{labels}", ", ".join(self.names[i] for i in variant.order))
        return listed if variant.label is None else listed.replace("{label}", variant.label)
