"""The compose stack on a real engine, as its users meet it: one story, told in order."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from containers import services
from projects import Project, docker, inspect, is_healthy, process_of

from infra.cli.on import ROOT
from infra.kafka.config import SESSION_TIMEOUT_MS
from schemas.topics import PROBLEMS, SAMPLES

pytestmark = [pytest.mark.compose, pytest.mark.slow, pytest.mark.timeout(1200)]

PROCESSORS = ("provider", "sampler", "trainer", "aggregator", "evaluator", "orchestrator")
LASTING = ("kafka", "minio", *PROCESSORS)
SCALE = {"sampler": 3, "trainer": 2}
TAKEOVER_LIMIT_S = SESSION_TIMEOUT_MS / 1000 + 10
"""A container that is gone holds its partitions for its session; then they are assigned anew."""

IN_FLIGHT_VERSIONS = 2
"""What the example's mission has on its way at most, in weight versions."""

GPU_ON_CPU = "tests/compose/gpu-on-cpu.yml"
OVERRIDES = (
    "examples/compose/second-policy.yml",
    "examples/compose/two-gpus.yml",
    "examples/compose/one-robot.yml",
    GPU_ON_CPU,
)
MISSION = "compose-story"


@pytest.mark.parametrize("files", [[], *([file] for file in OVERRIDES)])
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
        other.up("kafka", "minio")
        assert _topics(other) == set()
        # For those who look for the script; on the first stack the service did the same.
        assert "weight-versions" in json.loads(other.script("init_kafka.sh", "--json"))["created"]
        assert _topics(other) == _topics(project)
        assert "all topics are there" in other.compose("run", "--rm", "-T", "provision")
        project.ralo("mission", "submit", "examples/missions/spell.yaml", *_without_end())
        assert _missions(project) == [MISSION] and _missions(other) == []
    finally:
        other.down()
    assert other.left() == [] and project.left() != []


def test_a_mission_from_the_host_makes_versions(project: Project) -> None:
    project.until("40 versions", lambda: (_mission(project)["version"] or 0) >= 40, 240)


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
    scale = [word for kind, n in SCALE.items() for word in ("--scale", f"{kind}={n}")]
    project.compose("up", "-d", "--no-build", *scale)
    for service, count in SCALE.items():
        assert len(project.containers(service)) == count
        project.until(f"all {service}s share", partial(_shared, project, service), 90)


def test_partitions_of_a_removed_container_are_taken_over_with_its_session(
    project: Project,
) -> None:
    docker("rm", "-f", project.containers("sampler")[0]["Id"])
    began = time.monotonic()
    project.until("the others took over", lambda: _shared(project, "sampler"), TAKEOVER_LIMIT_S)
    print(f"partitions of a removed container: {time.monotonic() - began:.1f} s")


def test_replaced_containers_own_the_partitions_within_a_session(project: Project) -> None:
    project.environ |= {f"{kind.upper()}S": str(n) for kind, n in SCALE.items()}
    before = _hosts(project, "sampler")
    project.compose("up", "-d", "--no-build", "--no-deps", "--force-recreate", "sampler")
    began = time.monotonic()
    assert len(_hosts(project, "sampler")) == 3 and not _hosts(project, "sampler") & before
    project.until("the new ones share", lambda: _shared(project, "sampler"), TAKEOVER_LIMIT_S)
    print(f"partitions of replaced containers: {time.monotonic() - began:.1f} s")


@pytest.mark.parametrize("service", [*PROCESSORS, "minio", "kafka"])
def test_killed_processes_come_back_and_the_run_goes_on(project: Project, service: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can kill a container's process from the host")
    assert _mission(project)["result"] is None, "it ended before the kill"
    victims = project.containers(service)
    assert len(victims) == SCALE.get(service, 1)
    began = time.monotonic()
    for victim in victims:
        project.kill(victim)
    killed = {victim["State"]["Pid"] for victim in victims}

    def are_back() -> bool:
        now = inspect(*(victim["Id"] for victim in victims))
        return all(is_healthy(c) and c["State"]["Pid"] not in {0, *killed} for c in now)

    project.until(f"{service} is back", are_back, 180)
    print(f"{service} killed ({len(victims)}): {time.monotonic() - began:.1f} s until healthy")
    before = _mission(project)["version"]
    project.until("the run goes on", lambda: _goes_on(_mission(project), service, before), 180)


def test_the_mission_learnt_meanwhile_and_the_books_balance(project: Project) -> None:
    project.until("held-out accuracy above one half", lambda: _has_learnt(_mission(project)), 600)
    project.ralo("mission", "cancel", MISSION, "--reason", "told")
    result = project.until("the result", lambda: _mission(project)["result"], 120)
    assert (result["outcome"], result["reason"]) == ("cancelled", "told"), result
    assert result["versions"] >= 600, result
    assert result["heldout_before"] <= 0.05 and result["heldout_after"] >= 0.5, result
    report = json.loads(project.ralo("audit", "--json"))
    assert (report["lost"], report["duplicated"], report["bad_refs"]) == (0, 0, 0)
    print(
        f"held-out {result['heldout_before']} -> {result['heldout_after']}, "
        f"{result['versions']} versions"
    )


def test_up_brings_back_what_an_operator_killed(project: Project) -> None:
    for service in ("kafka", "sampler"):
        (victim, *_) = project.containers(service)
        docker("kill", victim["Id"])
        time.sleep(3)
        assert not inspect(victim["Id"])[0]["State"]["Running"], "the engine takes it for a stop"
    # With --wait it would give up on a container that has been without a broker for long.
    project.compose("up", "-d", "--no-build")
    project.until(
        "all are healthy again",
        lambda: all(is_healthy(c) for service in LASTING for c in project.containers(service)),
        300,
    )
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


def test_the_demo_runs_in_the_profile_of_gpus(project: Project, tmp_path: Path) -> None:
    # Without a GPU: what is left is the profile, its services and what depends on what.
    files = f"docker-compose.yml{os.pathsep}{GPU_ON_CPU}"
    project.environ |= {"COMPOSE_FILE": files, "COMPOSE_PROFILES": "gpu"}
    project.environ |= {"SAMPLERS": "0", "TRAINERS": "0"}
    began = time.monotonic()
    project.up()
    print(f"up --wait of the profile gpu: {time.monotonic() - began:.1f} s")
    for kind in SCALE:
        assert project.containers(kind) == []
        assert [is_healthy(c) for c in project.containers(f"{kind}-gpu")] == [True]
    report = tmp_path / "report.json"
    said = project.ralo("demo", "--versions", "30", "--report", str(report))
    assert "./ralo --on compose ask cat" in said
    figures = json.loads(report.read_text())
    assert (figures["outcome"], figures["reason"]) == ("budget", "budget.versions")
    assert figures["weight_versions"] >= 30 and figures["audit"]["ok"]


def test_versions_are_shown_exported_and_asked_from_the_host(
    project: Project, tmp_path: Path
) -> None:
    newest = json.loads(project.ralo("weights", "list", "--last", "1", "--json"))[0]["version"]
    manifest = json.loads(project.ralo("weights", "show", str(newest), "--json"))
    assert manifest["mission_id"].startswith("demo-")
    project.ralo("weights", "export", str(newest), str(tmp_path))
    for name, ref in manifest["shards"].items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == ref["sha256"]
    asked = json.loads(project.ralo("ask", "cat", "--json"))
    assert (asked["version"], asked["prompt"]) == (newest, "cat=")
    assert 0 < len(asked["answer"]) <= 4, "an answer of at most `max_tokens` letters"


def test_the_profile_of_tools_adds_a_browser_of_topics(project: Project) -> None:
    image = services()["topics"]["image"]
    if subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode:
        pytest.skip(f"image {image} is not here: docker pull {image}")
    project.compose("--profile", "tools", "up", "-d", "--wait", "--no-build")
    (browser,) = project.containers("topics")
    assert is_healthy(browser)


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


def _without_end() -> list[str]:
    """So much to do that it is not done while the test kills, whatever the machine."""
    budget = 'budget={"versions": 1000000, "seconds": 36000}'
    return ["--id", MISSION, "--set", budget, "--set", "target=null"]


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
        return {name for name in admin.list_topics(timeout=2).topics if not name.startswith("__")}
    except KafkaException:
        return set()


def _missions(project: Project) -> list[str]:
    return [row["mission_id"] for row in json.loads(project.ralo("mission", "list", "--json"))]


def _hosts(project: Project, service: str) -> set[str]:
    return {container["Config"]["Hostname"] for container in project.containers(service)}


def _shared(project: Project, service: str) -> bool:
    """Whether the service's containers, and no others, own all partitions, evenly."""
    topic = {"sampler": PROBLEMS, "trainer": SAMPLES}[service]
    owned = project.owners(f"{service}.{services()['sampler']['environment']['RALO_POLICY']}")
    counts = [len(partitions) for partitions in owned.values()]
    return (
        set(owned) == _hosts(project, service)
        and sorted(p for held in owned.values() for p in held) == list(range(topic.partitions))
        and min(counts) > 0
        and max(counts) - min(counts) <= 1
    )


def _mission(project: Project) -> dict[str, Any]:
    """What `ralo mission show` says of the story's mission."""
    found: dict[str, Any] = json.loads(project.ralo("mission", "show", MISSION, "--json"))
    return found


def _goes_on(mission: dict[str, Any], service: str, before: int) -> bool:
    """Whether more was learnt since `before` than what was in flight, or evaluated."""
    if service == "evaluator":
        return bool(mission["heldout_version"] > before)
    return bool(mission["version"] > before + IN_FLIGHT_VERSIONS)


def _has_learnt(mission: dict[str, Any]) -> bool:
    return bool(mission["version"] >= 600 and mission["heldout_accuracy"] >= 0.5)


def _logs(name: str) -> str:
    done = subprocess.run(["docker", "logs", name], capture_output=True, text=True)
    return done.stdout + done.stderr
