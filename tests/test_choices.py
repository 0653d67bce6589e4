"""What a server reports of the tokens it might have said becomes a log-probability of each whole label."""

import math
import os
from functools import cache
from typing import Any

import pytest

from pipeline import choices, weights
from pipeline.choices import Token, label_log_probabilities

os.environ["HF_HUB_OFFLINE"] = "1"
SENTIMENT = (("negative",), ("positive",))


def token(text: str, **others: float) -> Token:
    """A token that was said, at -0.1, and what else could have stood there."""
    return Token(text, {text: -0.1, **others})


def test_one_token_decides_between_labels_that_begin_differently() -> None:
    assert label_log_probabilities([token("positive", negative=-2.5)], SENTIMENT) == [-2.5, -0.1]


@pytest.mark.parametrize(
    "said", [" positive", "Positive", "\npositive", " POS", '"posi', "**Positive", "▁pos", "positive."]
)
def test_spaces_case_quotes_and_pieces_of_words_count(said: str) -> None:
    assert label_log_probabilities([token(said, negative=-2.5)], SENTIMENT) == [-2.5, -0.1]


def test_all_spellings_of_a_label_count_together() -> None:
    alternatives = {"positive": math.log(0.3), " Positive": math.log(0.2), "neg": math.log(0.1)}
    found = label_log_probabilities([Token("positive", alternatives)], SENTIMENT)
    assert found == pytest.approx([math.log(0.1), math.log(0.5)])


def test_several_words_stand_for_one_label() -> None:
    words = ((" bad", " awful"), (" good",))
    alternatives = {" bad": math.log(0.3), " awful": math.log(0.3), " good": math.log(0.2)}
    found = label_log_probabilities([Token(" bad", alternatives)], words)
    assert found == pytest.approx([math.log(0.6), math.log(0.2)])


def test_a_label_that_was_not_reported_is_less_likely_than_all_that_were() -> None:
    assert label_log_probabilities([token("positive", maybe=-4.0, The=-7.0)], SENTIMENT) == [-7.0, -0.1]


def test_a_server_that_says_minus_9999_is_bounded() -> None:
    assert label_log_probabilities([token("positive", negative=-9999.0)], SENTIMENT) == [-100.0, -0.1]
    assert label_log_probabilities([token("positive", x=-math.inf)], SENTIMENT) == [-100.0, -0.1]
    assert label_log_probabilities([token("positive", x=math.nan)], SENTIMENT) == [-100.0, -0.1]


@pytest.mark.parametrize("said", ["The", "Sure", "", "\n", "I", "nothing", "Pizza"])
def test_where_no_token_speaks_for_a_label_nothing_is_made_up(said: str) -> None:
    assert label_log_probabilities([token(said)], (("negative",), ("positive",), ("irrelevant",))) is None
    assert label_log_probabilities([], SENTIMENT) is None


def test_a_first_token_without_letters_leaves_it_to_the_next() -> None:
    tokens = [token("\n\n"), Token("positive", {"positive": -0.2, "negative": -3.0})]
    assert label_log_probabilities(tokens, SENTIMENT) == pytest.approx([-3.1, -0.3])


def test_labels_that_begin_alike_part_at_a_later_token() -> None:
    words = (("sports",), ("science",), ("politics",))
    tokens = [token("s", pol=-4.0), Token("ports", {"ports": -0.3, "cience": -1.5})]
    assert label_log_probabilities(tokens, words) == pytest.approx([-0.4, -1.6, -4.0])
    whole = [token(" sports", **{" science": -3.0, " pol": -4.0})]
    assert label_log_probabilities(whole, words) == [-0.1, -3.0, -4.0]


NOT_SURE = (("no",), ("not sure",), ("yes",))


def test_a_label_that_another_one_begins_with_is_told_apart_by_what_follows() -> None:
    no = [token(" no", **{" not": -2.0, " yes": -3.0}), Token(".", {".": -0.2, "\n": -2.0, "ne": -9.0})]
    dot_or_line = math.log(math.exp(-0.2) + math.exp(-2.0))
    assert label_log_probabilities(no, NOT_SURE) == pytest.approx([-0.1 + dot_or_line, -2.0, -3.0])
    unsure = [token(" not", **{" no": -2.0, " yes": -3.0}), Token(" sure", {" sure": -0.01})]
    found = label_log_probabilities(unsure, NOT_SURE)
    assert found is not None
    assert found[1] == max(found)


def test_an_answer_that_ends_after_the_shorter_label_means_it() -> None:
    found = label_log_probabilities([token("no", yes=-3.0)], NOT_SURE)
    assert found == [-0.1, -3.0, -3.0]


def test_a_negated_label_is_not_the_label() -> None:
    found = label_log_probabilities([token("non", tox=-2.0)], (("toxic",), ("non-toxic",)))
    assert found == [-2.0, -0.1]


def test_labels_of_many_tokens_are_followed_until_they_part() -> None:
    words = (("climate change policy",), ("climate change denial",))
    tokens = [token("climate"), token(" change"), Token(" denial", {" denial": -0.5, " policy": -1.0}), token(".")]
    assert label_log_probabilities(tokens, words) == pytest.approx([-1.2, -0.7])


def test_a_script_without_spaces() -> None:
    assert label_log_probabilities([token("积极的", 消=-2.0)], (("消极",), ("积极",))) == [-2.0, -0.1]


def test_whether_one_token_is_enough_whatever_the_tokenizer() -> None:
    assert choices.distinct_at_once(SENTIMENT)
    assert choices.distinct_at_once(((" bad", " awful"), (" good",)))
    assert not choices.distinct_at_once((("sports",), ("Science",)))
    assert not choices.distinct_at_once(((" bad", " Good"), (" great",)))


TEXTS = ["A wonderful film, I loved every minute.", "Dull, slow and badly acted.", "It broke after two days."]


@cache
def smollm2() -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = weights.language_model_directory("embedded:smollm2")
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(directory)


def reported(prompt: str, steps: int, top: int = 20) -> list[Token]:
    """What a server would say: greedy tokens with the `top` likeliest ones at each place."""
    import torch

    model, tokenizer = smollm2()
    ids, said = tokenizer(prompt).input_ids, []
    for _ in range(steps):
        with torch.inference_mode():
            scores = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        best = scores.topk(top)
        words = {tokenizer.decode([i]): float(v) for i, v in zip(best.indices, best.values, strict=True)}
        said.append(Token(tokenizer.decode([int(best.indices[0])]), words))
        ids = [*ids, int(best.indices[0])]
    return said


def exact(prompt: str, word: str) -> float:
    """Log-probability of all tokens of a word."""
    import torch

    model, tokenizer = smollm2()
    ids, rest = tokenizer(prompt).input_ids, tokenizer(word, add_special_tokens=False).input_ids
    with torch.inference_mode():
        scores = model(torch.tensor([ids + rest])).logits[0].log_softmax(-1)
    return sum(float(scores[len(ids) - 1 + i, token]) for i, token in enumerate(rest))


@pytest.mark.slow
def test_twenty_tokens_say_what_scoring_whole_words_says() -> None:
    words = ((" bad", " terrible", " awful"), (" good", " great", " excellent"))
    for text in TEXTS:
        prompt = f"Review: {text}\nOverall, it was a"
        said = reported(prompt, 1)
        found = label_log_probabilities(said, words)
        assert found is not None
        for label, value in zip(words, found, strict=True):
            true = {word: exact(prompt, word) for word in label}
            if there := [true[word] for word in label if word in said[0].alternatives]:
                assert value == pytest.approx(math.log(sum(map(math.exp, there))), abs=0.1)
            else:  # beyond the first twenty: less likely than what is said of it
                assert max(true.values()) < value == min(said[0].alternatives.values())


@pytest.mark.slow
def test_labels_that_share_their_first_tokens_are_scored_as_if_whole() -> None:
    shots = "Text: the sky is blue.\nTopic: not sports\n\nText: a goal in the last minute\nTopic: sports\n\n"
    prompt = shots + "Text: {}\nTopic:"
    words = ((" sports",), (" sport science",), (" not sports",))
    for text in ("the home team won by two", "rain is on its way"):
        asked = prompt.format(text)
        found = label_log_probabilities(reported(asked, 8), words)
        assert found is not None
        likely = [i for i, label in enumerate(words) if exact(asked, label[0]) > -5]
        assert likely
        for i in likely:
            assert found[i] == pytest.approx(exact(asked, words[i][0]), abs=0.5)
