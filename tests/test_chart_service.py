"""The chart and the service agree: variables, command lines, metrics."""

from pathlib import Path

import pytest
from chart import FACTORS, documents, everything, named, of_kind, scenarios
from test_chart_monitoring import COUNTERS, GAUGES, HISTOGRAMS

settings = pytest.importorskip("serving.web.settings", reason="the service is not there yet")

OWN = "LLAMBERT_"


def container(scenario: str) -> dict[str, str]:
    """Variables of the service's container; those from elsewhere have a number."""
    (deployment, *_) = of_kind(documents(scenarios()[scenario]), "Deployment")
    (serving,) = deployment["spec"]["template"]["spec"]["containers"]
    return {e["name"]: e.get("value", "2") for e in serving["env"]}


@pytest.mark.parametrize("scenario", [*scenarios()])
def test_variables_are_the_services(scenario: str, tmp_path: Path) -> None:
    variables = container(scenario)
    if f"{OWN}TOKEN_FILE" in variables:
        (tmp_path / "token").write_text("secret")
        variables[f"{OWN}TOKEN_FILE"] = str(tmp_path / "token")
    own = {name for name in variables if name.startswith(OWN)}
    assert own <= {OWN + field.upper() for field in settings.Settings.model_fields}
    read = settings.Settings.read(variables)
    assert read.precision in {"int8", "fp16"}
    assert read.model == variables[f"{OWN}MODEL"]


def test_each_variable_of_the_service_can_be_set() -> None:
    given = {name for scenario in scenarios() for name in container(scenario)}
    fields = {OWN + field.upper() for field in settings.Settings.model_fields}
    assert fields - given == {f"{OWN}TOKEN"}, "the token is a file here"


def test_command_lines_are_the_services() -> None:
    from serving.__main__ import app

    pod = named(documents(everything()), "Deployment", "rel-llambert")["spec"]["template"]["spec"]
    command, _, _ = app.parse_args(pod["containers"][0]["args"][3:], exit_on_error=False, print_error=False)
    assert command.__name__ == "serve"
    script, *arguments = pod["initContainers"][0]["args"][2:]
    words = script.partition("python -m serving ")[2].split()
    for number, argument in enumerate(arguments):
        words = [argument if word == f'"${number}"' else word for word in words]
    command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    assert command.__name__ == "fetch"
    assert bound.arguments == {
        "model": "models:/demo_reviews/7",
        "directory": Path("/model/current"),
        "precision": "int8",
    }


def test_metrics_are_the_services() -> None:
    """Every name that alerts and dashboard may ask for stands in the service's own sources."""
    source = "".join(path.read_text() for path in Path(settings.__file__).parent.glob("*.py"))
    for name, labels in {**COUNTERS, **GAUGES, **HISTOGRAMS}.items():
        for word in (name.removeprefix("llambert_"), *labels):
            assert f'{word}"' in source or f"{word}=" in source, name


def test_switches_cover_the_model_sources() -> None:
    assert {values["model"].get("source", "mlflow") for values in FACTORS["model"]} == {"mlflow", "pvc", "baked"}
