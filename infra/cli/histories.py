"""The versions that a verb is about."""

from typing import TYPE_CHECKING

from infra.settings import settings

if TYPE_CHECKING:
    from consumers.weights import History


def history_for(policy: str | None) -> "History":
    """The versions of the policy; where none is named and the setting's has none, the newest's."""
    from consumers.read import read
    from consumers.weights import NoSuchVersion, history

    records = list(read("weight-versions"))
    try:
        return history(records, policy or settings().policy)
    except NoSuchVersion:
        newest = max(records, key=lambda record: record.timestamp_ms, default=None)
        learnt_last = getattr(newest.event, "policy", None) if newest else None
        if policy is not None or learnt_last is None:
            raise
        return history(records, learnt_last)
