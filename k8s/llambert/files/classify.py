"""What `helm test` runs: ask which model answers, and classify a text.

Arguments: address, text, and the version that must answer ('' for any).
"""

import json
import os
import sys
from urllib.request import Request, urlopen


def ask(url: str, body: object = None) -> object:
    """GET, or POST where there is a body."""
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get("LLAMBERT_TOKEN"):
        headers["Authorization"] = f"Bearer {token.strip()}"
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data, headers), timeout=30) as answer:  # noqa: S310 - the chart's own Service
        return json.load(answer)


def main(url: str, text: str, expected: str) -> None:
    """Fail if another model answers than the release says, or if it gives no label."""
    model = ask(f"{url}/model")
    print("model", json.dumps(model))  # noqa: T201
    version = str(model.get("version") or "") if isinstance(model, dict) else ""
    if expected and version != expected:
        sys.exit(f"model version {version!r} answers at {url}, the release asks for {expected!r}")
    answer = ask(f"{url}/classify", {"texts": [text]})
    print("answer", json.dumps(answer))  # noqa: T201
    if '"label"' not in json.dumps(answer):
        sys.exit(f"{url}/classify gave no label")


if __name__ == "__main__":
    main(*sys.argv[1:])
