"""Probabilities of labels from the tokens that a server reports with their alternatives.

A server says for each token of its answer which other tokens were likely at that place (`top_logprobs`). Labels are
words, tokens are pieces of words: a piece speaks for a label if it can only be the beginning of that one. Where several
labels begin alike, the answer's own next tokens decide between them, at the places where they part.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_LEAST = -100.0  # some servers say -9999 or -inf of a token that can't stand there
_AROUND = " \n\t\"'`*_.:-([{▁Ġ"  # what may stand before a label


@dataclass(frozen=True, slots=True)
class Token:
    """A token of an answer, with the log-probabilities of what could have stood there, itself among them."""

    text: str
    alternatives: Mapping[str, float]


def distinct_at_once(words: Sequence[Sequence[str]]) -> bool:
    """Whether one token tells the labels apart whatever the tokenizer: no two labels begin with the same character.

    Args:
        words: the answer words of each label.
    """
    first = [{_plain(word)[:1] for word in label} for label in words]
    return all(a.isdisjoint(b) for i, a in enumerate(first) for b in first[i + 1 :])


def label_log_probabilities(tokens: Sequence[Token], words: Sequence[Sequence[str]]) -> list[float] | None:
    """Log-probability of each label: (labels,), not normalised; None where no token speaks for any label.

    Args:
        tokens: the answer's, in order.
        words: the answer words of each label.

    A label without a token of its own gets the smallest reported log-probability of the place where labels part: it
    was less likely than that.
    """
    plain = [[_plain(word) for word in label] for label in words]
    found: list[list[float]] = [[] for _ in words]
    floor, before, so_far = math.inf, "", 0.0
    for token in tokens:
        alternatives = {text: max(_LEAST, value) for text, value in token.alternatives.items()}
        for text, value in alternatives.items():
            owner = _owner(before + text, plain)
            # Along the answer itself labels may still be open; they are decided further on.
            if owner is not None and not (text == token.text and _open(before + text, plain)):
                found[owner].append(so_far + value)
        floor = min(floor, so_far + min(alternatives.values(), default=0.0))
        before += token.text
        so_far += alternatives.get(token.text, 0.0)
        if not _open(before, plain):
            break
    else:  # it ended while a longer label was still possible: what it said is all it meant
        whole = [i for i, label in enumerate(plain) if _plain(before).rstrip() in label]
        if len(whole) == 1:
            found[whole[0]].append(so_far)
    if not any(found):
        return None
    return [_log_sum(values) if values else floor for values in found]


def _plain(text: str) -> str:
    return text.casefold().lstrip(_AROUND)


def _letter(said: str) -> bool:
    return len(said) == 1 and said.lower() != said.upper()


def _matches(text: str, words: Sequence[str]) -> bool:
    said = _plain(text)
    return bool(said) and any(word.startswith(said) or _ends_word(said, word) for word in words)


def _ends_word(said: str, word: str) -> bool:
    """Whether a text goes on after a word without making another word of it ("no." does, "not" does not)."""
    if not said.startswith(word):
        return False
    following = said[len(word) : len(word) + 1]
    # Scripts without case (Han, Thai) have no gaps between words either.
    return not (following.isdecimal() or following.lower() != following.upper())


def _owner(text: str, words: Sequence[Sequence[str]]) -> int | None:
    """The one label that a text begins, or that begins the text.

    A letter alone owns nothing but a label of one letter: "A" and "I" begin many answers that are no label.
    """
    said = _plain(text)
    if _letter(said):
        words = [[word for word in label if word == said] for label in words]
    owners = [i for i, label in enumerate(words) if _matches(text, label)]
    return owners[0] if len(owners) == 1 else None


def _open(text: str, words: Sequence[Sequence[str]]) -> bool:
    """Whether what was said so far may still become more than one label, or has said nothing yet."""
    said, count = _plain(text), sum(_matches(text, label) for label in words)
    return not said or count > 1 or (count == 1 and _letter(said) and all(said not in label for label in words))


def _log_sum(values: Sequence[float]) -> float:
    highest = max(values)
    if highest == -math.inf:
        return highest
    return highest + math.log(sum(math.exp(value - highest) for value in values))
