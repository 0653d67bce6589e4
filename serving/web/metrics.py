"""What Prometheus is told. Texts never are."""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest, values
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_TOKENS = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16_384, 65_536)
Gauges = Callable[[], Iterable[GaugeMetricFamily]]
# BentoML has counters of several workers added up through files; there is one worker, and memory is enough.
values.ValueClass = values.MutexValue
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics(Collector):
    """All counters and histograms; gauges are read when somebody looks."""

    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges
        self._registry = registry = CollectorRegistry()
        registry.register(self)

        def counter(name: str, about: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(f"llambert_{name}", about, labels, registry=registry)

        def histogram(name: str, about: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
            return Histogram(f"llambert_{name}", about, labels, buckets=buckets, registry=registry)

        self.requests = counter("requests_total", "Answers", ["route", "status"])
        self.texts = counter("texts_total", "Texts that were classified")
        self.tokens = counter("tokens_total", "Tokens that went through the model, without padding")
        self.shed = counter("shed_total", "Requests that were refused because too many tokens waited")
        self.gone = counter("gone_total", "Requests whose client left before the answer")
        self.labels = counter("labels_total", "Labels that were given", ["label"])
        self.shadow = counter("shadow_texts_total", "Texts that the shadow model classified as well", ["agrees"])
        self.shadow_dropped = counter("shadow_dropped_total", "Texts that the shadow model had no time for")
        self.swaps = counter("model_swaps_total", "Changes of the served model", ["result"])
        self.batch_texts = histogram("batch_texts", "Texts (or windows of texts) in a batch", _TEXTS)
        self.batch_tokens = histogram("batch_tokens", "Tokens of a batch, without padding", _TOKENS)
        self.seconds = histogram("seconds", "Time in a step", _SECONDS, ["step"])
        self.request_seconds = histogram("request_seconds", "Time to the answer", _SECONDS, ["route"])
        for agrees in ("true", "false"):  # series that exist from the beginning can be alerted on
            self.shadow.labels(agrees)
        for result in ("done", "refused"):
            self.swaps.labels(result)

    def batch(self, texts: int, tokens: int, seconds: float) -> None:
        """The served model's engine did a batch."""
        self.batch_texts.observe(texts)
        self.batch_tokens.observe(tokens)
        self.tokens.inc(tokens)
        self.seconds.labels("infer").observe(seconds)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """For the registry."""
        return self._gauges()

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing: gauges need a model, which is not there yet."""
        return []

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self._registry)
