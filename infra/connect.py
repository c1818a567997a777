"""From settings to the log and the store."""

from collections.abc import Mapping

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from infra.kafka.log import KafkaLog
from infra.overlay import SANDBOX, OverlayStore
from infra.settings import Settings, SettingsError, kafka_bootstrap, s3_endpoint
from infra.store import Bucket, S3Store


def connect_log(settings: Settings) -> KafkaLog:
    """The log by settings, or the embedded stack's; raises `SettingsError` when there is none."""
    kafka = settings.kafka
    bootstrap = kafka_bootstrap(settings)
    if kafka.extra:
        _refuse_unknown_properties(bootstrap, kafka.extra)
    return KafkaLog(
        bootstrap,
        settings.namespace,
        kafka.extra,
        kafka.replication,
        kafka.min_insync,
    )


def connect_store(settings: Settings) -> Bucket:
    """The object store by settings, or the embedded stack's; raises `SettingsError`.

    In the namespace of a sandbox it is an overlay: what is written there lies below
    `<namespace>/`, and what is not found there is read from the original.
    """
    at = s3_endpoint(settings)
    store = S3Store(at.address, at.access_key, at.secret_key, at.bucket, at.secure, at.region)
    inside = settings.namespace.startswith(SANDBOX)
    return OverlayStore(store, f"{settings.namespace}/") if inside else store


def _refuse_unknown_properties(bootstrap: str, extra: Mapping[str, str]) -> None:
    """Let the client judge its own properties, before one of many uses would meet them."""
    try:
        AdminClient({"bootstrap.servers": bootstrap, "log_level": 2, **extra})
    except KafkaException as error:
        text = error.args[0].str()
        named = [name for name in extra if f'"{name}"' in text] or list(extra)
        variables = ", ".join(
            f"RALO_KAFKA__EXTRA__{name.upper().replace('.', '_')}" for name in named
        )
        raise SettingsError(f"{variables}: {text}") from error
