"""The learning loop as real processes on the run's servers, for tests that watch or kill."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from consumers.audit import AuditReport
from consumers.audit.log import audit_log
from consumers.audit.store import StoreChecker
from consumers.read import read
from infra import supervision
from infra.connect import connect_log, connect_store
from infra.embedded.stack import Endpoints
from infra.envelope import message
from infra.log import LogUnavailable
from infra.provision import provision
from infra.settings import KafkaSettings, S3Settings, Settings
from schemas.base import Event
from schemas.learning import WeightVersion
from schemas.missions import Mission, MissionResult, parse_mission

NOTHING: Mapping[str, str] = {}
LEARNERS = ("provider", "sampler", "trainer", "aggregator")


def small_mission(name: str, folder: Path, **changes: Any) -> Mission:
    """A mission of a few hundred words of two letters and a model of a few thousand weights."""
    words = folder / "words.jsonl"
    letters = "abcdefghijklmnop"
    items = (
        {"question": f"spell {a}{b} backward", "word": a + b, "answer": b + a}
        for a in letters
        for b in letters
    )
    words.write_text("".join(json.dumps(item) + "\n" for item in items))
    document: dict[str, Any] = {
        "mission_id": name,
        "policy": name,
        "model": {
            "new": {"alphabet": letters + "=", "layers": 1, "heads": 2, "width": 16, "positions": 8}
        },
        "problems": {
            "source": "jsonl",
            "name": str(words),
            "prompt": "{word}=",
            "verifier": {"name": "positional"},
        },
        "rollout": {"group_size": 4, "max_tokens": 3, "problems_per_batch": 8},
        "training": {"groups_per_upload": 8, "chunk_bytes": 4096},
        "budget": {"problems": 400},
        "evaluate_every": 20,
    }
    return parse_mission(_merged(document, changes))


def _merged(document: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(document.get(key), dict):
            document[key] = _merged(document[key], value)
        else:
            document[key] = value
    return document


class Loop:
    """The supervised processes of one namespace."""

    def __init__(self, config: Settings, environ: Mapping[str, str]) -> None:
        self.config, self.environ = config, {**os.environ, **environ}
        self.log, self.store = connect_log(config), connect_store(config)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, crash_at: str = "") -> None:
        """Start the supervisor; every process dies at the points of `crash_at`."""
        log = supervision.log_file(self.config, "supervisor")
        log.parent.mkdir(parents=True, exist_ok=True)
        environ = {**self.environ, "RALO_CRASH_AT": crash_at}
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "infra.cli", "supervise"],
                env=environ,
                stdout=output,
                stderr=output,
            )

    def stop(self) -> None:
        """Stop the supervisor and its processes as a user's Ctrl-C would."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def processes(self) -> dict[str, dict[str, Any]]:
        """What the supervisor says of its processes."""
        try:
            found: dict[str, dict[str, Any]] = json.loads(
                supervision.status_file(self.config).read_text()
            )
            return found
        except (OSError, ValueError):
            return {}

    def kill(self, kind: str) -> bool:
        """SIGKILL one process of that kind; whether there was one."""
        for name, row in self.processes().items():
            if name.startswith(kind) and row["pid"]:
                try:
                    os.kill(row["pid"], signal.SIGKILL)
                except ProcessLookupError:
                    continue
                return True
        return False

    def submit(self, *events: Event) -> None:
        """Append events as any Kafka producer would."""
        self.log.append([message(event) for event in events])

    def versions(self, policy: str) -> list[WeightVersion]:
        """All weight versions of a policy so far."""
        found = read("weight-versions", log=self.log, policy=policy)
        return [r.event for r in found if isinstance(r.event, WeightVersion)]

    def result(self, mission_id: str) -> MissionResult | None:
        """The mission's closing event, once there is one."""
        for record in read("mission-results", log=self.log, mission=mission_id):
            if isinstance(record.event, MissionResult):
                return record.event
        return None

    def until_result(self, mission_id: str, limit_s: float) -> MissionResult:
        """Wait for the mission to end."""
        return until(lambda: self.result(mission_id), limit_s, lambda: self.last_words())

    def audit(self) -> AuditReport:
        """Balance the books of this namespace."""
        return audit_log(self.log, StoreChecker(self.store))

    def last_words(self) -> str:
        """The ends of the processes' logs, for a failing test."""
        logs = sorted((self.config.state_dir / "logs").glob("*.log"))
        return "\n".join(
            f"--- {p.stem}\n" + "\n".join(p.read_text().splitlines()[-6:]) for p in logs
        )


def until(look: Callable[[], Any], limit_s: float, why: Callable[[], str] = str) -> Any:
    """Wait until a look finds something, with a limit."""
    deadline = time.monotonic() + limit_s
    while not (found := _try(look)):
        assert time.monotonic() < deadline, f"not within {limit_s:.0f} s\n{why()}"
        time.sleep(0.25)
    return found


def _try(look: Callable[[], Any]) -> Any:
    try:
        return look()
    except LogUnavailable:
        # The broker was killed a moment ago, by the test itself.
        return None


@contextmanager
def running(
    endpoints: Endpoints,
    namespace: str,
    folder: Path,
    crash_at: str = "",
    environ: Mapping[str, str] = NOTHING,
    **scale: int,
) -> Iterator[Loop]:
    """The loop in a namespace of its own, its processes stopped at the end."""
    s3 = endpoints.s3
    environ = {
        **environ,
        "RALO_STATE_DIR": str(folder),
        "RALO_NAMESPACE": namespace,
        "RALO_KAFKA__BOOTSTRAP_SERVERS": endpoints.kafka,
        "RALO_S3__ENDPOINT": s3.address,
        "RALO_S3__ACCESS_KEY": s3.access_key,
        "RALO_S3__SECRET_KEY": s3.secret_key,
        "RALO_S3__BUCKET": s3.bucket,
    }
    config = Settings(
        state_dir=folder,
        namespace=namespace,
        kafka=KafkaSettings(bootstrap_servers=endpoints.kafka),
        s3=S3Settings.model_validate(
            {
                "endpoint": s3.address,
                "access_key": s3.access_key,
                "secret_key": s3.secret_key,
                "bucket": s3.bucket,
            }
        ),
    )
    provision(config)
    supervision.write_scale(config, scale)
    loop = Loop(config, environ)
    loop.start(crash_at)
    try:
        yield loop
    finally:
        loop.stop()
