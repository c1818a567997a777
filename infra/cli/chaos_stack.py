"""The stack of a fault run: servers behind spoilt ways, and a supervisor that comes back."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable

import psutil

from infra import clock, robots, supervision
from infra.cli import chaos_world as world
from infra.connect import connect_log, connect_store
from infra.embedded.proxied import ProxiedStack
from infra.log import Log
from infra.settings import KafkaSettings, S3Settings, Settings
from infra.store import ObjectStore

Say = Callable[[str], None]

STOP_S = 60.0
_LINK = "infra.robot.link"


class ChaosStack:
    """Servers, supervisor and what it runs, in one state directory; `close` ends all of it.

    The processes reach both servers through the proxy; `log` and `store` are the direct way, for
    who watches and judges.
    """

    def __init__(self, config: Settings, say: Say) -> None:
        self.folder, self._say = config.state_dir, say
        self.folder.mkdir(parents=True, exist_ok=True)
        self.clock_file = self.folder / "clocks.json"
        self.servers = ProxiedStack(config, say)
        self._inside = self._through_proxy(config)
        self.log: Log = connect_log(config)
        self.store: ObjectStore = connect_store(config)
        self.config = config
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._wanted = False

    def _through_proxy(self, config: Settings) -> Settings:
        there = self.servers.proxied
        s3 = {
            "endpoint": there.s3.address,
            "access_key": there.s3.access_key,
            "secret_key": there.s3.secret_key,
            "bucket": there.s3.bucket,
        }
        kafka = KafkaSettings(bootstrap_servers=there.kafka)
        return config.model_copy(update={"kafka": kafka, "s3": S3Settings.model_validate(s3)})

    # -- the supervisor -----------------------------------------------------------------------

    def start(self) -> None:
        """Have the supervisor run all that there is to break, and come back where it is killed."""
        robot, place = world.robot_files(self.folder)
        supervision.write_scale(self.config, world.SCALE)
        robots.keep(self.config, [robot], [place])
        self._wanted = True
        self.keep_supervisor()

    def keep_supervisor(self) -> None:
        """Start the supervisor where it does not run, as a service manager would."""
        with self._lock:
            if not self._wanted or (self._supervisor and self._supervisor.poll() is None):
                return
            log = supervision.log_file(self.config, "supervisor")
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                self._supervisor = subprocess.Popen(
                    [sys.executable, "-m", "infra.cli", "supervise"],
                    env={**os.environ, **self.environ()},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    # A Ctrl-C at the terminal is for the run, which goes on to the audit.
                    start_new_session=True,
                )

    def environ(self) -> dict[str, str]:
        """The variables that give a process this run's folder, clocks, and ways to the servers."""
        there = self.servers.proxied
        return {
            "RALO_STATE_DIR": str(self.folder),
            "RALO_CACHE_DIR": str(self.config.cache_dir),
            "RALO_KAFKA__BOOTSTRAP_SERVERS": there.kafka,
            "RALO_S3__ENDPOINT": there.s3.address,
            "RALO_S3__ACCESS_KEY": there.s3.access_key,
            "RALO_S3__SECRET_KEY": there.s3.secret_key,
            "RALO_S3__BUCKET": there.s3.bucket,
            clock.VARIABLE: str(self.clock_file),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }

    def stop_robots(self) -> None:
        """Keep no robot any longer; the supervisor ends their processes."""
        robots.release(self.config)

    def stop(self) -> None:
        """Stop the supervisor and with it all processes."""
        with self._lock:
            self._wanted = False
            process, self._supervisor = self._supervisor, None
        if process is not None and process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
        supervision.stop(self.config, self._say)

    def close(self) -> None:
        """Stop everything."""
        self.stop()
        self.servers.close(self._say)

    @property
    def views(self) -> str:
        """Where the orchestrator answers."""
        return f"{self.config.bind_host}:{(self.folder / 'http-port').read_text()}"

    # -- the processes ------------------------------------------------------------------------

    def pid_of(self, target: str) -> int | None:
        """The living process of that name; None where none runs."""
        if target == "supervisor":
            process = self._supervisor
            return process.pid if process and process.poll() is None else None
        if target.startswith("link@"):
            return self._link_of(target.removeprefix("link@"))
        for row in supervision.processors_status(self.config):
            if row["processor"] == target and row["state"] == "running":
                return int(row["pid"])
        return None

    def _link_of(self, robot_id: str) -> int | None:
        """The actuator's child that talks to the log."""
        actuator = self.pid_of(f"actuator@{robot_id}")
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(actuator).children() if actuator else ():
                if _LINK in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                    return child.pid
        return None
