"""A part of the labelled corpus becomes final: whose label each row gets, and which rows wait for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.artifacts import Document, ToReview
from pipeline.deferring import Opinions, Path, Trust
from pipeline.scoring import Bools, Floats

SOURCES = ("encoder", "llm", "person")


@dataclass(frozen=True)
class Finisher:
    """All that decides. `people` is what they answered so far: id -> label."""

    names: Sequence[str]
    trust: Trust
    point: Path
    llm_hash: str
    people: Mapping[str, str]

    def unsure(self, encoder: Floats) -> Bools:
        """Rows that the encoder leaves to others, given its probabilities (rows, labels)."""
        nothing = np.full_like(encoder, np.nan)
        return ~self.point.routes(self.trust(Opinions(encoder, nothing)))[0][:, 0]

    def __call__(
        self, table: pa.Table, opinions: Opinions, texts: Sequence[Document]
    ) -> tuple[pa.Table, list[ToReview]]:
        """The part with final labels, in the same columns and order, and what people have to look at.

        A row that waits keeps the label more likely to be right, and is marked as abstained. What a person said is
        certain and has no model's hash.
        """
        scores, (first, second) = self.trust(opinions), opinions.labels()
        by_encoder, by_llm, _ = (part[:, 0] for part in self.point.routes(scores))
        from_llm = by_llm | (~by_encoder & (scores.llm > scores.encoder))
        answered = np.array([self.people.get(document.id) in self.names for document in texts])
        said = [self.names.index(self.people[t.id]) if has else -1 for t, has in zip(texts, answered, strict=True)]
        label = np.where(answered, said, np.where(from_llm, second, first))
        waits = ~(by_encoder | by_llm | answered)
        own = np.where(from_llm[:, None], opinions.llm, opinions.encoder)
        probabilities = np.where(answered[:, None], np.eye(len(self.names))[label], own)
        source = np.where(answered, 2, np.where(from_llm, 1, 0))
        hashes = np.array(table["model_hash"].to_pylist(), dtype=object)
        columns = {
            "id": table["id"],
            "label": [self.names[i] for i in label],
            "confidence": probabilities.max(axis=1),
            "abstained": waits,
            "probabilities": list(probabilities),
            "source": [SOURCES[i] for i in source],
            "model_hash": np.choose(source, [hashes, self.llm_hash, ""]).tolist(),
        }
        others = np.where(from_llm, first, second)  # -1 where the LLM said nothing
        sure = np.where(from_llm, scores.llm, scores.encoder)
        reviews = [
            ToReview(texts[i].id, texts[i].text, self.names[label[i]], float(sure[i]), "deferred", suggested)
            for i in np.flatnonzero(waits).tolist()
            for suggested in [self.names[others[i]] if others[i] not in (-1, label[i]) else None]
        ]
        return pa.table(columns).cast(table.schema), reviews
