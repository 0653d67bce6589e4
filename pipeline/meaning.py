"""Whether the labels that an answer names are meant. Better an answer rejected than a label that says the contrary.

Knows grammar; nothing of tasks, reasons or probabilities. Takes skeletons (see `pipeline.wording`), and time linear in
their length.
"""

import re
from collections.abc import Iterator
from typing import Literal

CLAIM = "\ue000"  # stands before what JSON gives as the answer

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
SENTENCE = re.compile(rf"[.!?;。।؟{CLAIM}\n](?<!\.\.)(?!(?<=\.)[.\d])(?:(?<!\n)|{_HELD})")
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
    for end in SENTENCE.finditer(text):
        yield text[start : end.start()], end[0]
        start = end.end()
    yield text[start:], " "


_OUTSIDE = rf"(?:[^\w?؟~≠¬{_CROSSES}]|_)*"
_BARE = re.compile(rf"{_OUTSIDE}L(?:</\w+>)?{_OUTSIDE}")
_CLOSING = re.compile(rf"{SENTENCE.pattern}| - | (?:because|since|as (?:it|the|this))\b")


def is_bare(skeleton: str) -> bool:
    """Whether there is nothing but one label."""
    return bool(_BARE.fullmatch(skeleton))


def is_closed(skeleton: str) -> bool:
    """Whether a label stands in a part of a cut answer that is complete."""
    end = max((closing.end() for closing in _CLOSING.finditer(skeleton)), default=0)
    return "L" in skeleton[:end]
