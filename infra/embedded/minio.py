"""The embedded object store: one MinIO process."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence

from infra.embedded.go import GoProgram
from infra.embedded.kafka import advertised_host
from infra.embedded.state import Report, write_whole
from infra.settings import Settings, SettingsError, credentials_file, read_credentials

MINIO = GoProgram(
    name="minio",
    package="github.com/minio/minio",
    version="v0.0.0-20260212201848-7aac2a2c5b7c",
    packages=1312,
    cost="about 3 minutes on two cores, 2.1 GB of disk meanwhile",
    otherwise="put `minio` on PATH, or set RALO_S3__ENDPOINT",
)


class Minio:
    """How to install, configure and start the object store of one state directory."""

    name = "minio"
    version = MINIO.version
    port_names: Sequence[str] = ("s3",)
    stop_patience_s = 10.0

    def __init__(self, config: Settings) -> None:
        self.config = config
        self.data = config.state_dir / "minio"

    @property
    def marks(self) -> tuple[str, ...]:
        """Return the arguments by which this store's process is recognised."""
        return ("server", str(self.data))

    def address(self, ports: dict[str, int]) -> str:
        """Return `host:port` for clients."""
        return f"{advertised_host(self.config)}:{ports['s3']}"

    def prepare(self, ports: dict[str, int], report: Report) -> list[str]:
        """Install what is missing, draw the keys, return the command line; raises `StackError`."""
        binary = MINIO.install(self.config.cache_dir, report)
        self.data.mkdir(parents=True, exist_ok=True)
        ensure_credentials(self.config, report)
        listen = f"{self.config.bind_host}:{ports['s3']}"
        return [str(binary), "server", "--quiet", "--address", listen, str(self.data)]

    def environ(self) -> dict[str, str]:
        """Return what the server's environment has beyond ours: the keys, and no web console."""
        access_key, secret_key = read_credentials(self.config)
        return {
            "MINIO_ROOT_USER": access_key,
            "MINIO_ROOT_PASSWORD": secret_key,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
        }


def ensure_credentials(config: Settings, report: Report) -> None:
    """Draw random keys, once, into a file that only its owner reads."""
    path = credentials_file(config)
    try:
        read_credentials(config)
    except SettingsError:
        if path.exists():
            report(f"{path.name} is damaged: drawing new keys")
        keys = {"access_key": f"ralo-{secrets.token_hex(8)}", "secret_key": secrets.token_hex(20)}
        write_whole(path, json.dumps(keys).encode(), mode=0o600)
