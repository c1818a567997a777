from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.cli.config import MASK, rows
from infra.connect import connect_log
from infra.embedded.state import ServerState, StackState, write_state
from infra.settings import (
    Settings,
    SettingsError,
    kafka_bootstrap,
    s3_endpoint,
    settings,
    state_file,
    variables,
)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in variables(Settings):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RALO_STATE_DIR", str(tmp_path))
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_nested_variables_set_nested_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RALO_KAFKA__BOOTSTRAP_SERVERS", "a:1,b:2")
    monkeypatch.setenv("RALO_KAFKA__EXTRA__SASL_MECHANISM", "SCRAM-SHA-512")
    assert kafka_bootstrap(settings()) == "a:1,b:2"
    assert settings().kafka.extra == {"sasl.mechanism": "SCRAM-SHA-512"}


def test_settings_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = settings()
    monkeypatch.setenv("RALO_POLICY", "later")
    assert settings() is first
    assert first.policy == "main"


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("RALO_NAMESPCE", "RALO_NAMESPACE"),
        ("RALO_KAFKA__BOOTSTRAP_SERVER", "RALO_KAFKA__BOOTSTRAP_SERVERS"),
        ("RALO_S3", "RALO_S3__"),
        ("RALO_QQQQQQ", "ralo config show"),
    ],
)
def test_an_unknown_variable_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, named: str
) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(SettingsError, match=name) as caught:
        settings()
    assert named in str(caught.value)


def test_documented_other_variables_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RALO_CRASH_AT", "trainer:put")
    settings()


def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RALO_S3__SECURE", "perhaps")
    monkeypatch.setenv("RALO_NICE", "99")
    with pytest.raises(SettingsError, match=r"RALO_S3__SECURE.*RALO_NICE"):
        settings()


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RALO_METRICS_PORT", "")
    assert settings().metrics_port is None


def test_paths_are_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RALO_CACHE_DIR", "~/here")
    assert settings().cache_dir == Path.home() / "here"


@pytest.mark.parametrize(
    ("endpoint", "secure", "address"),
    [("https://s3:9", True, "s3:9"), ("http://s3:9/", False, "s3:9"), ("s3:9", False, "s3:9")],
)
def test_the_endpoints_scheme_says_whether_it_is_secure(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, secure: bool, address: str
) -> None:
    monkeypatch.setenv("RALO_S3__ENDPOINT", endpoint)
    monkeypatch.setenv("RALO_S3__ACCESS_KEY", "k")
    monkeypatch.setenv("RALO_S3__SECRET_KEY", "s")
    found = s3_endpoint(settings())
    assert (found.address, found.secure) == (address, secure)
    assert "'s'" not in repr(found)


def test_a_store_without_keys_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RALO_S3__ENDPOINT", "s3:9")
    with pytest.raises(SettingsError, match="RALO_S3__ACCESS_KEY"):
        s3_endpoint(settings())


def test_without_a_stack_the_error_says_what_to_do() -> None:
    with pytest.raises(SettingsError, match=r"`ralo up`.*RALO_KAFKA__BOOTSTRAP_SERVERS"):
        kafka_bootstrap(settings())
    with pytest.raises(SettingsError, match=r"`ralo up`.*RALO_S3__ENDPOINT"):
        s3_endpoint(settings())


def _remember(wanted: bool) -> None:
    server = ServerState(address="127.0.0.1:20001", ports={"client": 20001}, version="1")
    write_state(state_file(settings()), StackState(wanted=wanted, servers={"kafka": server}))


def test_the_embedded_address_is_remembered_until_down() -> None:
    _remember(wanted=True)
    assert kafka_bootstrap(settings()) == "127.0.0.1:20001"
    _remember(wanted=False)
    with pytest.raises(SettingsError):
        kafka_bootstrap(settings())


def test_every_setting_is_shown_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RALO_POLICY", "arm")
    _remember(wanted=True)
    shown = {row.variable: row for row in rows(settings())}
    assert set(shown) == set(variables(Settings))
    assert shown["RALO_POLICY"][1:] == ("arm", "environment")
    assert shown["RALO_NICE"][1:] == (10, "default")
    bootstrap = shown["RALO_KAFKA__BOOTSTRAP_SERVERS"]
    assert bootstrap[1:] == ("127.0.0.1:20001", str(state_file(settings())))


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RALO_S3__SECRET_KEY", "hush1")
    monkeypatch.setenv("RALO_KAFKA__EXTRA__SASL_PASSWORD", "hush2")
    shown = {row.variable: row.value for row in rows(settings())}
    assert shown["RALO_S3__SECRET_KEY"] == MASK
    assert shown["RALO_KAFKA__EXTRA"] == {"sasl.password": MASK}
    assert "hush" not in repr(settings())


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("NONSENSE", "1", "No such"), ("SECURITY_PROTOCOL", "QUUX", "Invalid value")],
)
def test_a_property_that_the_client_refuses_is_a_wrong_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv("RALO_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("RALO_KAFKA__EXTRA__CLIENT_ID", "fine")
    monkeypatch.setenv(f"RALO_KAFKA__EXTRA__{name}", value)
    with pytest.raises(SettingsError, match=f"^RALO_KAFKA__EXTRA__{name}: {said}"):
        connect_log(settings())
