import hashlib
from pathlib import Path

import pytest

from infra.embedded.jars import COORDINATES, Jar, is_complete, read_lock
from infra.embedded.kafka import Kafka, find_java, java_major
from infra.embedded.minio import MINIO, Minio, ensure_credentials
from infra.settings import Settings, credentials_file, read_credentials


def test_the_lock_pins_what_the_coordinates_name() -> None:
    pinned = {f"{jar.group}:{jar.artifact}:{jar.version}" for jar in read_lock()}
    assert set(COORDINATES.split("+")) <= pinned
    assert all(len(bytes.fromhex(jar.sha256)) == 32 for jar in read_lock())


def test_jars_are_complete_only_at_full_length(tmp_path: Path) -> None:
    jars = [Jar("g", name, "1", 3, hashlib.sha256(b"abc").hexdigest()) for name in ("a", "b")]
    (tmp_path / "a-1.jar").write_bytes(b"abc")
    assert not is_complete(tmp_path, jars)
    (tmp_path / "b-1.jar").write_bytes(b"ab")
    assert not is_complete(tmp_path, jars)
    (tmp_path / "b-1.jar").write_bytes(b"abc")
    assert is_complete(tmp_path, jars)


def test_there_is_a_java_that_kafka_accepts() -> None:
    assert java_major(find_java()) >= 17


def test_the_advertised_address_follows_the_port_and_the_host(tmp_path: Path) -> None:
    config = Settings(state_dir=tmp_path, bind_host="0.0.0.0", advertise_host="lab")
    properties = Kafka(config)._configuration({"client": 20001, "controller": 20002})
    assert properties["listeners"] == "PLAINTEXT://0.0.0.0:20001,CONTROLLER://127.0.0.1:20002"
    assert properties["advertised.listeners"] == "PLAINTEXT://lab:20001"
    assert properties["controller.quorum.voters"] == "1@127.0.0.1:20002"


def test_keys_are_drawn_once_and_kept_private(tmp_path: Path) -> None:
    config, said = Settings(state_dir=tmp_path), list[str]()
    ensure_credentials(config, said.append)
    first = read_credentials(config)
    ensure_credentials(config, said.append)
    assert read_credentials(config) == first
    assert said == []
    assert credentials_file(config).stat().st_mode & 0o077 == 0
    assert first[1] not in " ".join(Minio(config).marks)


def test_damaged_keys_are_replaced_with_a_message(tmp_path: Path) -> None:
    config, said = Settings(state_dir=tmp_path), list[str]()
    credentials_file(config).write_text("{")
    ensure_credentials(config, said.append)
    assert len(said) == 1
    read_credentials(config)


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\necho other 1.0\n", b"\x7fELF truncated"])
def test_something_else_is_not_taken_for_minio(tmp_path: Path, content: bytes) -> None:
    binary = tmp_path / "minio"
    binary.write_bytes(content)
    binary.chmod(0o755)
    assert not MINIO.runs(binary)
    assert not MINIO.runs(tmp_path / "absent")
