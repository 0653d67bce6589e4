"""What an answer says: its wrapping off, labels found in any script, and whether they are meant.

Knows words, scripts and grammar; nothing of tasks, reasons or probabilities. Takes time linear in an answer's length.
A skeleton is a folded text in which `L` stands for every label: folded texts have no capitals of their own.
"""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal
from unicodedata import normalize

CLAIM = "\ue000"  # stands before what JSON gives as the answer
AROUND = f"'\"`.*_! \n{CLAIM}"  # what may stand around an answer that is nothing but a label

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


def spell_out(text: str, words: "Words", name: str) -> str | None:
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


def _claim(value: Any, words: "Words", answer_keys: Collection[str]) -> str:  # noqa: ANN401 - any JSON
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


# Whether labels are meant. Better an answer rejected than a label that says the contrary.
_NEGATIONS = """
not cannot cant isnt wasnt dont doesnt didnt wont never neither nor none nothing nobody nowhere no non hardly barely
scarcely rarely seldom less least without except lack lacks lacked lacking devoid absence opposite doubt doubts doubtful
doubted unlikely impossible unable wrongly falsely incorrectly disagree disagrees deny denies denied
nicht kein keine keinen keiner keines weder niemals pas jamais aucun aucune ni nunca jamás tampoco sin não nem niet geen
ikke inte nie ani не нет ни ні bukan tidak không ليس ليست غير لا لم لن לא אינו אינה δεν δε μη 안 못
"""
_NEGATION_WORDS = frozenset(_NEGATIONS.split())  # in front of a label, in its clause; as are the following
_CROSSES = "✗✘❌🚫"
_NEGATION = re.compile(
    r"far from|free of|anything but|rather than|instead of|other than|fail(?:s|ed|ing)? to|refus(?:es?|ed) to|hard to"
    r"|difficult to|too \w+ to|un-(?<!\wun-)|anti-|wrong (?:to|that|$)|incorrect (?:to|that|$)|false (?:to|that|$)"
    r"|n't\b|% $(?<![5-9]\d% )(?<!100% )"
)
_NEGATION_GLUED = re.compile(
    rf"[≠¬{_CROSSES}]|ไม่|不(?![仅僅但错錯过過])|非(?!常)|[无無](?![疑论論])|[没沒](?![错錯])|未(?![来來])"
)
_NO_NEGATION = re.compile(r"\b(?:no|(?:without|beyond)(?: an?y?)?) (?:doubt|question)\b|\bat least\b")
_WORD = re.compile(r"\w+")
_HOLDS = (r"\bnot", "n't", r"\bnever", r"\bhardly")  # behind these goes on what a comma interrupts: "not, I think, ..."
_HELD = "".join(rf"(?<!{word}(?s:.))" for word in _HOLDS)
_SENTENCE = re.compile(rf"[.!?;。।؟{CLAIM}\n](?<!\.\.)(?!(?<=\.)[.\d])(?:(?<!\n)|{_HELD})")
_SUBJECT = "it|its|it's|the|this|they|he|she|there|i|so|thus|therefore|is|overall"
_CLAUSE = re.compile(
    rf"[,،、—: ]{_HELD}(?:(?<! )|- |(?:(?<!anything )but|because|although|though|while|whereas|therefore|thus|hence"
    rf"|however|(?:so|and|since|as) (?:{_SUBJECT})|making it)\b)"
)
_ASIDE = re.compile(r",[^,.!?;:\nL]{1,40},")
_FURTHER = "and|or|because|since|as|but|so|that|which|who|with|for|about|in|on|of|to|from|at|by|without|if|though|while"
_DENIAL = re.compile(  # behind a label
    r"L\W{0,4}\?\W{0,5}(?:no|nope|not|never|hardly|wrong|false|nein|non|нет)\b"  # "positive? No"
    r"|L(?:\.\.+ ?|[^\w.!?\n]{1,4})(?:no|nope|not|wrong|false|incorrect)[^\w\n]{0,4}(?=$|\n)"  # "positive, not."
    r"|\b(?:but|wait|actually),? no\W{0,3}$"
    r"|L[\"'*_)\]]{0,4}(?: \w+){0,2} ?[:=][\"'* ]{0,4}"  # "positive: no"
    r"(?:false|no|none|0(?:[.,][0-4]\d{0,9})?|[0-4]?\d ?%)[\"'*_ ]{0,4}(?=$|[;}\n]|[.,](?!\d))"
    rf"|L[\"'*_)\]]{{0,4}} (?:(?!(?:{_FURTHER})\b)[^\W_][\w']* ){{0,4}}?"  # "positive would be wrong"
    r"(?:not|cannot|never|[\w']*n't|wrong|incorrect|false|inaccurate|unlikely|inappropriate|misleading|impossible"
    r"|mistaken|untrue|rejected|excluded|absent|missing|ruled out|in no way|by no means|nicht|pas|falsch)\b"
    r"|L[^,.!?;\n、。L]{0,12}?(?:ない|ません|않|아니|아닌|아닙|없|不|没|错|錯|नहीं|değil)"
    rf"|L\W{{0,3}}[{_CROSSES}]|~~L~~"
)
_OPEN_WORDS = frozenset(["if", "whether", "unless", "between"])  # in front of a label; as are the following
_OPEN = re.compile(
    r"would have been|could have been|should have been|might have been|supposed to|meant to|pretends? to|是否|かどうか"
)
_MENTION = re.compile(
    r"L(?: (?:aspects?|elements?|points?|things?|moments?|qualit(?:y|ies)|parts?|remarks?|comments?|words?|sides?)\b"
    r"| (?:only )?if\b| ?/ ?(?!L)\w|(?<=[^\W L]/L)|(?<=[^\W L]/ L)|(?<=[^L] or L)| or\b(?! L))"
)


def meaning(skeleton: str) -> Literal["stated", "denied", "mentioned"]:
    """What an answer that names one label does with it.

    Denied: by a negation before it in its clause, or by what follows. Mentioned: stated nowhere outside of questions,
    conditions and phrases like "positive aspects".
    """
    if _DENIAL.search(skeleton):
        return "denied"
    clauses = [(clause, clause[: clause.rindex("L")], asked) for clause, asked in _clauses(skeleton)]
    if any(_negates(before) for _, before, _ in clauses):
        return "denied"
    stated = any(not (asked or _opens(before) or _MENTION.search(clause)) for clause, before, asked in clauses)
    return "stated" if stated else "mentioned"


def _clauses(skeleton: str) -> Iterator[tuple[str, bool]]:
    """Clauses that name a label, and whether they are part of a question."""
    for sentence, end in sentences(skeleton):
        if "L" in sentence:
            yield from ((clause, end in "?؟") for clause in _CLAUSE.split(_ASIDE.sub(" ", sentence)) if "L" in clause)


def _negates(text: str) -> bool:
    text = _NO_NEGATION.sub(",", text) if "doubt" in text or "question" in text or "least" in text else text
    if not _NEGATION_WORDS.isdisjoint(_WORD.findall(text)) or _NEGATION.search(text):
        return True
    return not text.isascii() and bool(_NEGATION_GLUED.search(text))


def _opens(text: str) -> bool:
    return bool(_OPEN_WORDS.intersection(_WORD.findall(text)) or _OPEN.search(text))


def sentences(text: str) -> Iterator[tuple[str, str]]:
    """Sentences, each with the character that ends it; the last one may have none."""
    start = 0
    for end in _SENTENCE.finditer(text):
        yield text[start : end.start()], end[0]
        start = end.end()
    yield text[start:], " "


_OUTSIDE = rf"(?:[^\w?؟~≠¬{_CROSSES}]|_)*"
_BARE = re.compile(rf"{_OUTSIDE}L(?:</\w+>)?{_OUTSIDE}")
_CLOSING = re.compile(rf"{_SENTENCE.pattern}| - | (?:because|since|as (?:it|the|this))\b")


def is_bare(skeleton: str) -> bool:
    """Whether there is nothing but one label."""
    return bool(_BARE.fullmatch(skeleton))


def is_closed(skeleton: str) -> bool:
    """Whether a label stands in a part of a cut answer that is complete."""
    end = max((closing.end() for closing in _CLOSING.finditer(skeleton)), default=0)
    return "L" in skeleton[:end]


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
        if last is None or _SENTENCE.search(text, last.end(), marker.start()):
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
