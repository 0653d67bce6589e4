"""The service's life: its environment, its end, a worker that is killed, a Bento."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from service_load import Load, until
from service_process import Service, free_port, serving
from toy_model import TEXTS, exported

from serving.errors import UserError
from serving.web.settings import Settings

REPOSITORY = Path(__file__).parents[1]


def serve(**environment: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {f"LLAMBERT_{name}": value for name, value in environment.items()}
    command = [sys.executable, "-m", "serving", "serve", "--port", str(free_port())]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, cwd=REPOSITORY)


def test_what_is_wrong_at_the_start_is_one_message(tmp_path: Path) -> None:
    for variables, message in (
        ({"MODEL": str(tmp_path)}, "is no exported model"),
        ({"MODEL": "models:/toys"}, "names no model"),
        ({"MAX_TEXTS": "0"}, "LLAMBERT_MAX_TEXTS: Input should be greater than or equal to 1 (got 0)"),
        ({"TOKEN_FILE": str(tmp_path / "none")}, "LLAMBERT_TOKEN_FILE"),
    ):
        done = serve(**variables)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_the_token_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("secret\n")
    token = Settings.read({"LLAMBERT_TOKEN_FILE": str(file)}).token
    assert token is not None
    assert token.get_secret_value() == "secret"
    assert "secret" not in repr(token)
    file.write_text("\n")
    with pytest.raises(UserError, match="is empty"):
        Settings.read({"LLAMBERT_TOKEN_FILE": str(file)})


def test_a_killed_worker_is_replaced_under_load() -> None:
    with serving(exported()) as service, Load(service) as load:
        until(lambda: load.statuses[200] > 50)
        (worker,) = service.workers()
        os.kill(worker, signal.SIGKILL)
        until(lambda: service.workers() not in ([], [worker]))
        service.wait_ready(30)
        answered = load.statuses[200]
        until(lambda: load.statuses[200] > answered + 50)
        # lost: what was in flight; new connections wait in the supervisor's socket; 503 until the model is there
        assert load.statuses[0] <= 8
        assert set(load.statuses) <= {0, 200, 503}


def test_sigterm_answers_what_has_begun() -> None:
    with serving(exported(), MAX_TEXTS="4000", MAX_QUEUED_TOKENS="9999999") as service:
        answers: list[httpx.Response] = []

        def ask() -> None:
            with service.client() as client:
                answers.append(client.post("/classify", json={"texts": [text * 9 for text in TEXTS] * 40}))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: service.metric("llambert_queue_tokens") > 0)
        service.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200] * 3
        assert service.process.wait(30) == 0


@pytest.mark.slow
def test_a_bento_serves(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    shutil.copytree(REPOSITORY / "serving", project / "serving", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("bentofile.yaml", "LICENSE"):
        shutil.copy(REPOSITORY / name, project)
    shutil.copytree(exported(), project / "export")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"BENTOML_HOME": str(tmp_path / "home"), "BENTOML_DO_NOT_TRACK": "True"}
    subprocess.run(
        [sys.executable, "-m", "bentoml", "build"], cwd=project, env=environment, check=True, capture_output=True
    )
    (bento,) = (path for path in (tmp_path / "home" / "bentos" / "llambert").iterdir() if path.is_dir())
    assert (bento / "src" / "export" / "manifest.json").is_file()
    assert (bento / "src" / "serving" / "web" / "page.html").is_file()
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", str(bento), "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=file, stderr=file)
    service = Service(port, process, log)
    try:
        service.wait_ready()
        assert service.classify("a fine film").status_code == 200
    finally:
        service.stop()
