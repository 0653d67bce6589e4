"""The service as its clients see it: answers, refusals that name field and limit, overload, and who is let in."""

import asyncio
import gzip
import json
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import numpy as np
import pyarrow as pa
import pytest
from service_process import LIMITS, Service, serving
from toy_model import LABELS, TEXTS, exported

from serving.engine import Engine

ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(exported(), **LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


def stream(columns: object, **options: object) -> bytes:
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def post_arrow(client: httpx.Client, body: bytes) -> httpx.Response:
    return client.post("/classify/arrow", content=body, headers={"content-type": ARROW})


def post(client: httpx.Client, body: bytes | str, content_type: str = JSON, **headers: str) -> httpx.Response:
    return client.post("/classify", content=body, headers={"content-type": content_type} | headers)


def test_answers_are_the_engines(client: httpx.Client) -> None:
    engine = Engine.open(exported(), "int8", runtime="onnxruntime", threads=1)
    for texts in (TEXTS[:1], TEXTS[:40]):
        answer = client.post("/classify", json={"texts": texts}).json()
        expected = engine.classify(texts)
        given = [[result["probabilities"][label] for label in LABELS] for result in answer["results"]]
        # int8 of onnxruntime depends on company a little, and requests are batched as they come
        np.testing.assert_allclose(given, expected, atol=0.05 if len(texts) > 1 else 2e-6)
        for result in answer["results"]:
            assert result["label"] == max(result["probabilities"], key=result["probabilities"].get)
            assert result["confidence"] == max(result["probabilities"].values())
        assert answer["model"] == {"name": "export", "version": None, "model_hash": engine.model_hash}


def test_one_text_needs_no_list(client: httpx.Client) -> None:
    one = client.post("/classify", json={"texts": "a fine film"})
    assert one.content == client.post("/classify", json={"texts": ["a fine film"]}).content


def test_arrow_gives_the_same(client: httpx.Client) -> None:
    texts = ["", "a fine film", "🙂" * 50, "but dull"]
    for kind in (pa.string(), pa.large_string()):
        answer = post_arrow(client, stream({"text": pa.array(texts, kind)}))
        assert answer.status_code == 200
        table = pa.ipc.open_stream(answer.content).read_all()
        assert table.column_names == ["label", "confidence", "probabilities"]
        assert json.loads(table.schema.metadata[b"labels"]) == LABELS
        other = client.post("/classify", json={"texts": texts}).json()
        assert table["label"].to_pylist() == [result["label"] for result in other["results"]]
        assert table["confidence"].to_pylist() == pytest.approx([r["confidence"] for r in other["results"]], abs=1e-5)
        assert table.schema.metadata[b"model_hash"].decode() == other["model"]["model_hash"]


def test_arrow_takes_several_batches(client: httpx.Client) -> None:
    batches = [pa.record_batch({"text": [text]}) for text in TEXTS[:5]]
    answer = post_arrow(client, stream(pa.Table.from_batches(batches)))
    assert pa.ipc.open_stream(answer.content).read_all().num_rows == 5


def test_about_the_model(client: httpx.Client) -> None:
    about = client.get("/model").json()
    assert about["labels"] == LABELS
    assert (about["precision"], about["runtime"], about["version"]) == ("int8", "onnxruntime", None)
    assert set(about["files"]) == {"int8.onnx", "tokenizer.json", "golden.parquet"}
    assert about["limits"] == {"texts": 40, "chars": 3000, "body_bytes": 200_000}


def test_health(client: httpx.Client) -> None:
    assert [client.get(path).status_code for path in ("/livez", "/healthz", "/readyz")] == [200] * 3


REFUSED = [
    ('{"texts": []}', 422, "texts", None),
    ("{}", 422, "texts", None),
    ("[]", 422, "body", None),
    ('"a"', 422, "body", None),
    ("", 400, "body", None),
    ('{"texts": ["a"', 400, "body", None),
    ('{"texts": [1]}', 422, "texts.0", None),
    ('{"texts": ["a", null]}', 422, "texts.1", None),
    ('{"texts": NaN}', 422, "texts", None),
    ('{"texts": ["a"], "topk": 3}', 422, "topk", None),
    ('{"texts": ["\\ud800"]}', 400, "body", None),
    (b'{"texts": ["\xff"]}', 400, "body", None),
    ("[" * 50_000, 400, "body", None),
    (json.dumps({"texts": ["a"] * 41}), 422, "texts", 40),
    (json.dumps({"texts": ["a", "b" * 3001]}), 422, "texts.1", 3000),
    (json.dumps({"texts": "a" * 200_000}), 413, "body", 200_000),
]


@pytest.mark.parametrize(("body", "status", "field", "limit"), REFUSED, ids=lambda value: str(value)[:20])
def test_refusals_name_field_and_limit(
    client: httpx.Client, body: str | bytes, status: int, field: str, limit: int | None
) -> None:
    answer = post(client, body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["field"], error["limit"]) == (field, limit)
    assert error["message"]


def test_bodies_of_other_kinds_are_refused(client: httpx.Client) -> None:
    body = b'{"texts": ["a"]}'
    assert post(client, body, "text/plain").status_code == 415
    assert post(client, body, "application/json; charset=utf-8").status_code == 200
    packed = post(client, gzip.compress(body), **{"content-encoding": "gzip"})
    assert (packed.status_code, packed.json()["error"]["field"]) == (415, "content-encoding")
    assert post(client, body, ARROW).status_code == 415
    assert client.post("/classify/arrow", content=body, headers={"content-type": JSON}).status_code == 415


def test_a_chunked_body_is_cut_off_at_the_limit(service: Service) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b" " * 10_000

    with service.client() as client:
        try:
            answer = client.post("/classify", content=endless(), headers={"content-type": JSON})
            assert answer.status_code == 413
        except httpx.WriteError:  # the answer came and the connection was closed while we were still sending
            pass


def test_other_paths_and_methods(client: httpx.Client) -> None:
    for path in ("/nope", "/docs.json", "/static_content/swagger-ui.css"):
        assert client.get(path).status_code == 404
    wrong = client.get("/classify")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")


def arrow_bombs() -> Iterator[tuple[str, bytes]]:
    yield "compressed", stream({"text": ["a" * 3000] * 40}, compression="zstd")
    yield "lz4", stream({"text": ["a" * 3000] * 40}, compression="lz4")
    yield "dictionary", stream({"text": pa.array(["a" * 3000] * 40).dictionary_encode()})
    yield "view", stream({"text": pa.array(["a" * 300] * 40, pa.string_view())})
    yield "binary", stream({"text": pa.array([b"\xff"])})
    yield "numbers", stream({"text": [1, 2]})
    yield "nulls", stream({"text": ["a", None]})
    yield "other columns", stream({"text": ["a"], "id": ["1"]})
    yield "no column", stream({"texts": ["a"]})
    yield "twice", stream(pa.Table.from_arrays([pa.array(["a"])] * 2, names=["text", "text"]))
    yield "no rows", stream({"text": pa.array([], pa.string())})
    yield "many rows", stream({"text": ["a"] * 41})
    yield "many batches", stream(pa.Table.from_batches([pa.record_batch({"text": pa.array([], pa.string())})] * 500))
    yield "long", stream({"text": ["a" * 3001]})
    good = stream({"text": ["abcdefgh", "x"]})
    offsets = np.array([0, 8, 9], np.int32).tobytes()
    assert offsets in good
    yield "offsets", good.replace(offsets, np.array([0, 2**30, 9], np.int32).tobytes())
    yield "backwards", good.replace(offsets, np.array([0, -8, 9], np.int32).tobytes())
    yield (
        "no utf-8",
        stream(
            pa.Table.from_arrays(
                [pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff"))],
                names=["text"],
            )
        ),
    )
    yield "empty", b""
    yield "noise", random.Random(1).randbytes(5000)


@pytest.mark.parametrize(
    ("name", "body"), list(arrow_bombs()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_arrow_that_is_not_plain_is_refused(client: httpx.Client, name: str, body: bytes) -> None:
    answer = post_arrow(client, body)
    assert answer.status_code in (400, 422), name
    assert answer.json()["error"]["message"]


def test_fuzzed_bodies_get_no_500_and_no_silence(client: httpx.Client, service: Service) -> None:
    chance = random.Random(3)
    good = {JSON: json.dumps({"texts": TEXTS[:3]}).encode(), ARROW: stream({"text": TEXTS[:3]})}
    seen: Counter[int] = Counter()
    for i in range(800):
        kind = JSON if i % 2 else ARROW
        body = bytearray(good[kind])
        for _ in range(chance.randrange(1, 6)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        if chance.random() < 0.3:
            del body[chance.randrange(len(body)) :]
        path = "/classify" if kind == JSON else "/classify/arrow"
        seen[client.post(path, content=bytes(body), headers={"content-type": kind}, timeout=10).status_code] += 1
    assert set(seen) <= {200, 400, 422}
    assert seen[400] > 50
    assert "Traceback" not in service.log.read_text()
    assert "fine film" not in service.log.read_text()


def test_overload_is_refused_at_once_and_passes(service: Service) -> None:
    async def flood() -> list[tuple[int, float, str | None]]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=service.url, timeout=60, limits=limits, trust_env=False) as client:

            async def one() -> tuple[int, float, str | None]:
                start = time.monotonic()
                answer = await client.post("/classify", json={"texts": [(text * 20)[:2900] for text in TEXTS[:40]]})
                return answer.status_code, time.monotonic() - start, answer.headers.get("retry-after")

            return await asyncio.gather(*(one() for _ in range(200)))

    before = service.metric("llambert_shed_total")
    answers = asyncio.run(flood())
    counts = Counter(status for status, _, _ in answers)
    assert set(counts) == {200, 503}
    assert all(int(retry or 0) >= 1 for status, _, retry in answers if status == 503)
    assert service.metric("llambert_shed_total") - before == counts[503]
    assert service.classify(["a fine film"]).status_code == 200
    assert service.metric("llambert_queue_tokens") == 0


def test_a_client_that_leaves_is_noticed(service: Service) -> None:
    body = json.dumps({"texts": [(text * 20)[:2900] for text in TEXTS[:40]]}).encode()
    head = f"POST /classify HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    before = service.metric("llambert_gone_total")
    for _ in range(40):
        sockets = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(2)]
        for one in sockets:
            one.sendall(head + body)
        time.sleep(0.002)
        for one in sockets:
            one.close()
    with socket.create_connection(("127.0.0.1", service.port)) as one:
        one.sendall(head + body[:100])  # in the middle of the body
    deadline = time.monotonic() + 10
    while service.metric("llambert_queue_tokens") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert service.metric("llambert_queue_tokens") == 0
    assert service.metric("llambert_gone_total") > before
    assert "Traceback" not in service.log.read_text()


def test_figures_add_up(service: Service) -> None:
    names = ["llambert_texts_total", "llambert_labels_total", "llambert_batch_texts_sum", "llambert_tokens_total"]
    before = [service.metric(name) for name in names]
    assert service.classify(TEXTS[:7]).status_code == 200
    texts, labels, batched, tokens = (service.metric(n) - b for n, b in zip(names, before, strict=True))
    assert texts == labels == batched == 7
    assert tokens == sum(Engine.open(exported(), "int8", runtime="onnxruntime").lengths(TEXTS[:7]))
    assert service.metric("llambert_model_info", runtime="onnxruntime") == 1
    for step in ("tokenize", "queue", "infer"):
        assert service.metric("llambert_seconds_count", step=step) > 0
    assert service.metric("llambert_request_seconds_count", route="/classify") > 0


def test_openapi_holds_under_schemathesis(service: Service, client: httpx.Client) -> None:
    import schemathesis
    from hypothesis import HealthCheck, given, settings

    document = client.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.base_url = service.url
    for path, method in (("/classify", "POST"), ("/model", "GET"), ("/readyz", "GET"), ("/livez", "GET")):

        @given(case=schema[path][method].as_strategy())
        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        def check(case: "schemathesis.Case") -> None:
            case.call_and_validate()

        check()
