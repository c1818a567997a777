"""Where things are: all settings of a process, from `RALO_` variables, with a laptop's defaults.

Nested settings use `__`: `RALO_KAFKA__BOOTSTRAP_SERVERS`, `RALO_S3__ENDPOINT`. A `RALO_` variable
that no setting answers to is refused by name, so a misspelt one is never silently without effect.
Where no broker or store is set, the addresses are the embedded stack's, read from its state file.
"""

from __future__ import annotations

import difflib
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "RALO_"

OTHER_VARIABLES: Mapping[str, str] = {
    "RALO_CLOCK_FILE": "says by how much the clocks of which process are off (fault tests)",
    "RALO_CRASH_AT": "kills the process at a named point of a processor (fault tests)",
    "RALO_ON": "the stack that a verb talks to, like the option --on: compose",
    "RALO_PYTHON": "the Python that ./ralo makes its environment with",
    "RALO_TEST_KEEP_STACK": "ralo test leaves its Kafka and MinIO running in this directory",
}
"""Variables with the prefix that are no settings."""


class SettingsError(Exception):
    """A setting is missing, unknown or wrong; the message names it and says how to mend it."""


class KafkaSettings(BaseModel):
    """The broker, and what every client of it shares."""

    model_config = ConfigDict(extra="forbid")

    bootstrap_servers: str | None = None
    replication: int = Field(default=1, ge=1)
    min_insync: int = Field(default=1, ge=1)
    extra: dict[str, str] = Field(default_factory=dict, repr=False)
    """librdkafka properties (SASL, TLS): `…KAFKA__EXTRA__SASL_MECHANISM` sets `sasl.mechanism`."""

    @field_validator("extra")
    @classmethod
    def _dots_for_underscores(cls, extra: dict[str, str]) -> dict[str, str]:
        # A shell variable's name cannot hold a dot, and no librdkafka property holds an underscore.
        return {name.lower().replace("_", "."): value for name, value in extra.items()}


class S3Settings(BaseModel):
    """The object store: any S3 endpoint."""

    model_config = ConfigDict(extra="forbid")

    endpoint: str | None = None
    access_key: SecretStr | None = None
    secret_key: SecretStr | None = None
    bucket: str = "ralo"
    secure: bool = False
    region: str = ""

    @model_validator(mode="before")
    @classmethod
    def _scheme_says_secure(cls, values: Any) -> Any:
        if isinstance(values, dict) and "://" in str(values.get("endpoint") or ""):
            scheme, _, address = values["endpoint"].partition("://")
            if scheme not in ("http", "https"):
                raise ValueError(f"endpoint {values['endpoint']!r}: http or https, not {scheme}")
            return {"secure": scheme == "https", **values, "endpoint": address.rstrip("/")}
        return values


class Settings(BaseSettings):
    """Every setting of a process."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        validate_default=True,
    )

    state_dir: Path = Path("~/.local/state/ralo")
    cache_dir: Path = Path("~/.cache/ralo")
    namespace: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$")
    """Prefix of every topic, group and transactional id."""
    policy: str = Field(default="main", pattern=r"^[A-Za-z0-9._-]+$")
    instance: str | None = None
    """Names this process among its kind, on all machines that share a broker.

    `@host` is the name of the machine, which tells the containers of a service apart; `@slot` the
    first free slot of the state directory, for containers that share one. Unset it is the slot,
    with the machine's name before it where the broker is not the embedded one.
    """
    kafka: KafkaSettings = KafkaSettings()
    s3: S3Settings = S3Settings()
    nice: int = Field(default=10, ge=0, le=19)
    """Priority given up by learners, so that a control loop beside them keeps its deadlines."""
    torch_threads: int = Field(default=1, ge=1)
    bind_host: str = "127.0.0.1"
    advertise_host: str | None = None
    """Name under which other machines reach this one; `bind_host` when unset."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    http_port: int | None = Field(default=None, ge=0, le=65535)
    allow_local_code: bool = False
    """Accept plugins named `module:function`."""

    @field_validator("instance")
    @classmethod
    def _host_for_instance(cls, instance: str | None) -> str | None:
        return socket.gethostname() if instance == "@host" else instance

    @field_validator("state_dir", "cache_dir")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().absolute()


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Return this process's settings, read once; raises `SettingsError` naming what to mend."""
    refuse_unknown(os.environ)
    try:
        return Settings()
    except ValidationError as error:
        wrong = (f"{variable_of(e['loc'])}: {e['msg']}" for e in error.errors())
        raise SettingsError("; ".join(wrong)) from None


def variable_of(path: Iterable[int | str]) -> str:
    """Return the environment variable that sets the field at `path`."""
    return PREFIX + "__".join(str(part).upper() for part in path)


def refuse_unknown(environ: Mapping[str, str]) -> None:
    """Raise `SettingsError` for a `RALO_` variable that nothing reads."""
    known = {*variables(Settings), *OTHER_VARIABLES}
    for name in environ:
        if name.startswith(PREFIX) and name not in known and not name.startswith(_EXTRA):
            inside = sorted(k for k in known if k.startswith(f"{name}__"))
            near = inside or difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "`ralo config show` lists all settings"
            raise SettingsError(f"{name} is not a setting: {hint}")


_EXTRA = f"{PREFIX}KAFKA__EXTRA__"


def variables(model: type[BaseModel], prefix: str = PREFIX) -> Iterator[str]:
    """Yield the name of every environment variable that `model` reads."""
    for name, info in model.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from variables(info.annotation, f"{variable}__")
        else:
            yield variable


@dataclass(frozen=True)
class S3Endpoint:
    """A store that can be reached: `host:port`, keys and bucket."""

    address: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    bucket: str
    secure: bool = False
    region: str = ""


def kafka_bootstrap(config: Settings) -> str:
    """Return the `host:port[,…]` set, else the embedded broker's; raises `SettingsError`."""
    if config.kafka.bootstrap_servers:
        return config.kafka.bootstrap_servers
    address = remembered(config, "kafka")
    if address is None:
        raise SettingsError("no broker: run `ralo up`, or set RALO_KAFKA__BOOTSTRAP_SERVERS")
    return address


def s3_endpoint(config: Settings) -> S3Endpoint:
    """Return the object store that is set, else the embedded one; raises `SettingsError`."""
    s3 = config.s3
    if s3.endpoint:
        if s3.access_key is None or s3.secret_key is None:
            raise SettingsError(
                "no keys for the store: set RALO_S3__ACCESS_KEY and RALO_S3__SECRET_KEY"
            )
        keys = s3.access_key.get_secret_value(), s3.secret_key.get_secret_value()
        return S3Endpoint(s3.endpoint, *keys, s3.bucket, s3.secure, s3.region)
    address = remembered(config, "minio")
    if address is None:
        raise SettingsError("no object store: run `ralo up`, or set RALO_S3__ENDPOINT")
    keys = read_credentials(config)
    return S3Endpoint(address, *keys, s3.bucket, secure=False, region=s3.region)


def state_file(config: Settings) -> Path:
    """Return the path of the embedded stack's state: processes, ports, versions."""
    return config.state_dir / "stack.json"


def credentials_file(config: Settings) -> Path:
    """Return the path of the embedded store's keys, readable by their owner only."""
    return config.state_dir / "minio.json"


def remembered(config: Settings, server: str) -> str | None:
    """Return `host:port` of an embedded server that was started and not stopped since, or None."""
    try:
        state = json.loads(state_file(config).read_text())
        return str(state["servers"][server]["address"]) if state["wanted"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_credentials(config: Settings) -> tuple[str, str]:
    """Return the embedded store's access key and secret key; raises `SettingsError`."""
    path = credentials_file(config)
    try:
        keys = json.loads(path.read_text())
        return str(keys["access_key"]), str(keys["secret_key"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path} is not readable ({error!r}): run `ralo up`") from error
