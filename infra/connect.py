"""From settings to the log and the store."""

from infra.kafka.log import KafkaLog
from infra.settings import Settings, kafka_bootstrap, s3_endpoint
from infra.store import S3Store


def connect_log(settings: Settings) -> KafkaLog:
    """The log by settings, or the embedded stack's; raises `SettingsError` when there is none."""
    kafka = settings.kafka
    return KafkaLog(
        kafka_bootstrap(settings),
        settings.namespace,
        kafka.extra,
        kafka.replication,
        kafka.min_insync,
    )


def connect_store(settings: Settings) -> S3Store:
    """The object store by settings, or the embedded stack's; raises `SettingsError`."""
    at = s3_endpoint(settings)
    return S3Store(at.address, at.access_key, at.secret_key, at.bucket, at.secure, at.region)
