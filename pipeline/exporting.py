"""From a fine-tuned encoder to a directory that labels: graphs for each runtime, tokenizer, manifest, golden texts.

Each graph is measured against torch on real texts before anything is published.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import quantising
from pipeline.artifacts import Json
from pipeline.errors import UserError
from pipeline.graphs import write_graphs
from pipeline.params import Export
from pipeline.quantising import Pieces
from serving import batching, runtimes, shapes
from serving.engine import Engine
from serving.files import sha256, unwritable
from serving.models import DRIFT, GOLDEN, MANIFEST, TOKENIZER, Package
from serving.precisions import PRECISIONS, PrecisionName, RuntimeName
from serving.profiles import Profile
from serving.progress import progress
from serving.runtimes import Floats, Ids
from serving.schemas import Graph, Manifest
from serving.shapes import Shape
from serving.tokenizing import TextTokenizer, mean_of_pieces

GOLDEN_TEXTS = 16
_MAX_BATCH_TOKENS = 4096
_LIBRARIES = ("nncf", "onnx", "onnxruntime", "onnxscript", "openvino", "tokenizers", "torch", "transformers")
Graphs = dict[tuple[PrecisionName, RuntimeName], Graph]


def export(
    candidate: Path,
    out: Path,
    texts: Sequence[str],
    params: Export,
    temperature: float,
    describe: Callable[[Engine], Profile | None] = lambda _: None,
    thresholds: Sequence[float] | None = None,
) -> Manifest:
    """Write the exported model to `out`, whole or not at all.

    Args:
        candidate: a transformer candidate's directory.
        out: replaced when everything has been written and measured.
        texts: real ones, for parity; the first few become the golden texts.
        params: precisions and limits.
        temperature: logits are divided by it.
        describe: makes the profile that later texts are compared with, by the last of the graphs.
        thresholds: of the labels of kind multi.

    Raises:
        UserError: a precision is further from torch than `params` allow, the encoder is of a kind that a runtime does
            not know, or `out` can't be written.
    """
    facts = Json(candidate / "candidate.json").read()
    shape = shapes.of(facts.get("task", "single"), facts["labels"], temperature, thresholds)
    with _replacing_directory(out) as building:
        model, pad_id = _load(candidate)
        shutil.copyfile(candidate / TOKENIZER, building / TOKENIZER)
        tokenize = TextTokenizer(building / TOKENIZER, facts["max_tokens"], facts["truncation"])
        ids, owners = tokenize.pieces(texts)
        wanted = [(p, r) for p in params.precisions for r in params.runtimes if p in PRECISIONS[r]]
        with progress("export: torch", len(ids)) as advance:
            logits_of_pieces = torch_logits(model, ids, pad_id, advance)
        pieces = Pieces(ids, logits_of_pieces, pad_id)
        if ("int8", "openvino") in wanted:
            layers = model.config.num_hidden_layers
            quantising.write_int8(candidate, layers, building / "int8.xml", pieces, params.max_flips, shape)
        _write_graphs(model, building, wanted)
        draft = _draft(building, facts, pad_id, shape, len(texts), wanted)
        engines = {(p, r): Engine(Package(building, draft, p, r)) for p, r in wanted}
        reference = mean_of_pieces(logits_of_pieces, owners, len(texts))
        with progress("export: parity", len(texts) * len(engines)) as advance:
            logits = {name: engine.logits(texts, advance) for name, engine in engines.items()}
        measured: Graphs = {
            (p, r): _measured(draft.precisions[p][r], logits[p, r], reference, shape) for p, r in wanted
        }
        check(measured, params)
        _write_golden(building / GOLDEN, texts[:GOLDEN_TEXTS], engines.values())
        drift = _write_drift(building / DRIFT, describe(list(engines.values())[-1]))
        found = {"precisions": _nested(measured), "golden": sha256(building / GOLDEN), "drift": drift}
        manifest = draft.model_copy(update=found)
        (building / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


def check(measured: Graphs, params: Export) -> None:
    """Hold each graph against the limits.

    Raises:
        UserError: names every graph that is too far from torch, its figure, the limit and the ways out.
    """
    problems = [
        f"{precision} of {runtime} gives {graph.flips:.2%} of the texts another label (export.max_flips is "
        f"{params.max_flips:.2%})"
        for (precision, runtime), graph in measured.items()
        if graph.flips > params.max_flips
    ]
    problems += [
        f"{precision} of {runtime} gives logits that are no numbers"
        for (precision, runtime), graph in measured.items()
        if isnan(graph.max_difference)
    ]
    problems += [
        f"fp32 of {runtime} has a logit that is {graph.max_difference:.3g} from torch's (export.max_difference is "
        f"{params.max_difference:.3g})"
        for (precision, runtime), graph in measured.items()
        if precision == "fp32" and graph.max_difference > params.max_difference
    ]
    if problems:
        ways = "drop the precision from export.precisions (see label.precision too), or raise the limit"
        raise UserError(f"the exported model is not the trained one: {'; '.join(problems)}: {ways}")


def torch_logits(
    model: Any,  # noqa: ANN401 - a module
    ids: Ids,
    pad_id: int,
    advance: Callable[[int], object],
) -> Floats:
    """What the export is measured against: logits [n, classes] of `model` on the CPU, in fp32."""
    import torch

    result = np.empty((len(ids), model.config.num_labels), dtype=np.float32)
    with torch.inference_mode():
        for rows in batching.plan([len(row) for row in ids], _MAX_BATCH_TOKENS):
            inputs, mask = batching.pad([ids[row] for row in rows], pad_id)
            output = model(input_ids=torch.from_numpy(inputs), attention_mask=torch.from_numpy(mask))
            result[rows] = output.logits.numpy()
            advance(len(rows))
    return result


def _write_graphs(
    model: Any,  # noqa: ANN401 - a module
    directory: Path,
    wanted: Sequence[tuple[PrecisionName, RuntimeName]],
) -> None:
    if ("bf16", "torch") in wanted:
        from pipeline import packing

        packing.write_bf16(model, directory / "bf16.safetensors")
    if precisions := {p for p, runtime in wanted if Path(runtimes.graph(p, runtime)).suffix == ".onnx"}:
        write_graphs(model, directory, precisions)


def _load(candidate: Path) -> tuple[Any, int]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(candidate, use_safetensors=True, dtype=torch.float32)
    return model.eval(), int(AutoTokenizer.from_pretrained(candidate).pad_token_id)


def _draft(
    directory: Path,
    facts: dict[str, Any],
    pad_id: int,
    shape: Shape,
    parity_texts: int,
    wanted: Sequence[tuple[PrecisionName, RuntimeName]],
) -> Manifest:
    """All of the manifest that is known before anything is measured; its `model_hash` is final."""
    return Manifest(
        candidate=facts["candidate"],
        labels=facts["labels"],
        max_tokens=facts["max_tokens"],
        truncation=facts["truncation"],
        pad_id=pad_id,
        temperature=shape.temperature,
        kind=shape.kind,
        thresholds=list(getattr(shape, "thresholds", ())) or None,
        tokenizer=sha256(directory / TOKENIZER),
        golden="0" * 64,
        precisions=_nested({(p, r): _unmeasured(runtimes.files(directory, p, r)) for p, r in wanted}),
        parity_texts=parity_texts,
        created_with={name: version(name) for name in _LIBRARIES},
    )


def _unmeasured(files: list[Path]) -> Graph:
    size = sum(path.stat().st_size for path in files)
    return Graph(files={path.name: sha256(path) for path in files}, bytes=size, flips=0.0, max_difference=0.0)


def _measured(graph: Graph, logits: Floats, reference: Floats, shape: Shape) -> Graph:
    flips = shape.flips(logits, reference)
    return graph.model_copy(update={"flips": flips, "max_difference": float(np.abs(logits - reference).max())})


def _nested(graphs: Graphs) -> dict[PrecisionName, dict[RuntimeName, Graph]]:
    nested: dict[PrecisionName, dict[RuntimeName, Graph]] = {}
    for (precision, runtime), graph in graphs.items():
        nested.setdefault(precision, {})[runtime] = graph
    return nested


def _write_golden(path: Path, texts: Sequence[str], engines: Iterable[Engine]) -> None:
    """The golden texts, and a column of probabilities [classes] for each graph."""
    columns = {e.golden: pa.array(list(e.classify(texts)), pa.list_(pa.float32())) for e in engines}
    pq.write_table(pa.table({"text": pa.array(texts, pa.string()), **columns}), path)


def _write_drift(path: Path, profile: Profile | None) -> str | None:
    """The hash of what was written, if anything."""
    if profile is None:
        return None
    path.write_text(profile.model_dump_json() + "\n", encoding="utf-8")
    return sha256(path)


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
