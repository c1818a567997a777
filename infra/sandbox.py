"""Sandboxes: where a part of the log is played again, beside the original and never in it.

A sandbox is a namespace of topics, groups and transactional ids, and an overlay of the object store
(`infra.overlay`), so its processors see the original's objects and can change none of them.
"""

import re
import time
from collections.abc import Mapping
from concurrent.futures import Future

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from infra import provision as provisioning
from infra.connect import connect_log, connect_store
from infra.kafka import config as kafka
from infra.kafka.config import translate
from infra.log import LogError
from infra.overlay import SANDBOX
from infra.patience import Patience
from infra.settings import Settings, SettingsError, kafka_bootstrap
from schemas.topics import TOPICS

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")
_WAIT_S = 10.0
_PAUSE_S = 0.5
_READY_S = 60.0


def namespace_of(name: str) -> str:
    """The namespace of a sandbox; raises `SettingsError` for a name that is none."""
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"sandbox {name!r}: a name is a-z, 0-9, `_` and `-`, 60 of them at most, and begins "
            "with a letter or a digit"
        )
    return f"{SANDBOX}{name}."


def settings_for(config: Settings, name: str) -> Settings:
    """The settings of a process in this sandbox; raises `SettingsError`.

    One that is in a sandbox already is refused: objects fall through to the original alone.
    """
    if config.namespace.startswith(SANDBOX):
        raise SettingsError(
            f"RALO_NAMESPACE={config.namespace} is a sandbox itself: unset it to make another"
        )
    return config.model_copy(update={"namespace": namespace_of(name)})


def provision(config: Settings, name: str) -> Settings:
    """Make the topics of a sandbox unless they are there; answers the settings inside it.

    Raises `GaveUp` where they do not come to answer.
    """
    inside = settings_for(config, name)
    provisioning.provision(inside)
    log = connect_log(inside)
    # A topic that was just made is listed before its partitions have leaders.
    Patience(f"sandbox {name}", _READY_S).until_available(
        "its new topics", lambda: [log.ends(topic) for topic in TOPICS]
    )
    return inside


def sandboxes(config: Settings) -> list[str]:
    """The names of the sandboxes that have topics; raises `LogUnavailable`."""
    return sorted({topic.removeprefix(SANDBOX).partition(".")[0] for topic in _topics(config)})


def remove(config: Settings, name: str) -> int:
    """Delete a sandbox's topics, groups and objects; answers how many objects.

    No process may be at work in it; one that has just ended is waited for. Raises `LogError`,
    `StoreUnavailable`.
    """
    inside = settings_for(config, name)
    admin, prefix = _admin(config), inside.namespace
    try:
        _delete_groups(admin, prefix)
        topics = [topic for topic in _topics(config) if topic.startswith(prefix)]
        if topics:
            _done(admin.delete_topics(topics, operation_timeout=_WAIT_S))
            _until_gone(config, set(topics))
    except KafkaException as error:
        raise translate(error, f"remove sandbox {name}") from error
    store = connect_store(inside)
    keys = list(store.keys())
    store.delete(keys)
    return len(keys)


def _topics(config: Settings) -> list[str]:
    try:
        found = _admin(config).list_topics(timeout=_WAIT_S).topics
    except KafkaException as error:
        raise translate(error, "list the sandboxes") from error
    return [topic for topic in found if topic.startswith(SANDBOX)]


def _delete_groups(admin: AdminClient, prefix: str) -> None:
    """Delete the groups of a sandbox; raises `LogError` while one has members."""
    # A static member is known until its session ends, for it might come back.
    until_s = time.monotonic() + 2 * kafka.SESSION_TIMEOUT_MS / 1000
    while True:
        listed = admin.list_consumer_groups().result(_WAIT_S).valid
        groups = [g.group_id for g in listed if g.group_id.startswith(prefix)]
        try:
            return _done(admin.delete_consumer_groups(groups)) if groups else None
        except KafkaException as error:
            if error.args[0].code() != KafkaError.NON_EMPTY_GROUP:
                raise
            if time.monotonic() > until_s:
                raise LogError(f"{prefix}: a process is at work there, stop it first") from error
        time.sleep(_PAUSE_S)


def _until_gone(config: Settings, topics: set[str]) -> None:
    # Metadata follows a deletion by a moment.
    until_s = time.monotonic() + _WAIT_S
    while left := topics.intersection(_topics(config)):
        if time.monotonic() > until_s:
            raise LogError(f"topics {sorted(left)} were deleted but are still listed")
        time.sleep(_PAUSE_S / 10)


def _done(futures: Mapping[str, "Future[None]"]) -> None:
    for future in futures.values():
        future.result(_WAIT_S)


def _admin(config: Settings) -> AdminClient:
    return AdminClient(kafka.common(kafka_bootstrap(config), config.kafka.extra))
