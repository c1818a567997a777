"""Makes the topics and the bucket; safe to run twice."""

from collections.abc import Callable

from infra.connect import connect_log, connect_store
from infra.settings import Settings
from infra.settings import settings as current
from schemas.topics import PROVISIONED


def provision(
    settings: Settings | None = None, report: Callable[[str], None] = lambda line: None
) -> list[str]:
    """Create what is missing of the topics and the bucket; answers the topics created."""
    settings = settings or current()
    connect_store(settings).ensure_bucket()
    created = connect_log(settings).provision(PROVISIONED)
    if created:
        report(f"made {len(created)} topics: {', '.join(created)}")
    return created
