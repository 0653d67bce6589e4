"""int8 of OpenVINO: what is kept in fp32 where parity asks for it."""

from pathlib import Path

import numpy as np
import openvino
import pytest
from toy_model import LABELS, TEXTS, candidate

from pipeline import exporting, quantising
from pipeline.quantising import Pieces
from serving import shapes
from serving.runtimes import Floats
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

    steps, shown = [], quantising._logits

    def as_if_two_steps_were_not_enough(path: Path, pieces: Pieces) -> Floats:
        steps.append(matmuls_in_int8(path))
        return shown(path, pieces) if len(steps) == 3 else -pieces.logits

    monkeypatch.setattr(quantising, "_logits", as_if_two_steps_were_not_enough)
    quantising.write_int8(tmp_path / "candidate", 2, tmp_path / "int8.xml", Pieces(ids, logits, pad_id), 0.2, SHAPE)
    everything, _, some = steps
    down = {name for name in everything if "output.dense" in name and "attention" not in name}
    assert len(down) == 2
    assert some == everything - down
    assert matmuls_in_int8(tmp_path / "int8.xml") == some


def test_the_last_quarter_comes_first() -> None:
    assert [len(step) for step in quantising._ladder(12)] == [0, 1, 1]
    assert "(9|10|11)" in quantising._ladder(12)[1][0]
    assert np.size(quantising._ladder(6)[0]) == 0
