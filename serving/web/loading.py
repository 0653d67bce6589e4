"""From the name of a model to an engine that has proved itself. Takes seconds; runs on a thread of its own."""

import time
from dataclasses import dataclass
from pathlib import Path

from serving import cores, profiles, registry
from serving.engine import Engine
from serving.models import MANIFEST
from serving.profiles import Profile
from serving.registry import Version
from serving.schemas import Manifest
from serving.web.settings import Settings


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine and what is known of it."""

    version: Version
    directory: Path
    fetched: bool  # by us, into the cache
    manifest: Manifest
    engine: Engine
    profile: Profile | None  # of the texts that it was made for
    tokens_per_s: float  # a first idea
    seconds: float


def find(model: str) -> Version:
    """The version that is meant now; a directory that was not fetched from a registry has a name and no number.

    Raises:
        UserError: there is no such model, or the registry does not answer.
    """
    reference = registry.parse(model)
    if reference:
        return registry.resolve(reference)
    return registry.registered(Path(model)) or Version(Path(model).absolute().name, "")


def load(model: str, version: Version, settings: Settings, cache: Path) -> Loaded:
    """Fetch, check, load and prove.

    Raises:
        UserError: the files are not there or not intact, or the engine gives other probabilities than the exporter's.
    """
    started = time.monotonic()
    fetched = registry.parse(model) is not None
    place = _fetched(version, cache, settings.precision) if fetched else Path(model)
    engine = Engine.open(
        place,
        settings.precision,
        runtime=settings.runtime,
        threads=cores.threads(settings.threads),
        max_batch_tokens=settings.max_batch_tokens,
        few_shapes=True,
    )
    before, proving = engine.tokens, time.monotonic()
    engine.prove()
    tokens_per_s = (engine.tokens - before) / max(time.monotonic() - proving, 1e-3)
    manifest = Manifest.model_validate_json((place / MANIFEST).read_bytes())
    profile = profiles.read(place) if manifest.drift else None
    return Loaded(version, place, fetched, manifest, engine, profile, tokens_per_s, time.monotonic() - started)


def _fetched(version: Version, cache: Path, precision: str) -> Path:
    """The files of a registered version, from the cache or the registry."""
    place = cache / f"{version.name}-{version.number}-{version.model_hash[:16]}-{precision}"
    if not place.is_dir():
        registry.download(version, place, precision)
    return place
