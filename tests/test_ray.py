"""Bulk labelling on a local Ray."""

from pathlib import Path

import pytest
from toy_bulk import contents, label, settings, write_corpus

from serving import labelling

pytest.importorskip("ray")


@pytest.mark.slow
def test_ray_actors_do_what_one_process_does(tmp_path: Path) -> None:
    corpus, out = write_corpus(tmp_path / "corpus.jsonl"), tmp_path / "out"
    labelling.run(settings(corpus, tmp_path / "calm"))
    done = label(corpus, out, "--executor", "ray", "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert contents(out) == contents(tmp_path / "calm")
    again = label(corpus, out, "--executor", "ray", "--workers", 2)
    assert "14 of these shards were there already" in again.stdout
