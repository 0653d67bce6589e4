"""Folded texts and the labels they name, in any script.

A skeleton is a folded text in which `L` stands for every label: folded texts have no capitals of their own.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from unicodedata import normalize

_ALIKE = str.maketrans(
    dict(zip("’‘‛ʼ′“”„«»‐‑–−ı", "'''''\"\"\"\"\"----i", strict=True))
    | dict(zip("άέήίόύώϊϋΐΰ", "αεηιουωιυιυ", strict=True))  # Greek capitals stand without accents
    | dict.fromkeys("\u00ad\u061c\u200b\u200c\u200d\u200e\u200f\u2060\u20e3\ufe0e\ufe0f\ufeff", "")  # invisible
    | dict.fromkeys(map(chr, [0x0640, *range(0x064B, 0x0653), 0x0670, *range(0x05B0, 0x05BD)]), "")  # vowel points
)
_LONG_RUN = re.compile(r"([^\w\s]{99})[^\w\s]+")  # to normalize a run of combining marks takes quadratic time


def fold(text: str) -> str:
    """Equal texts for what reads alike: case, width, quotes, spaces. Line breaks stay, one at a time."""
    if text.isascii():
        text = text.casefold()
    else:
        text = normalize("NFKC", _LONG_RUN.sub(r"\1", text).replace("´", "'")).casefold()
        text = normalize("NFKC", text).translate(_ALIKE).replace("i\u0307", "i")  # casefold's dotted I
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)


# Finding labels. A label must not be a part of another word, and what a word is differs by script.
_MARKS = "\u0300-\u036f\u0900-\u0963\u0970-\u0dff\u0e31-\u0e3a\u0e47-\u0e4e"  # accents and vowel signs: no \w
_GLUED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uac00-\ud7af"  # no space between words
_TIED = rf"(?:[^\W_{_GLUED}]|[{_MARKS}])"
_PREFIXED = "|".join(rf"(?<=\b{prefix}-.)" for prefix in ("non", "not", "un", "anti"))  # found, to be seen as negated
_BEFORE = rf"(?<!{_TIED}.)(?:(?<![^\W_][-_'].)|{_PREFIXED})(?<!out of .)(?<!\d[.,/:⁄]\d)"
_AFTER = rf"(?!{_TIED})(?![-_'][^\W_])(?!(?<=\d)(?:[.,/:⁄]\d| ?(?:[%/⁄]|out of\b)))"
# Numbers, single letters and "no" are parts of other phrases, too: "season 1", "vitamin B", "a film", "no plot". There
# they say nothing, but beside another label they leave doubt.
_ALONE = re.compile(rf"no|not|non|[-+]?\d+(?:[.,]\d+)?|[^\W\d_{_GLUED}]")
_ALONE_BEFORE = rf"{_BEFORE}(?<![-.#$€£].)"
_ALONE_AFTER = rf"{_AFTER}(?![+#]|\.[^\W_])(?! (?:doubt|question|problem)\b)"
_LEADS = "is be as of to or and nor not say label class category answer option choice choose rating score number ist"
_LED = re.compile("|".join([r"(?<![^\W_] )", *(rf"(?<=\b{word} )" for word in _LEADS.split())]))
_GO_ON = "is|isn't|was|would|does|doesn't|can|can't|cannot|or|and|but|as|because|since"
_PHRASE = re.compile(rf" (?!(?:{_GO_ON})\b)[^\W_]")
_NUMBERED = re.compile(r"^[^\w\n]{0,9}\d{1,3}[.)](?=[^\w\n]+\w)", re.MULTILINE)  # "1. " of a list is no label
_ONE_GLUED = re.compile("[\u3005-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_EDGES = [  # script of a word's first or last character; guard before, read behind that character; guard after
    ("[\uac00-\ud7af]", "(?<![\uac00-\ud7af].)", "(?!(?![적입이임인으은는을를라로의과와도만요])[\uac00-\ud7af])"),
    ("[\u3041-\u309f]", "(?<![\u3041-\u309f].)", "(?:(?![\u3041-\u309f])|(?=です))"),
    ("[\u30a0-\u30ff]", "(?<![\u30a0-\u30ff].)", "(?![\u30a0-\u30ff])"),
    ("[\u3400-\u9fff]", "", ""),
    ("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]", "(?<![\u0e40-\u0e44].)", rf"(?![{_MARKS}])"),
    ("", _BEFORE, _AFTER),
]


def _guards(word: str) -> tuple[str, str]:
    if _ALONE.fullmatch(word):
        return _ALONE_BEFORE, _ALONE_AFTER
    if _ONE_GLUED.fullmatch(word):
        return r"(?<!\w.)", r"(?:(?!\w)|(?=(?:的|です|입니다|이다|요)(?!\w)))"
    before = next(guard for script, guard, _ in _EDGES if re.match(script, word[0]))
    return before, next(guard for script, _, guard in _EDGES if re.match(script, word[-1]))


class Words:
    """Finds labels by their words; the longest word that fits counts, so "not toxic" may be a label of its own."""

    def __init__(self, labels: Mapping[str, Collection[str]]) -> None:
        self._owners: dict[str, set[str]] = defaultdict(set)
        for label, words in labels.items():
            for word in (label, *words):
                self._owners[_joined(fold(word))].add(label)
        self._longest = 3 * max(map(len, self._owners))  # characters, with up to three for a space
        groups: dict[tuple[str, str], list[str]] = defaultdict(list)
        for word in sorted(self._owners, key=len, reverse=True):
            if re.search(r"[^\s!-/:-@\[-`{-~]", word):  # "+" and "-" are labels only where nothing else stands
                groups[_guards(word)].append(word)
        # All begin with one set of characters, which is quick to search for; then comes what must be true before it.
        first = "".join(sorted({re.escape(word[0]) for words in groups.values() for word in words}))
        patterns = [f"{before}(?:{'|'.join(map(_rest, words))}){after}" for (before, after), words in groups.items()]
        self._pattern = re.compile(f"[{first}](?:{'|'.join(patterns)})" if groups else "(?!)")
        self._numeric = any(word[:1].isdigit() for word in self._owners)

    def blank(self, text: str) -> tuple[str, set[str]]:
        """The skeleton of a folded text, and the labels it names. A word of two labels names both."""
        named: set[str] = set()
        doubtful: set[str] = set()

        def note(match: re.Match[str]) -> str:
            labels = self._owners[_joined(match[0])]
            if not _ALONE.fullmatch(match[0]) or _stands_alone(match):
                named.update(labels)
                return "L"
            if not (len(match[0]) == 1 and match[0].isalpha() and _in_phrase(match)):  # "a film" leaves no doubt
                doubtful.update(labels)
            return match[0]

        skeleton = self._pattern.sub(note, _NUMBERED.sub("", text) if self._numeric else text)
        return skeleton, named | doubtful if named else named

    def exact(self, text: str) -> set[str]:
        """The labels that a folded text as a whole is a word for."""
        return self._owners.get(_joined(text), set()) if len(text) <= self._longest else set()

    def may_go_on(self, text: str) -> bool:
        """Whether a folded text may be the beginning of several labels, or of another one, as 1 is of 10."""
        mine = self.exact(text)
        return text.endswith((",", "/")) or any(w.startswith(text) and o != mine for w, o in self._owners.items())


def _rest(word: str) -> str:
    """The pattern of a word whose first character has been read."""
    return f"(?<={re.escape(word[0])})" + "[ \n_-]{1,3}".join(map(re.escape, word.split()))[len(re.escape(word[0])) :]


def _stands_alone(match: re.Match[str]) -> bool:
    led = match[0].startswith("no") or _LED.match(match.string, match.start())
    return bool(led) and not _in_phrase(match)


def _in_phrase(match: re.Match[str]) -> bool:
    return bool(_PHRASE.match(match.string, match.end()))


def _joined(word: str) -> str:
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", word)
