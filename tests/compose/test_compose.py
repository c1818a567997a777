"""The compose stack on a real engine, as its users meet it: one story, told in order."""

import contextlib
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from containers import services
from projects import Project, docker, inspect, is_healthy, process_of

from infra.cli.on import ROOT

pytestmark = [pytest.mark.compose, pytest.mark.slow, pytest.mark.timeout(1200)]

PROCESSORS = ("provider", "sampler", "trainer", "aggregator", "evaluator", "orchestrator")
LASTING = ("kafka", "minio", *PROCESSORS)
MISSION = "compose-story"


@pytest.mark.parametrize("files", [[], ["examples/compose/second-policy.yml"]])
def test_every_profile_and_example_is_accepted_by_compose(files: list[str]) -> None:
    if shutil.which("docker") is None:
        pytest.skip("docker is not here")
    options = [word for file in ["docker-compose.yml", *files] for word in ("-f", file)]
    docker("compose", *options, "--profile", "*", "--env-file", ".env.example", "config", "-q")


@pytest.fixture(scope="module")
def project(engine: None) -> Iterator[Project]:
    """The stack, up; removed at the end, whatever happened."""
    made = Project(f"ralo-test-{uuid.uuid4().hex[:8]}")
    for service in ("kafka", "minio", "sampler"):
        image = services()[service]["image"]
        (found,) = inspect(image)
        base = (found["Config"]["Labels"] or {}).get("streams.ralo.base")
        print(f"{image}: {base or 'official'}, {found['Size'] / 1e6:,.0f} MB")
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


def test_base_images_that_are_there_are_no_work(project: Project) -> None:
    subprocess.run(["infra/images/bases", "kafka", "minio"], cwd=ROOT, check=True, timeout=60)


def test_no_process_runs_as_root_or_can_write_its_image(project: Project) -> None:
    for container in (c for service in LASTING for c in project.containers(service)):
        assert process_of(container).uids().real != 0
        assert container["HostConfig"]["ReadonlyRootfs"]


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


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_producers_may_compress_as_they_like(project: Project, codec: str) -> None:
    # The broker unpacks every batch to check it, with libraries that it must be able to load.
    client, topic = {"bootstrap.servers": project.bootstrap}, f"codec-{codec}"
    admin = AdminClient(client)  # Its answers end with it.
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
    producer = Producer(client | {"compression.type": codec})
    answers: list[str] = []
    producer.produce(topic, codec * 1000, on_delivery=lambda e, _: answers.append(str(e)))
    assert producer.flush(30) == 0 and answers == ["None"]


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
    project.environ |= {"SAMPLERS": "3", "TRAINERS": "2"}
    project.compose("up", "-d", "--no-build")


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
    assert len(project.containers("sampler")) == 3, "the scale of .env outlasts an `up`"


def test_a_processor_without_its_servers_says_so_and_exits_to_be_started_again(
    project: Project,
) -> None:
    with _sampler_alone(project, patience_s=3) as name:
        assert docker("wait", name).strip() == "75", _logs(name)
        said = _logs(name)
        assert "waiting for the broker nowhere:9092" in said and "waited 3 s" in said


def test_a_processor_that_is_stopped_while_it_waits_stops_at_once(project: Project) -> None:
    with _sampler_alone(project, patience_s=90) as name:
        project.until("it waits", lambda: "waiting for" in _logs(name), 60)
        docker("stop", "-t", "20", name)
        assert inspect(name)[0]["State"]["ExitCode"] == 0, _logs(name)


def test_a_wrong_key_of_the_store_is_a_wrong_setting(project: Project) -> None:
    inside = ("minio:9000", "kafka:19092", "--network", f"{project.name}_default")
    with _sampler_alone(project, 30, *inside) as name:
        assert docker("wait", name).strip() == "78", _logs(name)
        assert "set RALO_S3__ACCESS_KEY" in _logs(name)


def test_a_copy_of_both_volumes_is_a_backup(project: Project) -> None:
    books = json.loads(project.ralo("audit", "--json"))
    project.compose("stop")
    copy = Project(f"{project.name}-copy")
    try:
        copy.compose("create", "--no-build", "kafka", "minio")
        for volume in ("kafka", "minio"):
            _copy_volume(f"{project.name}_{volume}", f"{copy.name}_{volume}")
        copy.compose("up", "-d", "--no-build", "provision")
        copy.until("its topics", lambda: "weight-versions" in _topics(copy), 90)
        assert json.loads(copy.ralo("audit", "--json")) == books
    finally:
        copy.down()


def test_down_leaves_nothing_behind(project: Project) -> None:
    project.down()
    assert project.left() == []
    strangers = set(docker("volume", "ls", "-q").split()) - project.volumes_before
    assert not strangers, "volumes without a name, that no later `down -v` finds"


def _short() -> list[str]:
    budget = 'budget={"versions": 600, "seconds": 420}'
    return ["--set", budget, "--set", "target=null"]


@contextlib.contextmanager
def _sampler_alone(
    project: Project,
    patience_s: int,
    store: str = "nowhere:9000",
    broker: str = "nowhere:9092",
    *options: str,
) -> Iterator[str]:
    """A container beside the project's: servers that do not answer, or not to these keys."""
    settings = {
        "KAFKA__BOOTSTRAP_SERVERS": broker,
        "S3__ENDPOINT": f"http://{store}",
        "S3__ACCESS_KEY": "ralo",
        "S3__SECRET_KEY": "not-the-key",
        "INSTANCE": "alone",
    }
    environment = [word for k, v in settings.items() for word in ("-e", f"RALO_{k}={v}")]
    name, image = f"{project.name}-alone", services()["sampler"]["image"]
    command = ["run", "sampler", "--patience-s", str(patience_s)]
    docker("run", "-d", "--name", name, *environment, *options, image, *command)
    try:
        yield name
    finally:
        docker("rm", "-f", "-v", name)


def _copy_volume(source: str, target: str) -> None:
    """As docs/deployment.md says, with the servers stopped."""
    mounts = ["-v", f"{source}:/from:ro", "-v", f"{target}:/to"]
    image = services()["sampler"]["image"]
    docker(
        "run", "--rm", "--user", "0", "--entrypoint", "cp", *mounts, image, "-a", "/from/.", "/to"
    )


def _topics(project: Project) -> set[str]:
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
    done = subprocess.run(["docker", "logs", name], capture_output=True, text=True)
    return done.stdout + done.stderr
