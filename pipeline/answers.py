"""What an answer says: its wrapping off (thoughts, JSON, a final answer), and whether it is a refusal.

Knows nothing of tasks, reasons or probabilities. Takes time linear in an answer's length.
"""

import json
import re
from collections.abc import Collection
from typing import Any

from pipeline.meaning import CLAIM, SENTENCE
from pipeline.wording import Words, fold

AROUND = f"'\"`.*_! \n{CLAIM}"  # what may stand around an answer that is nothing but a label

_THOUGHT = re.compile(r"<(/?)(?:think|thinking|thought|reasoning)>", re.IGNORECASE)


def without_thoughts(text: str) -> str | None:
    """What stands outside of <think> blocks, or None where one is still open.

    A chat template may have swallowed the first tag: what stands before a closing tag alone is thought.
    """
    kept: list[str] = []
    start, thinking = 0, False
    for tag in _THOUGHT.finditer(text):
        closing = bool(tag[1])
        if closing and not thinking:
            kept.clear()
        elif not closing and not thinking:
            kept.append(text[start : tag.start()])
        start, thinking = tag.end(), not closing
    return None if thinking else "\n".join([*kept, text[start:]])


_JSON = re.compile(r'\{\s*["}]|\[\s*["{\[]')  # where an object or a list may begin
_DECODER = json.JSONDecoder(object_pairs_hook=tuple, parse_float=str, parse_int=str, strict=False)
_ANSWER_KEYS = frozenset(["label", "answer", "class", "category", "sentiment", "choice", "output", "final_answer"])


def spell_out(text: str, words: Words, name: str) -> str | None:
    """JSON in a text becomes plain text: `CLAIM` and what it answers. None where it is unfinished.

    The answer stands under a key like `label`, or `name`; without such a key all values count. A key that is itself a
    label goes with its value: `positive: false`.
    """
    parts, end = [], 0
    if text.lstrip().startswith('"') and "\\" in text:  # perhaps a bare string
        try:
            return CLAIM + str(json.loads(text))
        except ValueError:
            pass
    while found := _JSON.search(text, end):
        try:
            value, after = _DECODER.raw_decode(text, found.start())
        except (ValueError, RecursionError):
            rest = text[found.start() :]
            if rest.count("{") > rest.count("}") or rest.count("[") > rest.count("]"):
                return None
            break
        parts += [text[end : found.start()], "\n", CLAIM, _claim(value, words, _ANSWER_KEYS | {name}), " "]
        end = after
    return "".join([*parts, text[end:]])


def _claim(value: Any, words: Words, answer_keys: Collection[str]) -> str:  # noqa: ANN401 - any JSON
    given: list[str] = []
    others: list[str] = []
    todo = [("", value)]
    while todo:
        key, value = todo.pop()
        if isinstance(value, tuple):  # of pairs: an object
            todo += reversed(value)
        elif isinstance(value, list):
            todo += [(key, item) for item in reversed(value)]
        elif value is not None:
            name = fold(key)
            is_answer = re.sub(r"[\s_-]+", "_", name) in answer_keys
            (given if is_answer else others).append(f"{key}: {value}" if words.exact(name) else str(value))
    single = [text for text in given if len(words.blank(fold(text))[1]) == 1]
    return "; ".join(single or given or others)


_MARKER = re.compile(
    rf"{CLAIM}|\\boxed\{{(?:\\text\{{)?|<answer>"
    r"|\b(?:answer|final (?:label|classification|verdict|decision|choice|category)|antwort|réponse|respuesta|risposta"
    r"|resposta|ответ)[\"'*_`)]{0,4}(?: ?[:=>\n]| - | (?:would be|should be|is|was|ist|est|es|é|è)\b)[\"'*_` ]{0,6}:?"
    r"|(?:答案|答え|回答|답변?|คำตอบ|الإجابة|الجواب)\s?(?:[:=]|是|は|은|는|คือ|هي|هو):?"
)


def final_answer(text: str) -> tuple[str, str] | None:
    """What stands before and after the last marker of a final answer: "Answer: ...", "The answer is ...".

    Markers in one sentence are one: an instruction repeated ("end with 'Answer: yes' or 'Answer: no'") is no answer.
    """
    first = last = None
    for marker in _MARKER.finditer(text):
        if last is None or SENTENCE.search(text, last.end(), marker.start()):
            first = marker
        last = marker
    return first and (text[: first.start()], text[first.end() :])


_REFUSAL = re.compile(
    r"\b(?:sorry|apologi[sz]e)\b|\b(?:i|we) (?:can't|cannot|can not|won't|will not|must decline|decline|refuse)\b"
    r"|\b(?:unable|not able|not comfortable|not equipped)\b"
    r"|\b(?:as|i am|i'm) (?:just |only )?an? (?:helpful |large )?(?:ai|language model|chatbot)\b"
    r"|tut mir leid|désolé|lo siento|извин|не могу|抱歉|对不起|無法|无法|申し訳|죄송|ขออภัย"
)
_NO_HELP = re.compile(
    r"\bi(?:'m| am)? (?:can't|cannot|can not|won't|unable to|not able to) "
    r"(?:help(?: (?:you )?with|[.,!]|$)|assist|comply|fulfill?\b)"
)


def is_refusal(text: str, names_label: bool) -> bool:
    """Whether a folded text refuses the task. Where it names a label, only plain words of refusal count."""
    return bool((_NO_HELP if names_label else _REFUSAL).search(text))
