"""Proof that a server works: a record produced and consumed, an object written and read."""

from __future__ import annotations

import io
import socket
import uuid
from concurrent.futures import Future

from infra.embedded.state import StackError
from infra.settings import S3Endpoint

HEALTH_TOPIC = "ralo-health"
HEALTH_OBJECT = "health/probe"


def answers(address: str) -> bool:
    """Return whether something accepts connections at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1.0):
            return True
    except OSError:
        return False


def check_kafka(bootstrap: str, extra: dict[str, str], limit_s: float = 15.0) -> None:
    """Produce a record and consume it again; raises `StackError`."""
    from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

    common: dict[str, str | int | float | bool] = {
        "bootstrap.servers": bootstrap,
        "log_level": 0,
        **extra,
    }
    value = uuid.uuid4().bytes
    delivered: Future[Message] = Future()
    try:
        _ensure_topic(common, limit_s)
        producer = Producer({**common, "message.timeout.ms": int(limit_s * 1000), "linger.ms": 0})
        producer.produce(
            HEALTH_TOPIC,
            value,
            on_delivery=lambda error, message: (
                delivered.set_exception(KafkaException(error))
                if error
                else delivered.set_result(message)
            ),
        )
        producer.flush(limit_s)
        offset = delivered.result(timeout=0).offset() or 0
        consumer = Consumer({**common, "group.id": HEALTH_TOPIC, "enable.auto.commit": False})
        try:
            consumer.assign([TopicPartition(HEALTH_TOPIC, 0, offset)])
            message = consumer.poll(limit_s)
        finally:
            consumer.close()
    except (KafkaException, TimeoutError) as error:
        raise StackError(f"the broker at {bootstrap} does not work: {error}") from error
    if message is None or message.error() or message.value() != value:
        where = f"{HEALTH_TOPIC}[0]@{offset}"
        raise StackError(f"the broker at {bootstrap} does not give back {where}")


def _ensure_topic(common: dict[str, str | int | float | bool], limit_s: float) -> None:
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    topic = NewTopic(HEALTH_TOPIC, num_partitions=1, config={"retention.ms": "3600000"})
    # A client without a name would be gone before its answer comes.
    admin = AdminClient(common)
    try:
        made = admin.create_topics([topic], request_timeout=limit_s)[HEALTH_TOPIC]
        made.result(timeout=limit_s)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise


def check_s3(endpoint: S3Endpoint) -> None:
    """Write an object into the bucket, made if missing, and read it back; raises `StackError`."""
    import urllib3
    from minio import Minio
    from minio.error import MinioException

    value = uuid.uuid4().bytes
    pool = urllib3.PoolManager(timeout=10.0, retries=False)
    client = Minio(
        endpoint.address,
        endpoint.access_key,
        endpoint.secret_key,
        secure=endpoint.secure,
        region=endpoint.region or None,
        http_client=pool,
    )
    try:
        if not client.bucket_exists(endpoint.bucket):
            client.make_bucket(endpoint.bucket)
        client.put_object(endpoint.bucket, HEALTH_OBJECT, io.BytesIO(value), len(value))
        response = client.get_object(endpoint.bucket, HEALTH_OBJECT)
        found = response.read()
        response.close()
    except (MinioException, urllib3.exceptions.HTTPError, OSError) as error:
        raise StackError(f"the store at {endpoint.address} does not work: {error}") from error
    finally:
        pool.clear()
    if found != value:
        raise StackError(f"the store at {endpoint.address} does not give back {HEALTH_OBJECT}")
