"""The engine: tokens as transformers cuts them, batch equal to single, refusal of what was not exported."""

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from toy_model import LABELS, TEXTS, exported

from serving.engine import Engine
from serving.errors import UserError
from serving.files import sha256
from serving.shapes import softmax
from serving.tokenizing import TextTokenizer

EXTREMES = ["", " \n\t", "\x00", "🙂" * 300, "x" * 5000, "word " * 3000, "é ü ﷺ", "[SEP] [CLS]", "\u200b"]


@pytest.fixture(scope="module")
def fp32() -> Engine:
    return Engine.open(exported(), "fp32", threads=1)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return shutil.copytree(exported(), tmp_path / "export")


def edit(directory: Path, **values: object) -> None:
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_batch_gives_what_single_texts_give(fp32: Engine) -> None:
    texts = TEXTS + EXTREMES
    random.Random(1).shuffle(texts)
    together = fp32.classify(texts)
    assert together.shape == (len(texts), 3)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(together, np.concatenate([fp32.classify([text]) for text in texts]), atol=1e-5)
    assert len(set(together.argmax(axis=1))) > 1  # the toy model tells texts apart, so the lines above mean something


def test_small_batches_change_nothing(fp32: Engine) -> None:
    small = Engine.open(exported(), "fp32", max_batch_tokens=40)
    np.testing.assert_allclose(small.logits(TEXTS), fp32.logits(TEXTS), atol=1e-5)


def test_windows_of_texts_change_nothing(fp32: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many windows, the last one shorter, each tokenized while the one before is computed."""
    texts = (TEXTS + EXTREMES) * 2
    whole, before = fp32.logits(texts), fp32.tokens
    monkeypatch.setattr("serving.engine._WINDOW", 7)
    heard: list[int] = []
    np.testing.assert_allclose(fp32.logits(texts, heard.append), whole, atol=1e-5)
    assert sum(heard) == len(texts)
    assert len(texts) % 7
    assert fp32.tokens - before == sum(fp32.lengths(texts))
    for count in (7, 8, 14):
        np.testing.assert_allclose(fp32.logits(texts[:count]), whole[:count], atol=1e-5)


def test_int8_repeats_itself_and_depends_on_company_only_a_little(fp32: Engine) -> None:
    int8 = Engine.open(exported(), "int8", runtime="onnxruntime", threads=1)
    together, alone = int8.classify(TEXTS), np.concatenate([int8.classify([text]) for text in TEXTS])
    assert together.tobytes() == int8.classify(TEXTS).tobytes()
    assert (together.argmax(axis=1) == alone.argmax(axis=1)).mean() >= 0.95
    assert (together.argmax(axis=1) == fp32.classify(TEXTS).argmax(axis=1)).mean() >= 0.9


def test_int8_of_openvino_does_not_depend_on_company(fp32: Engine) -> None:
    int8 = Engine.open(exported(), "int8", runtime="openvino", threads=1)
    texts = TEXTS + EXTREMES
    together = int8.classify(texts)
    np.testing.assert_allclose(together, np.concatenate([int8.classify([text]) for text in texts]), atol=1e-5)
    assert (together.argmax(axis=1) == fp32.classify(texts).argmax(axis=1)).mean() >= 0.9
    assert np.abs(together - fp32.classify(texts)).max() > 1e-4  # it is int8


def test_auto_takes_the_fastest_runtime_that_is_installed_and_proves_itself(
    copy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert Engine.open(copy, "int8").runtime == "openvino"
    with monkeypatch.context() as patch:
        patch.setattr("serving.runtimes.installed", lambda name: name != "openvino")
        assert Engine.open(copy, "int8").runtime == "onnxruntime"
        with pytest.raises(UserError, match="'openvino' is not installed: `pip install openvino`"):
            Engine.open(copy, "int8", runtime="openvino")
    assert not caplog.messages
    golden = pq.read_table(copy / "golden.parquet")
    lost = golden.set_column(golden.column_names.index("int8 openvino"), "int8 openvino", golden["int8 openvino"][::-1])
    pq.write_table(lost, copy / "golden.parquet")
    values = json.loads((copy / "manifest.json").read_text())
    edit(copy, golden=sha256(copy / "golden.parquet"), model_hash=values["model_hash"])
    assert Engine.open(copy, "int8").runtime == "onnxruntime"
    assert "in int8 of openvino" in caplog.text
    assert "going on without openvino" in caplog.text
    (copy / "int8.xml").unlink()
    assert Engine.open(copy, "int8").runtime == "onnxruntime"
    with pytest.raises(UserError, match=r"no graph of int8 for the runtime 'torch' \(it has onnxruntime\)"):
        Engine.open(copy, "int8", runtime="torch")


def test_temperature_and_token_counter() -> None:
    engine = Engine.open(exported(), "fp32")
    np.testing.assert_allclose(engine.classify(TEXTS), softmax(engine.logits(TEXTS) / 2.0), atol=1e-6)
    before = engine.tokens
    heard: list[int] = []
    engine.logits(["a fine film", ""], heard.append)
    assert engine.tokens - before == 5 + 2  # special tokens count, padding does not
    assert sum(heard) == 2
    assert engine.classify([]).shape == (0, 3)


def test_golden_texts_prove_the_engine(copy: Path) -> None:
    for precision in ("fp32", "int8"):
        Engine.open(copy, precision).prove()
    values = json.loads((copy / "manifest.json").read_text())
    values["temperature"] = 20.0
    del values["model_hash"]
    (copy / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"fails its self-test on this machine.*off by 0\.\d+ in fp32"):
        Engine.open(copy, "fp32").prove()


def test_other_labels_or_another_order_are_refused() -> None:
    assert Engine.open(exported(), "fp32", expect_labels=LABELS).labels == tuple(LABELS)
    for labels in (LABELS[::-1], LABELS[:2]):
        with pytest.raises(UserError, match="in this order"):
            Engine.open(exported(), "fp32", expect_labels=labels)


def test_an_edited_manifest_is_refused(copy: Path) -> None:
    edit(copy, temperature=1.0)
    with pytest.raises(UserError, match=r"manifest.json is not valid \(.*edited\): export the model again"):
        Engine.open(copy, "fp32")
    edit(copy, temperature=-1.0)
    with pytest.raises(UserError, match=r"temperature: Input should be greater than 0"):
        Engine.open(copy, "fp32")
    (copy / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="is not valid"):
        Engine.open(copy, "fp32")


@pytest.mark.parametrize("name", ["fp32.onnx", "tokenizer.json", "golden.parquet"])
def test_changed_and_missing_files_are_refused(copy: Path, name: str) -> None:
    with (copy / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(UserError, match=f"{name} is not the file that was exported"):
        Engine.open(copy, "fp32")
    (copy / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        Engine.open(copy, "fp32")


def test_a_copy_with_one_precision_serves_that_one(copy: Path) -> None:
    (copy / "fp32.onnx").unlink()
    assert Engine.open(copy, "int8").model_hash == Engine.open(exported(), "int8").model_hash
    with pytest.raises(UserError, match=r"no precision 'fp16' \(it has fp32, int8\)"):
        Engine.open(copy, "fp16")


def test_no_model_there(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(UserError, match=r"is no exported model \(manifest.json is missing\)"):
            Engine.open(directory, "fp32")


def tokenizer(max_tokens: int, truncation: str) -> TextTokenizer:
    return TextTokenizer(exported() / "tokenizer.json", max_tokens, truncation)  # type: ignore[arg-type]


def test_head_is_what_transformers_gives() -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(exported().parent / "candidate")
    texts = TEXTS + EXTREMES
    expected = theirs(texts, truncation=True, max_length=32)["input_ids"]
    assert [ids.tolist() for ids in tokenizer(32, "head")(texts)] == expected


def test_windows_of_a_long_text_are_even_and_hold_all_of_it() -> None:
    text = " ".join(str(i % 10) for i in range(1, 24))
    pieces, owners = tokenizer(9, "windows").pieces(["1 2 3", text, ""])
    assert owners.tolist() == [0, 1, 1, 1, 1, 2]
    cls, *body, sep = tokenizer(99, "head")([text])[0].tolist()
    assert [len(piece) for piece in pieces] == [5, 8, 8, 8, 7, 2]
    assert [token for piece in pieces[1:5] for token in piece[1:-1]] == body
    assert all((piece[0], piece[-1]) == (cls, sep) for piece in pieces)
    head, _ = tokenizer(9, "head").pieces([text])
    assert tokenizer(9, "windows")([text])[0].tolist() == head[0].tolist()  # what it is trained on


def test_windows_end_at_the_sixteenth_and_a_megabyte_takes_no_longer() -> None:
    long = "one two three four five six seven " * 40_000
    pieces, _ = tokenizer(9, "windows").pieces([long])
    assert len(pieces) == 16
    few, _ = tokenizer(9, "windows").pieces([long[:2000]])
    assert [piece.tolist() for piece in pieces] == [piece.tolist() for piece in few]


def test_the_engine_takes_the_mean_of_the_windows(copy: Path) -> None:
    values = json.loads((copy / "manifest.json").read_text())
    del values["model_hash"]
    (copy / "manifest.json").write_text(json.dumps(values | {"truncation": "windows"}))
    engine = Engine.open(copy, "fp32")
    text = " ".join(str(i % 10) for i in range(70))  # 32 tokens are room for 30: three windows of 24, 23 and 23
    body = text.split()
    parts = [" ".join(some) for some in (body[:24], body[24:47], body[47:])]
    heard: list[int] = []
    assert engine.lengths(["a fine film", text, ""]) == [5, 76, 2]
    together = engine.logits(["a fine film", text, ""], heard.append)
    assert sum(heard) == 3
    np.testing.assert_allclose(together[1], engine.logits(parts).mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(together[[0, 2]], engine.logits(["a fine film", ""]), atol=1e-5)


def test_head_tail_keeps_both_ends_and_the_special_tokens() -> None:
    whole = tokenizer(1000, "head")
    text = " ".join(str(i) for i in range(100))
    full, (cut,) = whole([text])[0].tolist(), tokenizer(9, "head_tail")([text])
    assert cut.tolist() == full[:5] + full[-4:]  # [CLS] 0 1 2 3 97 98 99 [SEP]
    short = tokenizer(9, "head_tail")(["1 2 3 4 5 6 7"])[0]
    assert short.tolist() == whole(["1 2 3 4 5 6 7"])[0].tolist()


@pytest.mark.parametrize("truncation", ["head", "head_tail"])
def test_a_huge_text_is_cut_before_it_is_tokenized_with_the_same_result(truncation: str) -> None:
    words = random.Random(3)
    huge = " ".join("".join(words.choices("abcdefgh'-.é", k=words.randint(1, 30))) for _ in range(60_000))
    ours = tokenizer(64, truncation)
    start = time.process_time()
    (ids,) = ours([huge])
    assert time.process_time() - start < 0.2  # whole, it takes seconds
    whole = ours._tokenizer.encode(huge).ids
    tail = 31 if truncation == "head_tail" else 0
    assert ids.tolist() == whole[: 63 - tail] + whole[len(whole) - 1 - tail :]


@pytest.mark.parametrize(
    "text", ["x" * 300_000, " " * 300_000, "ab " + " " * 300_000 + "cd", "\n".join(["y" * 90_000] * 3)]
)
def test_a_huge_text_without_words_is_tokenized_whole(text: str) -> None:
    ours = tokenizer(16, "head_tail")
    assert ours([text])[0].tolist() == ours._cut(np.array(ours._tokenizer.encode(text).ids)).tolist()


def test_no_room_for_text() -> None:
    with pytest.raises(UserError, match="max_tokens 2 leaves no room"):
        tokenizer(2, "head")


def test_serving_needs_neither_torch_nor_the_pipeline() -> None:
    code = (
        "import sys, serving.engine, serving.commands, serving.probing, serving.verifying; "
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "transformers", "mlflow", "pipeline", "onnx", "sklearn"} & set(loaded)


def test_signals_are_heard_after_engines_came_and_went() -> None:
    """In a process of its own: a signal that found no stack would end this one."""
    code = f"""
import os, signal
from pathlib import Path
from serving.engine import Engine
signal.signal(signal.SIGINT, lambda *_: print("heard"))
first, second = (Engine.open(Path({str(exported())!r}), "int8", runtime="openvino", threads=1) for _ in range(2))
del first
del second
os.kill(os.getpid(), signal.SIGINT)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "heard\n"), run.stderr
