"""`--on compose`: the addresses and keys that compose itself would take."""

import re
from pathlib import Path

import pytest

from infra.cli.on import ROOT, NotHere, compose_environ, dotenv, take_on
from infra.instance import claim
from infra.settings import KafkaSettings, Settings, refuse_unknown

COMPOSE_FILE = ROOT / "docker-compose.yml"


@pytest.mark.parametrize(
    "argv",
    [["--on", "compose", "audit"], ["audit", "--on", "compose"], ["audit", "--on=compose"]],
)
def test_the_option_is_taken_wherever_it_stands(argv: list[str]) -> None:
    assert take_on(argv, {}) == ("compose", ["audit"])


def test_the_variable_is_the_option_for_a_whole_shell() -> None:
    assert take_on(["audit"], {"RALO_ON": "compose"}) == ("compose", ["audit"])
    assert take_on(["audit"], {}) == (None, ["audit"])


@pytest.mark.parametrize("argv", [["--on", "kubernetes"], ["--on"]])
def test_an_unknown_stack_is_refused(argv: list[str]) -> None:
    with pytest.raises(NotHere, match="there is only compose"):
        take_on(argv, {})


@pytest.mark.parametrize("verb", ["up", "down", "scale"])
def test_what_docker_compose_does_itself_is_left_to_it(verb: str) -> None:
    with pytest.raises(NotHere, match="docker compose"):
        take_on(["--on", "compose", verb], {})


def test_environment_beats_dotenv_beats_defaults(tmp_path: Path) -> None:
    (tmp_path / ".env.example").write_text((ROOT / ".env.example").read_text())
    (tmp_path / ".env").write_text(
        "KAFKA_PORT=1111 # mine\nMINIO_PORT='2222'\n# MINIO_ROOT_USER=x\nREGION=\n"
    )
    found = compose_environ(tmp_path, {"MINIO_PORT": "3333"})
    assert found["RALO_KAFKA__BOOTSTRAP_SERVERS"] == "127.0.0.1:1111"
    assert found["RALO_S3__ENDPOINT"] == "http://127.0.0.1:3333"
    assert found["RALO_S3__ACCESS_KEY"] == "ralo"
    assert found["RALO_S3__REGION"] == "us-east-1", "compose takes the default for an empty value"


def test_a_second_stack_is_another_file(tmp_path: Path) -> None:
    (tmp_path / ".env.example").write_text((ROOT / ".env.example").read_text())
    (tmp_path / ".env").write_text("KAFKA_PORT=1111\n")
    (tmp_path / "other.env").write_text("KAFKA_PORT=2222\n")
    found = compose_environ(tmp_path, {"COMPOSE_ENV_FILES": "other.env"})
    assert found["RALO_KAFKA__BOOTSTRAP_SERVERS"] == "127.0.0.1:2222"


def test_a_value_that_compose_would_expand_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MINIO_ROOT_PASSWORD=pa$word\n")
    with pytest.raises(NotHere, match="MINIO_ROOT_PASSWORD holds a"):
        compose_environ(tmp_path, {})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("KAFKA_PROT=1111", "KAFKA_PROT: did you mean KAFKA_PORT?"),
        ("COMPOSE_PROJEKT_NAME=other", "did you mean COMPOSE_PROJECT_NAME?"),
        ("RALO_POLICI=other", "RALO_POLICI: did you mean RALO_POLICY?"),
        ("RALO_NICE=0", "RALO_NICE: containers get RALO_POLICY only"),
    ],
)
def test_a_key_without_effect_is_refused_by_name(tmp_path: Path, line: str, said: str) -> None:
    _write(tmp_path, line)
    with pytest.raises(NotHere, match=re.escape(said)):
        compose_environ(tmp_path, {})


def test_keys_of_others_and_of_ones_own_compose_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_text("services: {a: {image: 'a:${KAFKA_PROT}-${RALO_NICE:-1}'}}")
    own = ["KAFKA_PROT=1", "RALO_NICE=0", "COMPOSE_FILE=docker-compose.yml:mine.yml"]
    _write(tmp_path, *own, "COMPOSE_ANSI=never", "EDITOR=vi")
    assert compose_environ(tmp_path, {})["RALO_KAFKA__BOOTSTRAP_SERVERS"] == "127.0.0.1:9092"


def _write(root: Path, *lines: str) -> None:
    (root / ".env").write_text("\n".join(lines) + "\n")
    for name in ("docker-compose.yml", ".env.example"):
        (root / name).write_text((ROOT / name).read_text())


def test_the_example_may_be_exported_whole() -> None:
    refuse_unknown(dotenv(ROOT / ".env.example"))


def test_the_example_lists_every_variable_of_the_compose_file_with_its_default() -> None:
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE_FILE.read_text()))
    assert used == dotenv(ROOT / ".env.example")
    bare = re.findall(r"\$\{(\w+)\}", COMPOSE_FILE.read_text())
    assert bare == [], "a variable without a default makes `docker compose up` fail"


def test_containers_of_one_service_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "f00d")
    assert Settings(instance="@host").instance == "f00d"
    assert Settings(instance="3").instance == "3"


def test_processes_of_two_machines_on_one_broker_have_names_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "f00d")
    far = KafkaSettings(bootstrap_servers="log.example.org:9092")
    asked = {
        "0": Settings(state_dir=tmp_path),
        "f00d-0": Settings(state_dir=tmp_path, kafka=far),
        "left": Settings(state_dir=tmp_path, kafka=far, instance="left"),
    }
    for name, settings in asked.items():
        with claim(settings, "sampler").lock as lock:
            assert lock.name.endswith(f"sampler.{name}.lock")
    with claim(Settings(state_dir=tmp_path, kafka=far, instance="@slot"), "sampler").lock as lock:
        assert lock.name.endswith("sampler.0.lock")
