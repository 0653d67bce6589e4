"""An alias that moves while a service is under load."""

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from mlflow_process import Registered, mlflow_server, postgresql, versions
from service_load import Load, until
from service_process import serving


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    """PostgreSQL where it is installed, else SQLite."""
    if find_spec("psycopg") and shutil.which("initdb"):
        with postgresql(tmp_path / "postgresql") as uri:
            yield uri
    else:
        yield f"sqlite:///{tmp_path}/mlflow.db"


def test_an_alias_that_moves_under_load_costs_no_request(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mlflow_server(tmp_path, store) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        registered = Registered(uri)
        one, two, wrong = (registered.add(directory) for directory in versions(tmp_path))
        registered.promote(one)
        registered.promote(two, "shadow")
        about = {"PRECISION": "fp32", "POLL_S": "0.3", "SHADOW_MODEL": "models:/toys@shadow"}
        with serving("models:/toys@champion", MLFLOW_TRACKING_URI=uri, **about) as service, Load(service) as load:
            until(lambda: load.versions[one] > 20)
            registered.promote(two)
            until(lambda: load.versions[two] > 20)
            registered.promote(wrong)  # refuses itself
            until(lambda: service.metric("llambert_model_swaps_total", result="refused") == 1)
            assert f"version {wrong} is refused, {two} goes on" in service.log.read_text()
            before = load.versions[one]
            registered.promote(one)  # rollback
            until(lambda: load.versions[one] > before + 20)
            with service.client() as client:
                model = client.get("/model").json()
            assert (model["name"], model["version"], model["metrics"]) == ("toys", one, {"accuracy": 0.9})
            assert service.metric("llambert_model_swaps_total", result="done") == 2
            assert service.metric("llambert_model_info", version=one) == 1
            until(lambda: service.metric("llambert_shadow_texts_total") > 0)
        assert set(load.statuses) == {200}
        assert set(load.versions) == {one, two}
