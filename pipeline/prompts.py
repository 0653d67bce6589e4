"""A prompt: fixed rules around one text. The text is data; nothing in it is ever read as part of the template."""

import hashlib
import json
from dataclasses import dataclass

from pipeline.params import Prompt, Task

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": ...}


@dataclass(frozen=True)
class Template:
    """The rules of a prompt, rendered once; `before` and `after` stand around the text."""

    style: str
    system: str | None
    before: str
    after: str
    examples: tuple[tuple[str, str], ...]  # (text, answer)
    answers: tuple[tuple[str, ...], ...]  # the words that count for each label, in label order

    @classmethod
    def of(cls, prompt: Prompt, task: Task) -> "Template":
        """Fill in what does not depend on the text."""
        space = " " if prompt.style == "completion" else ""
        words = prompt.answers or {label: [space + label] for label in task.names}
        answers = tuple(tuple(words[label]) for label in task.names)
        before, after = (_fill(part, task) for part in prompt.user.split("{text}"))
        examples = tuple((shot.text, answers[task.names.index(shot.label)][0]) for shot in prompt.examples)
        system = None if prompt.system is None else _fill(prompt.system, task)
        return cls(prompt.style, system, before, after, examples, answers)

    @property
    def hash(self) -> str:
        """16 hex digits that stand for the rules, whatever the text."""
        rules = [self.style, self.system, self.before, self.after, self.examples, self.answers]
        return hashlib.sha256(json.dumps(rules).encode()).hexdigest()[:16]

    def messages(self, text: str) -> list[Message]:
        """The chat that asks about `text`."""
        chat = [{"role": "system", "content": self.system}] if self.system is not None else []
        for shot, answer in self.examples:
            chat.append({"role": "user", "content": self._ask(shot)})
            chat.append({"role": "assistant", "content": answer})
        return [*chat, {"role": "user", "content": self._ask(text)}]

    def completion(self, text: str) -> str:
        """The plain text whose continuation is the answer."""
        shots = "".join(f"{self._ask(shot)}{answer}\n\n" for shot, answer in self.examples)
        return shots + self._ask(text)

    def _ask(self, text: str) -> str:
        return f"{self.before}{text}{self.after}"


def _fill(part: str, task: Task) -> str:
    return part.replace("{criterion}", task.criterion).replace("{labels}", ", ".join(task.names))
