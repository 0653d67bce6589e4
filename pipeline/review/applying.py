"""What becomes of answers: a file of corrections that stages read, gold, or the labels of a gold sheet.

Every file is written whole or not at all; gold is copied beside itself first, for people made it.
"""

import csv
import shutil
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pipeline.artifacts import REVIEWED
from pipeline.errors import UserError
from pipeline.params import GoldSource
from pipeline.reviewing import COLUMNS, UNCLEAR, Answer, Item, Reviewed, read_reviewed
from serving.corpus import text_hash
from serving.files import replacing

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """An item, and what people agree on."""

    item: Item
    answer: Answer


@dataclass
class Sheet:
    """A CSV file of texts and labels, as it stands."""

    path: Path
    text: str
    id: str | None
    label: str
    header: list[str]
    rows: list[Row]
    changed: int = field(default=0, init=False)
    by_text: defaultdict[str, list[Row]] = field(default_factory=lambda: defaultdict(list), init=False)

    def __post_init__(self) -> None:
        for row in self.rows:
            self.by_text[text_hash(row[self.text])].append(row)

    @classmethod
    def read(cls, path: Path, text: str, id: str | None, label: str, key: str) -> "Sheet":
        """Read it; `key` is how the user knows it.

        Raises:
            UserError: it is no CSV file that can be written back as it was, or lacks a column.
        """
        if not path.name.endswith(".csv") or not path.is_file():
            raise UserError(f"{key}: {path} is not a plain CSV file here: export the answers and change it yourself")
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                header, *lines = [cells for cells in csv.reader(file, strict=True) if cells] or [[]]
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{key}: {path} can't be read ({error}): mend it first") from error
        if missing := [name for name in (text, id, label) if name is not None and name not in header]:
            raise UserError(f"{key}: {path} has no column {missing[0]!r}; it has {', '.join(map(repr, header))}")
        if odd := [i for i, cells in enumerate(lines, start=2) if len(cells) != len(header)]:
            raise UserError(f"{key}: {path}, row {odd[0]}, has not as many fields as the header: mend it first")
        return cls(path, text, id, label, header, [dict(zip(header, cells, strict=True)) for cells in lines])

    @classmethod
    def of(cls, source: GoldSource, key: str) -> "Sheet":
        """The gold file of params.yaml."""
        return cls.read(Path(source.path), source.text, source.id, source.label, key)

    def rows_of(self, item: Item) -> list[Row]:
        """The rows of its text, whatever their ids: two labels for one text would be a contradiction."""
        return self.by_text.get(item.text_hash, [])

    def correct(self, row: Row, label: str) -> None:
        """Change a label."""
        self.changed += row[self.label] != label
        row[self.label] = label

    def note(self, row: Row, note: str) -> None:
        """Write a note, in a column of its own."""
        if "note" not in self.header:
            self.header.append("note")
            for one in self.rows:
                one["note"] = ""
        self.changed += row["note"] != note
        row["note"] = note

    def add(self, item: Item, label: str) -> None:
        """Append a row."""
        values = {self.text: item.text, self.label: label} | ({self.id: item.id} if self.id is not None else {})
        row = dict.fromkeys(self.header, "") | values
        self.rows.append(row)
        self.by_text[item.text_hash].append(row)
        self.changed += 1

    def ids(self) -> set[str]:
        """All that are taken."""
        return set() if self.id is None else {row[self.id] for row in self.rows}

    def write(self) -> Path:
        """Copy the old file beside itself, then write; return where the copy is."""
        backup = self.path.with_name(f"{self.path.stem}.{datetime.now(UTC):%Y%m%dT%H%M%S%f}.bak.csv")
        shutil.copy2(self.path, backup)
        _write(self.path, self.header, self.rows)
        return backup


def write_reviewed(verdicts: Sequence[Verdict], ours: Collection[str]) -> int:
    """Write data/reviewed.csv, which `read_reviewed` reads; return the number of its rows.

    Args:
        verdicts: what people agree on.
        ours: ids about which the store decides; rows of others that stand in the file already stay.
    """
    kept = [row for id_, row in read_reviewed(REVIEWED).items() if id_ not in ours]
    rows = [*kept, *(Reviewed(v.item.id, v.answer.label, v.answer.note, v.answer.time) for v in verdicts)]
    _write(REVIEWED, COLUMNS, [asdict(row) for row in sorted(rows, key=lambda row: row.id)])
    return len(rows)


def to_gold(verdicts: Sequence[Verdict], files: Mapping[str, Sheet], frozen: Collection[str]) -> Counter[str]:
    """Change labels in gold files, and append texts that no file has to that of `train`; writes nothing.

    Args:
        verdicts: of which those that are UNCLEAR change nothing.
        files: split -> its file.
        frozen: splits in which nothing is changed.

    Returns:
        Numbers: changed, added, UNCLEAR, `id used` (by another text), and of each frozen split `kept SPLIT`.
    """
    counts: Counter[str] = Counter()
    ids = {id_ for sheet in files.values() for id_ in sheet.ids()}
    for verdict in verdicts:
        item, label = verdict.item, verdict.answer.label
        places = [(split, row) for split, sheet in files.items() for row in sheet.rows_of(item)]
        if label == UNCLEAR:
            counts[UNCLEAR] += 1
        elif places:
            for split, row in places:
                counts.update(_corrected(split, files[split], row, label, split in frozen))
        elif "train" in files:
            counts["id used" if item.id in ids else "added"] += 1
            if item.id not in ids:
                files["train"].add(item, label)
    return counts


def _corrected(split: str, sheet: Sheet, row: Row, label: str, frozen: bool) -> list[str]:
    if row[sheet.label] == label:
        return []
    if frozen:
        return [f"kept {split}"]
    sheet.correct(row, label)
    return ["changed"]


def to_sheet(verdicts: Sequence[Verdict], sheet: Sheet) -> Counter[str]:
    """Fill in the labels of a gold sheet, and notes; what is UNCLEAR stays empty. Writes nothing."""
    counts: Counter[str] = Counter()
    for verdict in verdicts:
        for row in sheet.rows_of(verdict.item):
            if verdict.answer.note:
                sheet.note(row, verdict.answer.note)
            counts[UNCLEAR if verdict.answer.label == UNCLEAR else "filled in"] += 1
            if verdict.answer.label != UNCLEAR:
                sheet.correct(row, verdict.answer.label)
    return counts


def _write(path: Path, header: Sequence[str], rows: Sequence[Row]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
