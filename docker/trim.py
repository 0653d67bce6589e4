"""Removes from an environment what the serving half never loads: `python trim.py SITE_PACKAGES`.

A wheel is made for all its users: OpenVINO's brings plugins for GPUs and NPUs and readers of seven formats, Arrow's an
RPC system, botocore's the description of every service. Each entry says what it is and why it can go. An entry that
matches nothing of a package that is there is an error: a new version has other files, and the image would grow unseen.
`--plan` removes nothing.
"""

import argparse
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

# pattern below site-packages: why nothing misses it
UNUSED = {
    "openvino/libs/libopenvino_intel_gpu_plugin.so": "serving.runtimes compiles for the CPU only",
    "openvino/libs/cache.json": "the GPU plugin's",
    "openvino/libs/libopenvino_intel_npu_plugin.so": "serving.runtimes compiles for the CPU only",
    "openvino/libs/libopenvino_auto*_plugin.so": "as above; these choose among devices",
    "openvino/libs/libopenvino_hetero_plugin.so": "as above; this one divides a graph among devices",
    "openvino/libs/libopenvino_c.so.*": "for C programs",
    "openvino/libs/libopenvino_tensorflow_frontend.so.*": "graphs are OpenVINO's own IR (int8) or ONNX (fp32)",
    "openvino/libs/libopenvino_tensorflow_lite_frontend.so.*": "as above",
    "openvino/libs/libopenvino_pytorch_frontend.so.*": "as above",
    "openvino/libs/libopenvino_paddle_frontend.so.*": "as above",
    "openvino/libs/libopenvino_jax_frontend.so.*": "as above",
    "openvino/libs/libopenvino_gguf_frontend.so.*": "as above",
    "openvino/frontend/*/py_*_frontend.*.so": "Python's side of these; openvino imports them only if they are there",
    "openvino/include": "C++ headers",
    "onnxruntime/capi/libonnxruntime.so.*": "for C programs; Python's module has the same code in itself",
    "onnxruntime/transformers": "tools that export and fuse graphs",
    "onnxruntime/quantization": "tools that quantise graphs",
    "pyarrow/libarrow_flight.so.*": "an RPC system",
    "pyarrow/_flight.*.so": "as above",
    "pyarrow/libarrow_python_flight.so*": "as above",
    "pyarrow/libarrow_python.so": "the same file again, for linkers; libarrow_python.so.NNNN is the one that is loaded",
    "pyarrow/libarrow_python.so.*.*": "as above",
    "pyarrow/include": "C++ headers",
    "pyarrow/**/*.p[xy][dix]": "Cython's sources",
    "pyarrow/src": "C++ sources",
    "pyarrow/tests": "tests",
    "numpy/**/tests": "tests",
    "numpy/f2py": "compiles Fortran",
    "numpy/distutils": "builds extensions",
    "numpy/_core/include": "C headers",
    "numpy/**/*.a": "static libraries",
    "mlflow/assistant": "MLflow's help for coding assistants",
    "mlflow/server": "MLflow's server; here are its clients only",
    "onnxruntime/tools": "tools that convert graphs and look into them",
    "bentoml/_internal/server/static_content/*.*": "BentoML's page of an API; serving.web has one of its own",
    "pygments/lexers/[a-oq-z]*.py": "colours for other languages than Python, whose tracebacks rich may colour",
    "pygments/lexers/_*_builtins.py": "as above",
    "tornado/test": "tests",
    "cryptography/hazmat/bindings/_rust.*.so": "keys of accounts at Google (google-auth) and of MLflow's own gateway",
    "*/**/*.pyi": "types for editors",
    "hf_xet/*.so": "fast downloads from the Hugging Face hub; the service never speaks to it",
}

# libraries whose symbol tables (a sixth of them) are removed with binutils' strip. Not those that were changed after
# linking (numpy.libs and others that auditwheel brought): strip makes them unloadable.
STRIPPED = (
    "pyarrow", "tokenizers", "aiohttp", "yaml", "multidict", "propcache", "frozenlist", "yarl", "watchfiles", "wrapt",
)  # fmt: skip

# services of AWS whose descriptions are kept: the store itself, and those that hand out credentials
AWS = {"s3", "sts", "sso", "sso-oidc", "signin"}


def unused(site: Path) -> dict[Path, str]:
    """Paths that can go, with the reason.

    Raises:
        SystemExit: a pattern matches nothing of a package that is there.
    """
    found: dict[Path, str] = {}
    for pattern, reason in UNUSED.items():
        paths = sorted(site.glob(pattern))
        if not paths and (site / pattern.split("/")[0]).exists():
            sys.exit(f"error: nothing in {site} is named {pattern}: look what became of it and change {__file__}")
        found |= dict.fromkeys(paths, reason)
    services = [path for path in site.glob("botocore/data/*/") if path.is_dir() and path.name not in AWS]
    found |= dict.fromkeys(services, "a service of AWS that nothing here calls")
    return {path: reason for path, reason in found.items() if not found.keys() & set(path.parents)}


def strip(site: Path) -> None:
    """Remove the symbol tables of the libraries that bear it."""
    libraries = [str(path) for name in STRIPPED for path in sorted((site / name).rglob("*.so*")) if path.is_file()]
    subprocess.run(["strip", "--strip-unneeded", *libraries], check=True)


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a directory."""
    return sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file())


def main() -> None:
    """Remove, and say what that saved of which packages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path)
    parser.add_argument("--plan", action="store_true")
    options = parser.parse_args()
    before = size(options.site)
    saved: Counter[str] = Counter()
    for path in unused(options.site):
        saved[path.relative_to(options.site).parts[0]] += size(path)
        if not options.plan:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not options.plan:
        strip(options.site)
        saved["symbol tables"] = before - size(options.site) - saved.total()
    for name, count in saved.most_common(10):
        sys.stdout.write(f"{count / 1e6:6.1f} MB  {name}\n")
    sys.stdout.write(f"{saved.total() / 1e6:6.1f} MB of {before / 1e6:.0f} {'can go' if options.plan else 'went'}\n")


if __name__ == "__main__":
    main()
