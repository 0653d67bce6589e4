"""int8 of OpenVINO: what is kept in fp32 where parity asks for it."""

from pathlib import Path

import numpy as np
import openvino
import pytest
from toy_model import LABELS, TEXTS, candidate

from pipeline import exporting, quantising
from pipeline.quantising import Pieces
from serving import shapes
from serving.tokenizing import TextTokenizer

SHAPE = shapes.of("single", LABELS)


def matmuls_in_int8(path: Path) -> set[str]:
    """Names of the matrix products whose activations come from a FakeQuantize."""
    found = set()
    for op in openvino.Core().read_model(path).get_ops():
        if op.get_type_name() == "MatMul" and op.input_value(0).get_node().get_type_name() == "FakeQuantize":
            found.add(op.get_friendly_name())
    return found


def test_layers_with_outliers_stay_in_fp32_where_labels_flip_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, pad_id = exporting._load(candidate(tmp_path / "candidate"))
    ids = TextTokenizer(tmp_path / "candidate" / "tokenizer.json", 32, "head")(TEXTS)
    logits = exporting.torch_logits(model, ids, pad_id, lambda _: None)

    quantising.write_int8(tmp_path / "candidate", 2, tmp_path / "all.xml", Pieces(ids, logits, pad_id), 1.0, SHAPE)
    everything = matmuls_in_int8(tmp_path / "all.xml")
    down = {name for name in everything if "output.dense" in name and "attention" not in name}
    assert len(down) == 2

    flips = iter([0.5, 0.5, 0.0])  # as if the first two steps were not enough
    shown = quantising._logits
    monkeypatch.setattr(quantising, "_logits", lambda path, p: shown(path, p) if next(flips) == 0 else -p.logits)
    quantising.write_int8(tmp_path / "candidate", 2, tmp_path / "some.xml", Pieces(ids, logits, pad_id), 0.2, SHAPE)
    assert matmuls_in_int8(tmp_path / "some.xml") == everything - down
    assert next(flips, None) is None


def test_the_last_quarter_comes_first() -> None:
    assert [len(step) for step in quantising._ladder(12)] == [0, 1, 1]
    assert "(9|10|11)" in quantising._ladder(12)[1][0]
    assert np.size(quantising._ladder(6)[0]) == 0
