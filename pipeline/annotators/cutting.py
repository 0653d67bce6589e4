"""Cut texts that are too long, by a stated rule, and count tokens: by a tokenizer, or by characters without one."""

from dataclasses import replace
from typing import Any, Literal

from pipeline.prompts import Marks, Variant

CHARACTERS_PER_TOKEN = 4  # of English, where no tokenizer is at hand: an estimate
_CHARACTERS_AT_MOST = 16  # no text of fewer tokens has more characters; a megabyte needs no tokenizing


class Cutter:
    """Keeps the first tokens of a text (`head`), or as many of its end beside them (`head_tail`, an ellipsis between).

    Special tokens of the tokenizer that are spelled out in a text are taken apart: no text can end its own message or
    begin another.
    """

    def __init__(self, tokenizer: Any, max_tokens: int, truncation: Literal["head", "head_tail"]) -> None:  # noqa: ANN401
        """`tokenizer` is a fast one of transformers, or None."""
        self._tokenizer, self._max_tokens = tokenizer, max_tokens
        self._tail = max_tokens // 2 if truncation == "head_tail" else 0
        self._head = max_tokens - self._tail
        added = tokenizer.added_tokens_decoder.values() if tokenizer else ()
        self._special = Marks(str(token) for token in added if token.special)

    def __call__(self, text: str) -> tuple[str, bool]:
        """The text as it is asked about, and whether it was cut."""
        if self._tokenizer is None:
            if len(text) <= CHARACTERS_PER_TOKEN * self._max_tokens:
                return text, False
            tail = len(text) - CHARACTERS_PER_TOKEN * self._tail
            return self._joined(text, CHARACTERS_PER_TOKEN * self._head, tail), True
        room = _CHARACTERS_AT_MOST * self._max_tokens
        short = self._special.apart(text if len(text) <= 2 * room else text[:room] + text[-room:])
        offsets = self._tokenizer(short, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
        if len(offsets) <= self._max_tokens:
            return short, len(text) > 2 * room
        end = offsets[-self._tail][0] if self._tail else len(short)
        return self._joined(short, offsets[self._head - 1][1], end), True

    def variant(self, variant: Variant | None) -> Variant | None:
        """Examples that were chosen from gold, treated as texts are: they are data, too."""
        if variant is None:
            return None
        return replace(variant, examples=tuple((self(shot)[0], label) for shot, label in variant.examples))

    def _joined(self, text: str, head: int, tail: int) -> str:
        return f"{text[:head]} ... {text[tail:]}"

    def count(self, text: str) -> int:
        """Tokens of a text, estimated where there is no tokenizer."""
        if self._tokenizer is None:
            return -(-len(text) // CHARACTERS_PER_TOKEN)
        return len(self._tokenizer(text, add_special_tokens=False).input_ids)
