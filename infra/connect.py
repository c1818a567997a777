"""The log and the store that the settings name."""

from typing import TYPE_CHECKING

from infra.settings import Settings, kafka_bootstrap, s3_endpoint

if TYPE_CHECKING:
    from infra.kafka.log import KafkaLog
    from infra.store import S3Store


def connect_log(config: Settings) -> "KafkaLog":
    """The cluster of the settings, in their namespace; raises `SettingsError` where none is set."""
    from infra.kafka.log import KafkaLog

    return KafkaLog(
        kafka_bootstrap(config),
        namespace=config.namespace,
        extra=config.kafka.extra,
        replication=config.kafka.replication,
        min_insync=config.kafka.min_insync,
    )


def connect_store(config: Settings) -> "S3Store":
    """The object store of the settings; raises `SettingsError` where none is set."""
    from infra.store import S3Store

    s3 = s3_endpoint(config)
    return S3Store(
        s3.address, s3.access_key, s3.secret_key, s3.bucket, secure=s3.secure, region=s3.region
    )
