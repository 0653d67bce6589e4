"""What a person types and sees: help, a new project, mistakes with one message and exit code 2."""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import params
from pipeline.artifacts import LABELS, STATE, Json, Sampled, Table
from pipeline.commands import project
from pipeline.errors import UserError

ROOT = Path(__file__).parents[1]


def llambert(directory: Path, *arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "pipeline", *arguments]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copytree(ROOT / "data/demo", tmp_path / "data/demo")
    return tmp_path


def change(project: Path, old: str, new: str) -> None:
    text = (project / "params.yaml").read_text()
    assert old in text
    (project / "params.yaml").write_text(text.replace(old, new))


def test_help_is_quick_because_it_imports_nothing_heavy(tmp_path: Path) -> None:
    script = "import sys; sys.argv = ['llambert', '--help']\nfrom pipeline.__main__ import main\n"
    script += "try: main()\nexcept SystemExit: pass\n"
    script += (
        "heavy = {'torch', 'transformers', 'mlflow', 'pandas', 'pyarrow', 'sklearn', 'duckdb'} & set(sys.modules)\n"
    )
    script += "print('heavy:', sorted(heavy))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "heavy: []" in done.stdout
    for command in ("init", "check", "promote", "rollback", "label-text", "ingest", "report"):
        assert f" {command} " in done.stdout


def test_a_new_project_says_what_to_do_next(tmp_path: Path) -> None:
    directory = tmp_path / "mine"
    assert "llambert check" in llambert(tmp_path, "init", "mine")
    assert (directory / ".dvc").is_dir()
    wrong = llambert(directory, "check", code=2)
    assert "data/corpus.csv" in wrong
    assert "Traceback" not in wrong
    assert "holds a params.yaml already" in llambert(tmp_path, "init", "mine", code=2)


def test_check_passes_on_the_demo(demo: Path) -> None:
    assert "all is there" in llambert(demo, "check")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("size: 780", "size: many", "sample.size: Input should be a valid integer (got 'many')"),
        ("size: 780", "sise: 780", "sample.sise: Extra inputs are not permitted"),
        ("size: 780", "size: 0", "sample.size: Input should be greater than 0 (got 0)"),
        ("corpus.csv", "corpse.csv", "data/demo/corpse.csv"),
        ("model: embedded:minilm", "model: ./data/demo", "encoder './data/demo' has no config.json"),
        ("model: embedded:smollm2", "model: nowhere/at/all", "neither a directory nor a file here"),
        ("{path: data/demo/corpus.csv}", "{path: data/demo/corpus.csv, text: body}", "no column 'body'"),
        ("kind: tfidf", "kind: bert", "encoders.tfidf"),
        ("encoders: [minilm, tfidf]", "encoders: [minilm]", "needs the tfidf candidate"),
        ("task:", "task: [", "not readable as YAML"),
    ],
)
def test_mistakes_in_params_are_named_before_any_work(demo: Path, old: str, new: str, said: str) -> None:
    change(demo, old, new)
    output = llambert(demo, "check", code=2)
    assert said in output
    assert "Traceback" not in output


def test_check_wants_a_key_for_an_endpoint_and_a_price_for_a_budget(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_ADMIN_KEY", raising=False)
    change(demo, "kind: local ", "kind: openai ")
    change(demo, "    model: embedded:smollm2\n", "    model: gpt-4o\n")
    change(demo, "    max_batch_tokens: 2048\n", "")
    assert "there is no key: set OPENAI_API_KEY" in llambert(demo, "check", code=2)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    assert "labelled by gpt-4o (openai)" in llambert(demo, "check")
    change(demo, "model: gpt-4o", "model: unheard-of")
    change(demo, "  gold: true", "  gold: true\n  budget: {money: 1.0}")
    assert "annotate.budget.money can't be kept" in llambert(demo, "check", code=2)


def test_no_and_yes_are_labels_not_booleans(demo: Path) -> None:
    change(demo, "negative: [bad]", "no: [bad]")
    change(demo, "positive: [good]", "yes: [good]")
    change(demo, "label: negative", "label: no")
    change(demo, "label: positive", "label: yes")
    assert params.load(demo / "params.yaml").task.names == ["no", "yes"]


def test_a_second_run_in_the_same_directory_is_refused(demo: Path) -> None:
    (demo / STATE).mkdir()
    with (demo / STATE / "lock").open("w") as file:
        file.write("4711")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another run (process 4711) works in this directory" in llambert(demo, "ingest", code=2)
    llambert(demo, "ingest")


def test_stages_out_of_order_say_what_is_missing(demo: Path) -> None:
    assert "data/sample.parquet does not exist" in llambert(demo, "annotate", code=2)
    assert "there is no candidate 'x'" in llambert(demo, "train", "x", code=2)


def test_a_full_disk_leaves_what_was_there(demo: Path) -> None:
    llambert(demo, "ingest")
    before = (demo / "data/corpus.parquet").read_bytes()
    # The size limit of a process stands for the disk's: the kernel refuses the write in the same place.
    script = "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    script += "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); sys.argv = ['llambert', 'ingest']\n"
    script += "runpy.run_module('pipeline', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", script], cwd=demo, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "no room" in done.stderr
    assert (demo / "data/corpus.parquet").read_bytes() == before
    assert not list((demo / "data").glob(".*tmp"))


def test_writes_are_whole_or_not_at_all(tmp_path: Path) -> None:
    table = Table(tmp_path / "rows.parquet", Sampled)
    table.write([Sampled("a", "text", "hash", "train")])

    def breaks() -> "object":
        yield Sampled("b", "text", "hash", "train")
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        table.write(breaks())
    assert [row.id for row in table] == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]
    with pytest.raises(UserError, match="run the stages before this one"):
        Json(tmp_path / "none.json").read()


def test_results_before_a_run(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo)
    with pytest.raises(UserError, match="does not exist"):
        project.results()
    assert not LABELS.path.exists()
