"""What a section of the report is made of. The page renders it; a section knows nothing of HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of ready texts: its header, and rows of as many cells; `left` columns hold words, the others figures."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Heading, paragraphs, tables and plots (title -> SVG of `pipeline.plotting`), in this order."""

    heading: str
    paragraphs: Sequence[str] = ()
    grids: Sequence[Grid] = ()
    plots: Mapping[str, str] = field(default_factory=dict)
