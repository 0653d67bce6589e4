"""Sections of the report that are there if their stage was run: stage -> what makes a section of its metrics.

Each is a module with one public function `section(figures) -> Section | None`, where `figures` is metrics/STAGE.json.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.sections.base import Section

ALL: dict[str, Callable[[Mapping[str, Any]], Section | None]] = {}
