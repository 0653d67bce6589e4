"""The review page in a real browser: labelled by keyboard, reloaded, and its server killed in the middle."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_project import PARAMS

from pipeline.review.store import opened

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH")
HOSTILE = "<img src=x onerror=alert(1)><script>alert(1)</script> </div>"


class Server:
    """A review of a directory, which may be killed and started again."""

    def __init__(self, directory: Path, port: int = 0) -> None:
        self.directory, self.port = directory, port
        self.start()

    def start(self, *more: str) -> None:
        command = [sys.executable, "-m", "pipeline", "review", "--items", "queue", "--reviewer", "ana"]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port), *more],
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said = ""
        for line in self.process.stdout:
            said += line
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/\S+", line):
                self.url, self.port = found[0], int(found[1])
                return
        raise AssertionError(said)

    def end(self, how: int = signal.SIGINT) -> str:
        self.process.send_signal(how)
        said, _ = self.process.communicate(timeout=60)
        return said


@contextmanager
def reviewed(directory: Path, texts: Sequence[str], labels: Sequence[str], kind: str = "single") -> Iterator[Server]:
    (directory / "data").mkdir(parents=True)
    named = json.dumps({label: [] for label in labels})
    params = PARAMS.replace("GAIN", "0").replace("{negative: [], positive: []}", f"{named}, kind: {kind}")
    params = params.replace('"{text}"', '"Is it about {label}? {text}"') if kind == "multi" else params
    (directory / "params.yaml").write_text(params)
    columns = {"id": [f"q{i}" for i in range(len(texts))], "text": list(texts), "label": [labels[1]] * len(texts),
               "confidence": [0.61] * len(texts), "reason": ["deferred"] * len(texts)}  # fmt: skip
    suggested = pa.array([None] * len(texts), pa.string())
    pq.write_table(pa.table({**columns, "suggested": suggested}), directory / "data/review.parquet")
    server = Server(directory)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def chromium() -> Iterator["sync_api.Browser"]:
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@contextmanager
def looking(browser: "sync_api.Browser", server: Server, ignored: str = "$^") -> Iterator["sync_api.Page"]:
    """A page that must ask nobody else and say nothing to the console."""
    page = browser.new_page()
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(server.url)
    page.locator("#item").wait_for()
    yield page
    assert all(url.startswith(f"http://127.0.0.1:{server.port}/") for url in asked)
    assert [line for line in said if not re.search(ignored, line)] == []
    page.close()


def answers(server: Server) -> dict[str, tuple[str, str]]:
    with opened(server.directory / ".llambert/review.sqlite") as store:
        items = store.items()
        return {items[a.item].text: (a.label, a.note) for a in store.answers("ana")}


def press(page: "sync_api.Page", key: str, place: str) -> str:
    """Press a key and wait for the place that follows; return the text that is there."""
    page.keyboard.press(key)
    page.locator("#place", has_text=re.compile(f"^{place} of")).wait_for()
    return page.locator("#text").inner_text()


def test_a_person_labels_by_keyboard_and_the_models_label_stays_hidden(
    chromium: "sync_api.Browser", tmp_path: Path
) -> None:
    texts = [HOSTILE, *(f"film {i}<br />second line" for i in range(4))]
    with reviewed(tmp_path / "p", texts, ["negative", "positive"]) as server, looking(chromium, server) as page:
        bodies = []
        page.on("response", lambda response: bodies.append(response.text()) if "/items/" in response.url else None)
        page.reload()
        page.locator("#item").wait_for()
        first = page.locator("#text").inner_text()
        assert not any("0.61" in body for body in bodies)
        second = press(page, "1", "2")
        assert "the model said positive (61 %)" in page.get_by_role("status").inner_text()
        third = press(page, "P", "3")  # a first letter, in either case
        press(page, "u", "4")
        assert press(page, "z", "3") == third  # taken back, and there again
        page.keyboard.press("m")  # n is the first letter of a label
        page.keyboard.type("not sure: 1 or 2?")
        page.keyboard.press("Enter")
        page.get_by_text("Note: not sure").wait_for()
        fourth = press(page, "0", "4")
        assert press(page, "ArrowLeft", "3") == third
        assert page.get_by_role("button", name="unclear / mixed").get_attribute("aria-pressed") == "true"
        page.reload()  # all that was said is still there, and the next one waits
        page.locator("#place", has_text="4 of 5").wait_for()
        assert page.locator("#text").inner_text() == fourth
        assert "3 labelled" in page.locator("#pace").inner_text()
        fifth = press(page, "2", "5")
        page.keyboard.press("2")
        page.get_by_role("heading", name="All labelled").wait_for()
        assert page.locator("#counts").inner_text() == "negative: 1, positive: 3, unclear / mixed: 1"
        shown = {first, second, third, fourth, fifth}
        assert HOSTILE in shown
        assert "film 0\nsecond line" in shown
        assert page.locator("main img, main script").count() == 0
        said = {text.replace("<br />", "\n"): label for text, label in answers(server).items()}
        assert said == {
            first: ("negative", ""), second: ("positive", ""), third: ("unclear", "not sure: 1 or 2?"),
            fourth: ("positive", ""), fifth: ("positive", ""),
        }  # fmt: skip
        assert "5 of 5 items are labelled" in server.end()


def test_an_open_page_survives_that_its_server_is_killed(chromium: "sync_api.Browser", tmp_path: Path) -> None:
    with (
        reviewed(tmp_path / "p", ["one", "two", "three"], ["negative", "positive"]) as server,
        looking(chromium, server, "ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET") as page,
    ):
        first = page.locator("#text").inner_text()
        press(page, "p", "2")
        server.end(signal.SIGKILL)
        assert answers(server) == {first: ("positive", "")}
        page.keyboard.press("n")
        page.get_by_role("alert").get_by_text("Not saved yet").wait_for()
        page.keyboard.press("p")  # nothing, while the first one waits
        server.start()
        page.locator("#place", has_text="3 of 3").wait_for()
        assert page.get_by_role("alert").is_hidden()
        assert sorted(answers(server).values()) == [("negative", ""), ("positive", "")]


def test_two_tabs_do_not_overwrite_each_other_and_one_of_another_review_says_so(
    chromium: "sync_api.Browser", tmp_path: Path
) -> None:
    with (
        reviewed(tmp_path / "p", ["one", "two"], ["negative", "positive"]) as server,
        looking(chromium, server, "409|410|REFUSED|RESET") as page,
        looking(chromium, server) as other,
    ):
        press(other, "p", "2")
        page.keyboard.press("n")
        page.get_by_text("It was labelled 'positive' in another tab meanwhile").wait_for()
        press(page, "n", "2")
        assert list(answers(server).values()) == [("negative", "")]
        server.end(signal.SIGKILL)
        server.start("--show")
        page.keyboard.press("n")
        page.get_by_role("button", name="Load again").click()
        page.locator("#shown", has_text="The model said positive (61 %).").wait_for()  # --show: before the choice


def test_many_labels_are_found_by_typing(chromium: "sync_api.Browser", tmp_path: Path) -> None:
    labels = [f"{verb}_{thing}" for verb in ("lost", "stolen", "new", "old") for thing in ("card", "pin", "app", "fee")]
    with reviewed(tmp_path / "p", ["a", "b", "c"], labels) as server, looking(chromium, server) as page:
        assert page.locator("#labels button").count() == 17
        page.keyboard.type("sto ca")
        assert page.locator("#labels button").all_inner_texts() == ["0\nunclear / mixed", "1\nstolen_card"]
        press(page, "Enter", "2")
        page.keyboard.type("fee")
        page.keyboard.press("ArrowDown")
        assert page.locator(".marked").inner_text() == "2\nstolen_fee"
        press(page, "4", "3")
        assert sorted(answers(server).values()) == [("old_fee", ""), ("stolen_card", "")]
        press(page, "Control+z", "2")
        assert list(answers(server).values()) == [("stolen_card", "")]


def test_sets_are_picked_by_key_and_saved_together(chromium: "sync_api.Browser", tmp_path: Path) -> None:
    labels = ["sport", "politics", "money"]
    with reviewed(tmp_path / "p", list("abcd"), labels, "multi") as server, looking(chromium, server) as page:
        first = page.locator("#text").inner_text()
        page.keyboard.press("m")
        page.keyboard.press("1")
        page.get_by_role("button", name="save: sport|money").wait_for()  # in the task's order
        assert answers(server) == {}
        second = press(page, "Enter", "2")
        page.keyboard.press("p")
        page.keyboard.press("p")  # taken back
        third = press(page, "Enter", "3")
        page.get_by_role("button", name="politics").click()
        page.get_by_role("button", name="save: politics").click()
        page.locator("#place", has_text="4 of").wait_for()
        fourth = page.locator("#text").inner_text()
        page.keyboard.press("0")
        page.get_by_role("heading", name="All labelled").wait_for()
        assert page.locator("#counts").inner_text() == ("sport: 1, politics: 1, money: 1, none: 1, unclear / mixed: 1")
        page.keyboard.press("ArrowLeft")
        page.locator("#place", has_text="4 of").wait_for()
        press(page, "ArrowLeft", "3")
        assert page.locator("#labels [data-label=politics]").get_attribute("aria-pressed") == "true"
        page.keyboard.press("s")
        page.get_by_role("button", name="save: sport|politics").click()
        page.get_by_role("heading", name="All labelled").wait_for()
        found = {text: label for text, (label, _) in answers(server).items()}
        assert found == {first: "sport|money", second: "none", third: "sport|politics", fourth: "unclear"}
        with httpx.Client(trust_env=False) as client:
            state = client.get(f"{server.url}state").json()
            address = f"{server.url}items/{state['items'][0]['key']}?batch={state['batch']}"
            said = {"note": "", "seconds": 1.0, "expected": state["items"][0]["label"]}
            for label in ("money|sport", "sport|sport", "sport|", ""):  # in another order, twice, half
                assert client.post(address, json=said | {"label": label}).status_code == 422


def test_only_this_machine_and_who_knows_the_token_is_answered(tmp_path: Path) -> None:
    with reviewed(tmp_path / "p", ["one"], ["negative", "positive"]) as server:
        host = f"http://127.0.0.1:{server.port}"
        with httpx.Client(trust_env=False) as client:
            page = client.get(server.url)
            assert "unsafe" not in page.headers["content-security-policy"]
            assert client.get(server.url, headers={"host": f"evil.example:{server.port}"}).status_code == 400
            assert client.get(f"{host}/").status_code == client.get(f"{host}/guessed/state").status_code == 404
            state = client.get(f"{server.url}state").json()
            address = f"{server.url}items/{state['items'][0]['key']}?batch={state['batch']}"
            said = {"label": "positive", "note": "", "seconds": 1.0, "expected": None}
            form = client.post(address, content=json.dumps(said), headers={"content-type": "text/plain"})
            assert form.status_code == 415
            assert client.post(address, json=said | {"label": "great"}).status_code == 422
            assert client.post(address, json=said | {"note": "x" * 100_000}).status_code == 413
            assert answers(server) == {}
            assert client.post(address, json=said).json()["shown"]["label"] == "positive"
        assert (server.directory / ".llambert/review.sqlite").stat().st_mode & 0o077 == 0
