"""The page in a real browser: it labels, complains, and loads nothing from elsewhere."""

import shutil
from collections.abc import Iterator

import pytest
from service_process import LIMITS, Service, serving
from toy_model import exported

TOKEN = "correct-horse"
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH")


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(exported(), TOKEN=TOKEN, **LIMITS) as running:
        yield running


@pytest.fixture
def page(service: Service) -> Iterator["sync_api.Page"]:
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page()
        asked, said = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(service.url)
        yield page
        assert all(url.startswith(service.url) for url in asked), asked
        assert not [line for line in said if "401" not in line and "422" not in line], said
        browser.close()


def test_a_person_labels_texts(page: "sync_api.Page") -> None:
    token = page.locator("#token")
    token.wait_for(state="visible")  # the service asked for one
    page.get_by_role("button", name="Label").click()
    assert "no text yet" in page.get_by_role("alert").inner_text()
    page.get_by_role("button", name="Example").click()
    token.fill("wrong")
    page.get_by_role("button", name="Label").click()
    page.get_by_text("a valid token is needed").wait_for()
    token.fill(TOKEN)
    token.blur()
    page.get_by_text("int8 of onnxruntime: negative, mixed, positive").wait_for()
    page.get_by_role("button", name="Label").click()
    page.get_by_text("3 texts in").wait_for()
    results = page.locator("#results li")
    assert results.count() == 3
    assert "A fine film" in results.first.inner_text()
    assert results.first.locator("meter").count() == 3
    assert results.first.locator(".best").count() == 2
    assert page.get_by_role("alert").is_hidden()


def test_texts_are_shown_as_text_and_limits_are_explained(page: "sync_api.Page") -> None:
    page.locator("#token").fill(TOKEN)
    hostile = "<img src=x onerror=alert(1)><script>alert(1)</script>"
    page.get_by_label("Texts").fill(hostile)
    page.get_by_label("Texts").press("Control+Enter")
    page.get_by_text("1 text in").wait_for()
    assert page.locator("blockquote").inner_text() == hostile
    assert page.locator("#results img, #results script").count() == 0
    page.get_by_label("Texts").fill("a\n" * 41)
    page.get_by_role("button", name="Label").click()
    page.get_by_text("at most 40 are taken").wait_for()
    assert page.locator("#results li").count() == 0


def test_the_policy_lets_it_do_nothing_else(service: Service) -> None:
    with service.client() as client:
        headers = client.get("/").headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


def test_only_who_knows_the_token_is_answered(service: Service) -> None:
    assert service.classify("a fine film", authorization=f"Bearer {TOKEN}").status_code == 200
    for headers in (
        {},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer x"},
        {"authorization": "Bearer"},
    ):
        refused = service.classify("a fine film", **headers)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
    with service.client() as client:
        assert client.get("/model").status_code == 401
        assert [client.get(path).status_code for path in ("/readyz", "/metrics", "/openapi.json")] == [200] * 3
        assert client.get("/openapi.json").json()["paths"]["/classify"]["post"]["security"] == [{"token": []}]
    assert TOKEN not in service.log.read_text()
