"""What a processor tells Prometheus."""

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

LAST_TURN = "ralo_last_turn_timestamp_seconds"
_LABELS = ("processor", "policy")


class Metrics:
    """The driver's counters for one processor."""

    def __init__(self, processor: str, policy: str, registry: CollectorRegistry = REGISTRY) -> None:
        def counter(name: str, text: str) -> Counter:
            made = Counter(f"ralo_{name}", text, _LABELS, registry=registry)
            return made.labels(processor, policy)

        self.records = counter("records", "Records worked on")
        self.skipped = counter("skipped_records", "Records of other policies")
        self.batches = counter("batches", "Batches published")
        self.events = counter("events", "Events published")
        self.dead = counter("dead_letters", "Records sent to the dead letters")
        self.aborted = counter("aborted", "Transactions aborted or abandoned, then done again")
        self.doubtful = counter("doubtful_commits", "Commits without a reply")
        self.waits = counter("waits", "Waits for an object, state, a newer schema or a server")
        self.publish_s = Histogram(
            "ralo_publish_seconds", "Time of one transaction", _LABELS, registry=registry
        ).labels(processor, policy)
        self.work_s = Histogram(
            "ralo_work_seconds", "Time of one batch before publication", _LABELS, registry=registry
        ).labels(processor, policy)
        self.owned = Gauge(
            "ralo_owned_partitions", "Partitions owned", _LABELS, registry=registry
        ).labels(processor, policy)
        self.last_turn = Gauge(
            LAST_TURN, "When work was last done, or none was found", _LABELS, registry=registry
        ).labels(processor, policy)
