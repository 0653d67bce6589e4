"""Text to token ids, cut to the model's length: the one way for training, export and labelling."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from serving.errors import UserError

Truncation = Literal["head", "head_tail", "windows"]
WINDOWS = 16  # of a text at most; what comes behind them is not read
_CHARS_PER_TOKEN = 16  # generous: English has 4 to 5
_MARGIN_TOKENS = 16  # tokens that a cut through the text may change beside it


class TextTokenizer:
    """Token ids of texts, special tokens included, at most `max_tokens` of them.

    `head` keeps the first tokens; `head_tail` keeps the first half of the room and the last half (Sun et al. 2019,
    arXiv 1905.05583), the odd one in front. `windows` trains on the head, and labels by the mean logits of the text's
    windows (up to 16, of equal length). Special tokens are those of the tokenizer's own post-processor.
    """

    def __init__(self, file: Path, max_tokens: int, truncation: Truncation) -> None:
        self._tokenizer = Tokenizer.from_file(str(file))
        self._tokenizer.no_truncation()  # files saved by transformers may have both baked in
        self._tokenizer.no_padding()
        special = self._tokenizer.encode("a").special_tokens_mask
        self._before = special.index(0)  # special tokens in front of a text
        self._after = special[::-1].index(0)
        room = max_tokens - self._before - self._after
        if room < 1:
            raise UserError(f"max_tokens {max_tokens} leaves no room for text beside the special tokens: raise it")
        self._windows = WINDOWS if truncation == "windows" else 1
        self._tail = room // 2 if truncation == "head_tail" else 0
        self._head = room - self._tail

    def __call__(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Ids of each text, to train on. An empty text has special tokens only."""
        return [self._cut(ids) for ids in self._encode(texts)]

    def pieces(self, texts: Sequence[str]) -> tuple[list[NDArray[np.int64]], NDArray[np.intp]]:
        """Ids of all pieces to label by, and the index of the text of each; see `mean_of_pieces`."""
        split = [self._split(ids) for ids in self._encode(texts)]
        owners = np.repeat(np.arange(len(split)), [len(pieces) for pieces in split])
        return [piece for pieces in split for piece in pieces], owners

    @property
    def unknown(self) -> int | None:
        """The id that stands for what is not in the vocabulary; None where bytes spell everything."""
        model = json.loads(self._tokenizer.to_str())["model"]
        token: str | None = model.get("unk_token")
        number: int | None = self._tokenizer.token_to_id(token) if token else model.get("unk_id")
        return number

    def _encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        encodings = self._tokenizer.encode_batch_fast([self._shortened(text) for text in texts])
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def _split(self, ids: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        if self._windows == 1:
            return [self._cut(ids)]
        end = len(ids) - self._after
        body = ids[self._before : end][: self._windows * self._head]
        count = max(1, -(-len(body) // self._head))
        return [np.concatenate([ids[: self._before], part, ids[end:]]) for part in np.array_split(body, count)]

    def _cut(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        if len(ids) <= self._before + self._head + self._tail + self._after:
            return ids
        end = len(ids) - self._after
        return np.concatenate([ids[: self._before + self._head], ids[end - self._tail : end], ids[end:]])

    def _shortened(self, text: str) -> str:
        """Drop the middle of a text of a megabyte before it is tokenized; the ids that are kept stay the same.

        Texts are cut at white space, beyond which no tokenizer of an encoder looks, and only where both pieces have
        more tokens than are kept of them. Otherwise (few spaces, very long words) the pieces are doubled.
        """
        head = self._head * self._windows
        chars = _CHARS_PER_TOKEN * (head + self._tail)
        while 2 * chars < len(text):
            front, back = _without_last_word(text[:chars]), _without_first_word(text[-chars:]) if self._tail else ""
            if self._enough(front, head) and (not self._tail or self._enough(back, self._tail)):
                return f"{front} {back}"
            chars *= 2
        return text

    def _enough(self, piece: str, tokens: int) -> bool:
        return len(self._tokenizer.encode(piece, add_special_tokens=False)) > tokens + _MARGIN_TOKENS


def mean_of_pieces(values: NDArray[np.float32], owners: NDArray[np.intp], texts: int) -> NDArray[np.float32]:
    """Mean of the values (pieces, classes) of each text: (texts, classes)."""
    sums = np.zeros((texts, values.shape[1]), dtype=np.float32)
    np.add.at(sums, owners, values)
    sums /= np.bincount(owners, minlength=texts)[:, None]
    return sums


def _without_last_word(piece: str) -> str:
    return "".join(piece.rsplit(maxsplit=1)[:1])


def _without_first_word(piece: str) -> str:
    return "".join(piece.split(maxsplit=1)[1:])
