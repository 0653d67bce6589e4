"""An encoder adapted to texts is another one that still loads, the same whether the run was killed or not."""

from pathlib import Path
from typing import Any

import pytest
from test_finetuning import TOKENIZER, DiedError, died, dying, encoder, examples, settings

__all__ = ["encoder"]  # the fixture
TEXTS = examples(80, 1).texts  # 10 steps


def adapt(start: Path, place: Path) -> bytes:
    from pipeline import adapting

    params = settings(adapt={"texts": 80, "learning_rate": 1e-3})
    adapting.fit(params, str(start), TEXTS, place / "work", place / "out")
    return (place / "out" / "model.safetensors").read_bytes()


def test_a_killed_run_ends_with_the_same_weights(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import adapting, finetuning

    whole = adapt(encoder, tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(adapting, "progress", dying(6, died))
        with pytest.raises(DiedError):
            adapt(encoder, tmp_path / "killed")
    assert finetuning.last_complete(tmp_path / "killed/work") is not None
    assert adapt(encoder, tmp_path / "killed") == whole
    model, _ = finetuning.load(str(tmp_path / "whole/out"), ["no", "yes"], 32)
    start, _ = finetuning.load(str(encoder), ["no", "yes"], 32)
    words: list[Any] = [m.bert.embeddings.word_embeddings.weight for m in (model, start)]
    assert (words[0] != words[1]).any()


def test_texts_and_settings_decide_the_fingerprint() -> None:
    from pipeline import adapting

    params = settings(adapt={})
    same = adapting.fingerprint("x", params, TEXTS)
    assert same == adapting.fingerprint("x", settings(adapt={}, learning_rate=1.0), TEXTS)  # of fine-tuning
    others = [("y", params, TEXTS), ("x", params, TEXTS[1:]), ("x", settings(adapt={"mask_share": 0.3}), TEXTS)]
    assert same not in [adapting.fingerprint(*other) for other in others]


def test_what_is_masked_is_a_function_of_the_place() -> None:
    import numpy as np
    from transformers import AutoTokenizer

    from pipeline.adapting import _Masked
    from pipeline.params import Adapt

    tokenizer = AutoTokenizer.from_pretrained(str(TOKENIZER))
    ids = tokenizer(["so it is a rather long and lovely film " * 20, "film"])["input_ids"]
    masked = _Masked(ids, Adapt(epochs=200, mask_share=0.15), tokenizer)
    assert len(masked) == 400
    assert masked[0] == masked[0] != masked[2]  # the same text in another epoch
    rows = [masked[i] for i in range(0, 400, 2)]
    shown, hidden = (np.array([row[key] for row in rows]) for key in ("input_ids", "labels"))
    chosen = hidden >= 0
    assert not chosen[:, [0, -1]].any()  # [CLS], [SEP]
    assert abs(chosen[:, 1:-1].mean() - 0.15) < 0.01
    assert abs((shown[chosen] == tokenizer.mask_token_id).mean() - 0.8) < 0.02
    assert (shown[~chosen] == np.broadcast_to(ids[0], shown.shape)[~chosen]).all()
    assert all((np.array(masked[i]["labels"]) >= 0).sum() == 1 for i in range(1, 400, 2))  # never none
