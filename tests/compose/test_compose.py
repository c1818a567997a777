"""The compose stack on a real engine, as its users meet it: one story, told in order."""

import json
import os
import time
import uuid
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from containers import services
from projects import Project, docker, inspect, is_healthy

pytestmark = [pytest.mark.compose, pytest.mark.slow, pytest.mark.timeout(1200)]

PROCESSORS = ("provider", "sampler", "trainer", "aggregator", "evaluator", "orchestrator")
LASTING = ("kafka", "minio", *PROCESSORS)
MISSION = "compose-story"
SESSION_S = 10.0


@pytest.fixture(scope="module")
def project(engine: None) -> Iterator[Project]:
    """The stack, up; removed at the end, whatever happened."""
    made = Project(f"ralo-test-{uuid.uuid4().hex[:8]}")
    try:
        began = time.monotonic()
        made.up()
        print(f"up --wait: {time.monotonic() - began:.1f} s")
        yield made
    finally:
        made.down()


def test_up_waits_until_all_are_healthy(project: Project) -> None:
    for service in LASTING:
        (container,) = project.containers(service)
        assert is_healthy(container), project.last_words()
    (provision,) = project.containers("provision")
    assert provision["State"]["ExitCode"] == 0


def test_no_process_runs_as_root_or_can_write_its_image(project: Project) -> None:
    for container in (c for service in LASTING for c in project.containers(service)):
        uid = psutil.Process(container["State"]["Pid"]).uids().real
        assert uid != 0 and container["HostConfig"]["ReadonlyRootfs"]


def test_a_second_stack_on_this_host_does_not_meet_the_first(project: Project) -> None:
    other = Project(f"{project.name}-other")
    try:
        other.compose("up", "-d", "--no-build", "provision")
        other.until("its topics", lambda: "weight-versions" in _topics(other), 90)
        project.ralo(
            "mission", "submit", "examples/missions/spell.yaml", "--id", MISSION, *_short()
        )
        assert _missions(project) == [MISSION] and _missions(other) == []
    finally:
        other.down()
    assert other.left() == [] and project.left() != []


def test_a_mission_from_the_host_makes_versions(project: Project) -> None:
    project.until("40 versions", lambda: len(project.versions()) > 40, 240)


def test_scaling_shares_the_partitions_out(project: Project) -> None:
    project.compose("up", "-d", "--no-build", "--scale", "sampler=3", "--scale", "trainer=2")
    for service, count in (("sampler", 3), ("trainer", 2)):
        names = {c["Config"]["Hostname"] for c in project.containers(service)}
        assert len(names) == count
        project.until(f"{service}s share", lambda s=service, n=names: _shared(project, s, n), 90)


def test_a_replaced_container_frees_its_partitions_with_its_session(project: Project) -> None:
    gone, *others = project.containers("sampler")
    docker("rm", "-f", gone["Id"])
    began = time.monotonic()
    names = {c["Config"]["Hostname"] for c in others}
    project.until("the others took over", lambda: _shared(project, "sampler", names), 60)
    print(f"partitions of a removed container: {time.monotonic() - began:.1f} s")
    project.compose("up", "-d", "--no-build", "--scale", "sampler=3", "--scale", "trainer=2")


@pytest.mark.parametrize("service", [*PROCESSORS, "minio", "kafka"])
def test_a_killed_process_comes_back_and_the_run_goes_on(project: Project, service: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can kill a container's process from the host")
    victim, before = project.containers(service)[0], len(project.versions())
    began = time.monotonic()
    project.kill(victim)

    def is_back() -> bool:
        (now,) = inspect(victim["Id"])
        return is_healthy(now) and now["State"]["Pid"] not in (0, victim["State"]["Pid"])

    project.until(f"{service} is back", is_back, 180)
    project.until(
        "a version more", lambda: len(project.versions()) > before or _ended(project), 180
    )
    print(f"{service} killed: {time.monotonic() - began:.1f} s until healthy and a version more")


def test_the_mission_ends_better_than_it_began_and_the_books_balance(project: Project) -> None:
    result = project.until("the end of the mission", lambda: _ended(project), 600)
    assert result["outcome"] in ("budget", "target"), result
    assert result["heldout_before"] <= 0.05 and result["heldout_after"] >= 0.3, result
    report = json.loads(project.ralo("audit", "--json"))
    assert (report["lost"], report["duplicated"], report["bad_refs"]) == (0, 0, 0)
    print(f"held-out {result['heldout_before']} -> {result['heldout_after']}")


def test_up_brings_back_what_an_operator_killed(project: Project) -> None:
    for service in ("kafka", "sampler"):
        (victim, *_) = project.containers(service)
        docker("kill", victim["Id"])
        time.sleep(3)
        assert not inspect(victim["Id"])[0]["State"]["Running"], "the engine takes it for a stop"
    project.up()
    assert all(is_healthy(c) for service in LASTING for c in project.containers(service))


def test_a_processor_without_its_servers_says_so_and_exits_to_be_started_again(
    project: Project,
) -> None:
    image = services()["sampler"]["image"]
    environment = ["-e", "RALO_KAFKA__BOOTSTRAP_SERVERS=nowhere:9092", "-e", "RALO_INSTANCE=x"]
    for name, value in (
        ("ENDPOINT", "http://nowhere:9000"),
        ("ACCESS_KEY", "k"),
        ("SECRET_KEY", "k"),
    ):
        environment += ["-e", f"RALO_S3__{name}={value}"]
    name = f"{project.name}-alone"
    docker("run", "-d", "--name", name, *environment, image, "run", "sampler", "--patience-s", "3")
    try:
        status = docker("wait", name).strip()
        (alone,) = inspect(name)
        said = _logs(name)
        assert status == "75" and alone["State"]["ExitCode"] == 75, said
        assert "waiting for the broker nowhere:9092" in said and "waited 3 s" in said
    finally:
        docker("rm", "-f", "-v", name)


def test_down_leaves_nothing_behind(project: Project) -> None:
    project.down()
    assert project.left() == []


def _short() -> list[str]:
    budget = 'budget={"versions": 600, "seconds": 420}'
    return ["--set", budget, "--set", "target=null"]


def _topics(project: Project) -> set[str]:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": project.bootstrap, "log_level": 0})
    try:
        return set(admin.list_topics(timeout=2).topics)
    except KafkaException:
        return set()


def _missions(project: Project) -> list[str]:
    return [row["mission_id"] for row in json.loads(project.ralo("mission", "list", "--json"))]


def _shared(project: Project, service: str, hosts: set[str]) -> bool:
    """Whether exactly these containers own all partitions, none more than one above another."""
    owned = project.owners(f"{service}.{services()['sampler']['environment']['RALO_POLICY']}")
    counts = sorted(len(partitions) for partitions in owned.values())
    held = sorted(p for partitions in owned.values() for p in partitions)
    return (
        set(owned) == hosts
        and held == sorted(set(held))
        and len(held) >= len(hosts)
        and counts[-1] - counts[0] <= 1
    )


def _ended(project: Project) -> dict[str, Any] | None:
    text = project.ralo("mission", "show", MISSION, "--json", check=False)
    found: dict[str, Any] | None = json.loads(text).get("result") if text else None
    return found


def _logs(name: str) -> str:
    import subprocess

    done = subprocess.run(["docker", "logs", name], capture_output=True, text=True)
    return done.stdout + done.stderr
