"""From a fine-tuned encoder to a directory that labels without torch: ONNX graphs, tokenizer, manifest, golden texts.

Each graph is measured against torch on real texts before anything is published.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifacts import Json
from pipeline.errors import UserError
from pipeline.graphs import write_graphs
from pipeline.params import Export
from serving import batching
from serving.engine import Engine, Floats
from serving.files import sha256, unwritable
from serving.models import GOLDEN, MANIFEST, TOKENIZER, Package
from serving.progress import progress
from serving.schemas import Manifest, Precision
from serving.tokenizing import TextTokenizer

GOLDEN_TEXTS = 16
_MAX_BATCH_TOKENS = 4096
_LIBRARIES = ("onnx", "onnxruntime", "onnxscript", "tokenizers", "torch", "transformers")


def export(candidate: Path, out: Path, texts: Sequence[str], params: Export, temperature: float) -> Manifest:
    """Write the exported model to `out`, whole or not at all.

    Args:
        candidate: a transformer candidate's directory.
        out: replaced when everything has been written and measured.
        texts: real ones, for parity; the first few become the golden texts.
        params: precisions and limits.
        temperature: logits are divided by it.

    Raises:
        UserError: a precision is further from torch than `params` allow, or `out` can't be written.
    """
    facts = Json(candidate / "candidate.json").read()
    with _replacing_directory(out) as building:
        model, pad_id = _load(candidate)
        shutil.copyfile(candidate / TOKENIZER, building / TOKENIZER)
        tokenize = TextTokenizer(building / TOKENIZER, facts["max_tokens"], facts["truncation"])
        write_graphs(model, building, params.precisions)
        draft = _draft(building, facts, pad_id, temperature, len(texts), params)
        engines = {name: Engine(Package(building, draft, name)) for name in params.precisions}
        with progress("export: parity", len(texts) * (1 + len(engines))) as advance:
            reference = torch_logits(model, tokenize, texts, pad_id, advance)
            logits = {name: engine.logits(texts, advance) for name, engine in engines.items()}
        measured = {name: _measured(draft.precisions[name], logits[name], reference) for name in engines}
        check(measured, params)
        _write_golden(building / GOLDEN, texts[:GOLDEN_TEXTS], engines)
        manifest = draft.model_copy(update={"precisions": measured, "golden": sha256(building / GOLDEN)})
        (building / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


def check(measured: dict[Any, Precision], params: Export) -> None:
    """Hold each precision against the limits.

    Raises:
        UserError: names every precision that is too far from torch, its figure, the limit and the ways out.
    """
    problems = [
        f"{name} gives {entry.flips:.2%} of the texts another label (export.max_flips is {params.max_flips:.2%})"
        for name, entry in measured.items()
        if entry.flips > params.max_flips
    ]
    problems += [f"{name} gives logits that are no numbers" for name, e in measured.items() if isnan(e.max_difference)]
    fp32 = measured.get("fp32")
    if fp32 and fp32.max_difference > params.max_difference:
        limit = f"export.max_difference is {params.max_difference:.3g}"
        problems.append(f"fp32 has a logit that is {fp32.max_difference:.3g} from torch's ({limit})")
    if problems:
        ways = "drop the precision from export.precisions (see label.precision too), or raise the limit"
        raise UserError(f"the exported model is not the trained one: {'; '.join(problems)}: {ways}")


def torch_logits(
    model: Any,  # noqa: ANN401 - a module
    tokenize: TextTokenizer,
    texts: Sequence[str],
    pad_id: int,
    advance: Callable[[int], object],
) -> Floats:
    """What the export is measured against: logits [n, classes] of `model` on the CPU, in fp32."""
    import torch

    ids = tokenize(texts)
    result = np.empty((len(texts), model.config.num_labels), dtype=np.float32)
    with torch.inference_mode():
        for rows in batching.plan([len(row) for row in ids], _MAX_BATCH_TOKENS):
            inputs, mask = batching.pad([ids[row] for row in rows], pad_id)
            output = model(input_ids=torch.from_numpy(inputs), attention_mask=torch.from_numpy(mask))
            result[rows] = output.logits.numpy()
            advance(len(rows))
    return result


def _load(candidate: Path) -> tuple[Any, int]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(candidate, use_safetensors=True, dtype=torch.float32)
    return model.eval(), int(AutoTokenizer.from_pretrained(candidate).pad_token_id)


def _draft(
    directory: Path, facts: dict[str, Any], pad_id: int, temperature: float, parity_texts: int, params: Export
) -> Manifest:
    """All of the manifest that is known before anything is measured; its `model_hash` is final."""
    return Manifest(
        candidate=facts["candidate"],
        labels=facts["labels"],
        max_tokens=facts["max_tokens"],
        truncation=facts["truncation"],
        pad_id=pad_id,
        temperature=temperature,
        tokenizer=sha256(directory / TOKENIZER),
        golden="0" * 64,
        precisions={name: _unmeasured(directory, name) for name in params.precisions},
        parity_texts=parity_texts,
        created_with={name: version(name) for name in _LIBRARIES},
    )


def _unmeasured(directory: Path, precision: str) -> Precision:
    files = sorted(directory.glob(f"{precision}.onnx*"))
    size = sum(path.stat().st_size for path in files)
    return Precision(files={path.name: sha256(path) for path in files}, bytes=size, flips=0.0, max_difference=0.0)


def _measured(entry: Precision, logits: Floats, reference: Floats) -> Precision:
    flips = float((logits.argmax(axis=1) != reference.argmax(axis=1)).mean())
    return entry.model_copy(update={"flips": flips, "max_difference": float(np.abs(logits - reference).max())})


def _write_golden(path: Path, texts: Sequence[str], engines: dict[Any, Engine]) -> None:
    """The golden texts, and a column of probabilities [classes] for each precision."""
    columns = {name: pa.array(list(engine.classify(texts)), pa.list_(pa.float32())) for name, engine in engines.items()}
    pq.write_table(pa.table({"text": pa.array(texts, pa.string()), **columns}), path)


@contextmanager
def _replacing_directory(path: Path) -> Iterator[Path]:
    """Yield an empty directory beside `path` that takes its place when the block ends well."""
    building, old = path.with_name(f".{path.name}.building"), path.with_name(f".{path.name}.old")
    try:
        for leftover in (building, old):
            shutil.rmtree(leftover, ignore_errors=True)
        building.mkdir(parents=True)
        yield building
        if path.exists():
            path.rename(old)
        building.rename(path)
    except OSError as error:
        if mended := unwritable(error, path):
            raise mended from error
        raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
