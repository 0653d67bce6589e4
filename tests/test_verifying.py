"""The audit finds each kind of damage, and nothing where there is none."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_bulk import label, settings, write_corpus

from serving import labelling, layout
from serving.errors import UserError
from serving.files import sha256
from serving.verifying import verify


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus and its labels."""
    place = tmp_path_factory.mktemp("whole")
    labelling.run(settings(write_corpus(place / "corpus.jsonl", 200), place / "out"))
    return place


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole / "out", tmp_path / "out"))


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def missing_part(out: Path) -> None:
    (out / "part-00002.parquet").unlink()


def altered_bytes(out: Path) -> None:
    data = bytearray((out / "part-00001.parquet").read_bytes())
    data[40] ^= 1
    (out / "part-00001.parquet").write_bytes(data)


def gap(out: Path) -> None:
    for name in ("part-00003.parquet", "part-00003.json"):
        (out / name).unlink()


def missing_sidecar(out: Path) -> None:
    (out / "part-00004.json").unlink()


def sidecar_of_another_model(out: Path) -> None:
    change(out / "part-00002.json", model_hash="0" * 64)


def sidecar_of_another_precision(out: Path) -> None:
    change(out / "part-00002.json", precision="fp32")


def rewrite(out: Path, shard: int, table: pa.Table) -> None:
    """A part with other rows whose hashes are right everywhere."""
    path = out / layout.part_name(shard)
    pq.write_table(table, path)
    change(out / layout.sidecar_name(shard), file=sha256(path), rows=table.num_rows)
    parts = json.loads((out / "manifest.json").read_text())["parts"]
    change(out / "manifest.json", parts=parts | {path.name: sha256(path)})


def repeated_ids(out: Path) -> None:
    first, second = (pq.read_table(out / layout.part_name(i)) for i in (0, 1))
    rewrite(out, 1, pa.concat_tables([first.slice(3, 2), second.slice(2)]))


def lost_rows(out: Path) -> None:
    rewrite(out, 5, pq.read_table(out / "part-00005.parquet").slice(4))


def part_of_another_model(out: Path) -> None:
    table = pq.read_table(out / "part-00005.parquet")
    hashes = pa.array(["0" * 64] * table.num_rows)
    rewrite(out, 5, table.set_column(table.schema.get_field_index("model_hash"), "model_hash", hashes))


def copied_part(out: Path) -> None:
    for end in ("parquet", "json"):
        shutil.copy(out / f"part-00000.{end}", out / f"part-00007.{end}")
    change(out / "part-00007.json", shard=7)


def missing_reasons(out: Path) -> None:
    (out / "unusable-00000.parquet").unlink()


def wrong_counts(out: Path) -> None:
    change(out / "manifest.json", abstained=3)


DAMAGES = {
    missing_part: ["part-00002.parquet is missing"],
    altered_bytes: ["part-00001.parquet was altered: its hash is not the one that part-00001.json and manifest.json"],
    gap: ["part-00003.json is missing", "part-00003.parquet is missing", "there are 168 rows, manifest.json says 197"],
    missing_sidecar: ["part-00004.json is missing"],
    sidecar_of_another_model: ["part-00002.json is of another model_hash (0000"],
    sidecar_of_another_precision: ["part-00002.json is of another precision (fp32) than manifest.json"],
    repeated_ids: ["2 ids stand more than once, such as 'id-3' in part-00000.parquet and part-00001.parquet"],
    lost_rows: ["there are 193 rows, manifest.json says 197"],
    part_of_another_model: ["part-00005.parquet holds labels of another model (00000000…)"],
    copied_part: ["part-00007.parquet is not in manifest.json", "part-00007.parquet holds the same rows as part-00000"],
    missing_reasons: ["unusable-00000.parquet is missing"],
    wrong_counts: ["the sidecars' counts of labels do not add up"],
}


def test_nothing_is_found_where_nothing_is_wrong(whole: Path) -> None:
    out = whole / "out"
    text = verify(str(out), settings(whole / "corpus.jsonl", out))
    assert text.startswith(f"{out} is complete: 197 rows in 7 parts, all hashes right, one model (")
    assert "3 rows of the input could not be used" in text


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_each_damage_is_found(damage: Callable[[Path], None], out: Path) -> None:
    damage(out)
    with pytest.raises(UserError) as caught:
        verify(str(out))
    for words in DAMAGES[damage]:
        assert words in str(caught.value)


def test_the_same_labelling_again_mends_what_is_missing_or_damaged(whole: Path, out: Path) -> None:
    for damage in (missing_part, altered_bytes, gap, missing_sidecar, sidecar_of_another_model, missing_reasons):
        damage(out)
    labelling.run(settings(whole / "corpus.jsonl", out))
    assert verify(str(out)).startswith(f"{out} is complete")


def test_an_input_that_has_changed_is_seen(whole: Path, out: Path, tmp_path: Path) -> None:
    text = (whole / "corpus.jsonl").read_text()
    other = tmp_path / "other.jsonl"
    other.write_text(text.replace('"id-40"', '"id-4x"'))
    with pytest.raises(UserError, match=r"part-00001.parquet was made from other texts or ids than rows 31"):
        verify(str(out), settings(other, out))
    other.write_text(text + text)
    with pytest.raises(UserError, match=r"has 14 shards, .* has 7"):
        verify(str(out), settings(other, out))


def test_ids_that_the_input_repeats_are_told(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("id,text\n1,good film\n2,bad film\n1,dull film\n")
    labelling.run(settings(tmp_path / "c.csv", tmp_path / "out"))
    with pytest.raises(UserError, match="1 ids stand more than once, such as '1'"):
        verify(str(tmp_path / "out"))


def test_unfinished_labels_are_no_success(out: Path) -> None:
    (out / "manifest.json").unlink()
    done = label("--verify", out)
    assert (done.returncode, "the labelling is not finished" in done.stderr) == (2, True)
