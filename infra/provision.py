"""Makes the topics and the bucket; safe to run twice."""

from collections.abc import Callable

from infra.connect import connect_log, connect_store
from infra.kafka.log import ping
from infra.settings import Settings
from infra.settings import settings as current
from schemas.topics import PROVISIONED


def provision(
    settings: Settings | None = None, report: Callable[[str], None] = lambda line: None
) -> list[str]:
    """Create what is missing of the topics and the bucket; answers the topics created."""
    settings = settings or current()
    make_bucket(settings)
    created = make_topics(settings)
    if created:
        report(f"made {len(created)} topics: {', '.join(created)}")
    return created


def make_bucket(settings: Settings) -> None:
    """Create the bucket unless it is there; raises `StoreUnavailable`."""
    connect_store(settings).ensure_bucket()


def make_topics(settings: Settings) -> list[str]:
    """Create what is missing of the topics, and answer it; raises `LogUnavailable`."""
    log = connect_log(settings)
    # Asked to create, the client would wait a minute for a broker that is away.
    ping(log.bootstrap, log.extra)
    return log.provision(PROVISIONED)
