"""The closed list of what is measured, as Prometheus text; a name that is not here does not type-check."""

from collections.abc import Mapping
from typing import Final, Literal, TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

Instrument = TypeVar("Instrument", Counter, Gauge, Histogram)

CounterName = Literal[
    "http_requests",
    "http_refused",
    "security_events",
    "group_commits",
    "outbox_published",
    "outbox_blocked_keys",
    "events_applied",
    "events_skipped",
    "events_parked",
    "events_redriven",
    "events_rejected",
    "merchant_unreadable",
    "timer_rows",
    "channel_calls",
    "deliveries",
]
GaugeName = Literal[
    "http_in_flight", "group_commit_queue", "outbox_unsent", "outbox_oldest_s", "parked_keys", "consumer_lag"
]
HistogramName = Literal["http_seconds", "group_commit_batch", "relay_seconds", "consumer_batch", "channel_seconds"]

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)

# A registry of our own: nothing else in the process can add to the list.
_registry: Final = CollectorRegistry()
# The client looks children up under a lock and by sorted names; one dictionary is five times as fast.
_children: Final[dict[tuple[object, ...], object]] = {}


def _counter(name: CounterName, text: str, *labels: str) -> tuple[CounterName, Counter]:
    return name, Counter(f"defray_{name}", text, labels, registry=_registry)


def _gauge(name: GaugeName, text: str, *labels: str) -> tuple[GaugeName, Gauge]:
    return name, Gauge(f"defray_{name}", text, labels, registry=_registry)


def _histogram(
    name: HistogramName, text: str, buckets: tuple[float, ...], *labels: str
) -> tuple[HistogramName, Histogram]:
    return name, Histogram(f"defray_{name}", text, labels, registry=_registry, buckets=buckets)


_COUNTERS: Final[dict[CounterName, Counter]] = dict(
    (
        _counter("http_requests", "Answered requests.", "route", "status"),
        _counter("http_refused", "Requests refused, by problem code.", "code"),
        _counter("security_events", "Refused credentials, signatures and cross-merchant tries.", "kind"),
        _counter("group_commits", "Group-committed batches.", "name", "outcome"),
        _counter("outbox_published", "Events acknowledged by Kafka.", "lane"),
        _counter("outbox_blocked_keys", "Keys blocked because Kafka refused a record."),
        _counter("events_applied", "Events applied.", "consumer"),
        _counter("events_skipped", "Events of types nobody subscribed to, or seen before.", "consumer"),
        _counter("events_parked", "Events parked.", "consumer"),
        _counter("events_redriven", "Parked events applied later.", "consumer"),
        _counter("events_rejected", "Requests of others that could not be used, by reason.", "consumer", "reason"),
        _counter("merchant_unreadable", "Merchant state records that could not be read; the merchant is disabled."),
        _counter("timer_rows", "Rows of due work applied.", "timer"),
        _counter("channel_calls", "Calls to payment channels.", "channel", "outcome"),
        _counter("deliveries", "Webhook delivery attempts.", "outcome"),
    )
)
_GAUGES: Final[dict[GaugeName, Gauge]] = dict(
    (
        _gauge("http_in_flight", "Requests being worked on."),
        _gauge("group_commit_queue", "Commands waiting for a commit.", "name"),
        _gauge("outbox_unsent", "Events committed and not yet acknowledged by Kafka."),
        _gauge("outbox_oldest_s", "Age of the oldest unsent event."),
        _gauge("parked_keys", "Keys parked now.", "consumer"),
        _gauge("consumer_lag", "Records behind the end of the topic.", "consumer"),
    )
)
_HISTOGRAMS: Final[dict[HistogramName, Histogram]] = dict(
    (
        _histogram("http_seconds", "Time to answer.", _SECONDS, "route"),
        _histogram("group_commit_batch", "Commands per batch.", _SIZES, "name"),
        _histogram("relay_seconds", "Time from read to moved.", _SECONDS),
        _histogram("consumer_batch", "Events per batch.", _SIZES, "consumer"),
        _histogram("channel_seconds", "Time a channel took to answer.", _SECONDS, "channel"),
    )
)


def count(name: CounterName, by: float = 1, **labels: str) -> None:
    """Add to a counter."""
    _labelled(name, _COUNTERS[name], labels).inc(by)


def gauge(name: GaugeName, value: float, **labels: str) -> None:
    """Set a gauge."""
    _labelled(name, _GAUGES[name], labels).set(value)


def observe(name: HistogramName, value: float, **labels: str) -> None:
    """Add one observation (seconds, or a size)."""
    _labelled(name, _HISTOGRAMS[name], labels).observe(value)


def _labelled(name: str, instrument: Instrument, labels: Mapping[str, str]) -> Instrument:
    if not labels:
        return instrument
    key = (name, *labels.items())
    child = _children.get(key)
    if child is None:
        child = _children[key] = instrument.labels(**labels)
    return cast("Instrument", child)


def exposition() -> bytes:
    """All of it as Prometheus text."""
    return generate_latest(_registry)
