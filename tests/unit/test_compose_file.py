"""docker-compose.yml, service by service: what must hold in every profile."""

import re
import tomllib
from typing import Any

import pytest
import yaml

from infra.cli.on import ROOT
from infra.cli.processors import LEARNERS, ORCHESTRATOR
from infra.embedded.jars import KAFKA_VERSION
from infra.settings import refuse_unknown

STACK: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
ONE_SHOT = {"provision", "minio-volume"}
LASTING = sorted(set(SERVICES) - ONE_SHOT)
PROCESSORS = sorted(n for n, s in SERVICES.items() if s.get("command", [""])[0] == "run")


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_service_has_a_right_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert "privileged" not in service and service["cap_drop"] == ["ALL"]
    assert service.get("cap_add", []) == (["CHOWN"] if name == "minio-volume" else [])
    assert service["read_only"] is True
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert ("user" in service and service["user"].startswith("0")) == (name == "minio-volume")


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_memory_is_limited_and_processors_are_where_one_asks_for_it(name: str) -> None:
    limits = SERVICES[name]["deploy"]["resources"]["limits"]
    assert re.fullmatch(r"(\$\{\w+_MEMORY:-)?\d+[gm]\}?", limits["memory"])
    # To compose 0 is no limit; more than a machine has is refused, so it cannot be a default.
    assert (name == "minio-volume") != bool(
        re.fullmatch(r"\$\{\w+_CPUS:-0\}", limits.get("cpus", ""))
    )


@pytest.mark.parametrize("name", LASTING)
def test_every_lasting_service_restarts_and_has_a_check(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD" and service["logging"]


@pytest.mark.parametrize("name", sorted({*LASTING} - {"kafka", "minio"}))
def test_all_wait_for_the_servers_and_the_topics(name: str) -> None:
    # `up --wait` exits 1 where no running service depends on a one-shot container.
    assert SERVICES[name]["depends_on"] == {
        "kafka": {"condition": "service_healthy"},
        "minio": {"condition": "service_healthy"},
        "provision": {"condition": "service_completed_successfully"},
    }


def test_there_is_one_service_a_processor() -> None:
    plain = [name for name in PROCESSORS if "profiles" not in SERVICES[name]]
    assert plain == sorted({*LEARNERS, ORCHESTRATOR, "provider"})
    for name in PROCESSORS:
        assert SERVICES[name]["command"] == ["run", name.removesuffix("-gpu")]


@pytest.mark.parametrize("name", sorted([*PROCESSORS, "provision"]))
def test_a_processor_is_given_settings_that_exist(name: str) -> None:
    environment = SERVICES[name]["environment"]
    refuse_unknown(environment)
    # Else two of a service fence each other; aggregators share a disk with slots to lock.
    assert environment["RALO_INSTANCE"] == ("@slot" if name == "aggregator" else "@host")


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_ports_are_bound_to_one_address(name: str) -> None:
    assert all(
        port.startswith("${BIND_HOST:-127.0.0.1}:") for port in SERVICES[name].get("ports", [])
    )


def test_the_broker_is_the_embedded_stack_s_and_its_settings_are_for_one_node() -> None:
    kafka = SERVICES["kafka"]
    assert kafka["image"] == f"apache/kafka:{KAFKA_VERSION}"
    factors = {k: v for k, v in kafka["environment"].items() if k.endswith(("_FACTOR", "_MIN_ISR"))}
    assert len(factors) == 6 and set(factors.values()) == {1}


@pytest.mark.parametrize("name", ["sampler-gpu", "trainer-gpu"])
def test_a_gpu_is_reserved_only_in_its_profile(name: str) -> None:
    (device,) = _devices(SERVICES[name])
    assert device["capabilities"] == ["gpu"] and SERVICES[name]["profiles"] == ["gpu"]
    assert device["device_ids"] == [f"${{{name.removesuffix('-gpu').upper()}_GPU:-0}}"]


def test_the_example_of_two_gpus_gives_the_second_to_services_of_its_own() -> None:
    text = (ROOT / "examples/compose/two-gpus.yml").read_text()
    # Compose's own tag: without it the lists of both files are joined.
    assert text.count("devices: !override") == 2
    second = yaml.safe_load(text.replace("!override", ""))["services"]
    assert sorted(second) == ["sampler-gpu1", "trainer-gpu1"]
    for name, service in second.items():
        assert service["extends"] == {"file": "docker-compose.yml", "service": name[:-1]}
        (device,), (first,) = _devices(service), _devices(SERVICES[name[:-1]])
        assert device == {**first, "device_ids": ["1"]}


def _devices(service: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service["deploy"]["resources"]["reservations"]["devices"]
    return found


def test_the_stand_ins_have_the_names_that_compose_and_the_dockerfile_ask_for() -> None:
    script = (ROOT / "infra/images/bases").read_text()
    made = dict(re.findall(r"(\w+)_image\(\) \{ echo (\S+); \}", script))
    dockerfile = (ROOT / "infra/images/Dockerfile").read_text()
    assert made == {
        "kafka": SERVICES["kafka"]["image"],
        "minio": SERVICES["minio"]["image"],
        "python": re.findall(r"^ARG PYTHON=(\S+)", dockerfile, re.MULTILINE)[0],
    }


def test_the_image_that_runs_is_the_one_that_the_script_builds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    image = f"ralo-streams:{project['version']}"
    named = {s["image"] for s in SERVICES.values() if "ralo-streams" in s["image"]}
    assert named == {f"${{IMAGE:-{image}}}", f"${{GPU_IMAGE:-{image}-cuda}}"}
