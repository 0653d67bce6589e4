"""How long it takes to find out that nothing is left to ask: the stage annotate with all answers stored.

    python benchmarks/resume.py [--texts 100000]

A project of its own in a temporary folder, as `llambert init` makes it, whose model is never loaded.
`again` is the whole stage, which writes its questions and responses anew; `look` is the part of it that looks every
question up in the store.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from pipeline import annotators, asking, params
from pipeline.artifacts import GOLD, QUESTIONS, SAMPLE, STORE, Sampled
from pipeline.commands.project import init
from pipeline.responses import Answer, opened
from pipeline.stages import annotate
from serving.corpus import text_hash

_WORDS = "The plot was thin and the cast was fine, but the second half dragged on and on without any of its charm. "


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=100_000)
    count = parser.parse_args().texts
    with tempfile.TemporaryDirectory() as directory:
        project = Path(directory) / "project"
        init(project)
        os.chdir(project)
        settings = _settings()
        texts = (f"{i}: {_WORDS}" for i in range(count))
        SAMPLE.write(Sampled(str(i), text, text_hash(text), "train") for i, text in enumerate(texts))
        GOLD.write([])
        with opened(STORE) as store:
            annotator = annotators.create(settings.annotate, settings.task, store)
            keys = (annotator.key(annotators.Request(row.id, row.text, None)) for row in SAMPLE)
            store.add(Answer(key, None, [-0.1, -2.4], "choice", 40, 0, 0.2, False) for key in keys)
        annotate.run(settings)
        start = time.perf_counter()
        annotate.run(settings)
        again = time.perf_counter() - start
        with opened(STORE) as store:
            start, known = time.perf_counter(), asking.Known(store)
            left = sum(annotator.key(request) not in known for request in known.requests(QUESTIONS))
        print(f"{count:,} stored answers: again {again:.2f} s, look {time.perf_counter() - start:.2f} s, {left} left")
        os.chdir("/")


def _settings() -> params.Params:
    settings = params.load()
    prompt = settings.annotate.prompt.model_copy(update={"content_free": []})
    changes = {"prompt": prompt, "gold": False, "pilot": 0}
    return settings.model_copy(update={"annotate": settings.annotate.model_copy(update=changes)})


if __name__ == "__main__":
    main()
