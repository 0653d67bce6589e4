"""Whether the texts that come in are still like those that the served model was made for."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import GaugeMetricFamily

from serving import profiles
from serving.drifting import Window
from serving.profiles import Profile
from serving.runtimes import Floats, Ids

_OF_A_REQUEST = 64  # texts that are looked at: a client alone can't fill the window, nor hold up the others


class Watch:
    """The last texts, as counts; no text is kept."""

    def __init__(self, profile: Profile, size: int) -> None:
        self._profile, self._window = profile, Window(profile, size)

    def see(self, texts: Sequence[str], pieces: Ids, owners: NDArray[np.intp], probabilities: Floats) -> None:
        """Texts that were classified, with the arguments of `profiles.numbers`; of many, some evenly spaced ones."""
        if len(texts) > _OF_A_REQUEST:
            rows = np.linspace(0, len(texts) - 1, _OF_A_REQUEST).astype(np.intp)
            theirs = np.flatnonzero(np.isin(owners, rows))
            texts, pieces = [texts[i] for i in rows.tolist()], [pieces[i] for i in theirs.tolist()]
            probabilities = probabilities[rows]
            owners = np.searchsorted(rows, owners[theirs])
        seen = profiles.numbers(self._profile, texts, pieces, owners, probabilities)
        self._window.add(self._profile.binned(seen))

    def gauges(self) -> Iterable[GaugeMetricFamily]:
        """Distances and alerts, when there are enough texts."""
        count = GaugeMetricFamily("llambert_drift_texts", "Texts that are compared with the corpus")
        count.add_metric([], self._window.texts)
        psi = GaugeMetricFamily(
            "llambert_drift_psi", "Distance of the last texts to the corpus, less what chance gives", labels=["measure"]
        )
        alert = GaugeMetricFamily(
            "llambert_drift_alert", "1 where that distance is large and no chance", labels=["measure"]
        )
        for finding in self._window.findings():
            psi.add_metric([finding.measure], finding.psi)
            alert.add_metric([finding.measure], float(finding.verdict == "drift"))
        return count, psi, alert
