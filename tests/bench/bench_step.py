"""How long the aggregator takes for a step, and how much memory.

python tests/bench/bench_step.py --parameters 108000 50000000
RALO_S3__ENDPOINT=… python tests/bench/bench_step.py --store s3     # puts and gets included
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from infra.interpreter import drive, perform
from infra.memory.store import MemoryStore
from infra.store import ObjectStore, file_digest
from schemas.effects import Effect, Get, Outputs, Put, Steps
from schemas.ids import digest
from schemas.learning import GradientUpload, GroupUse, WeightVersion
from schemas.missions import Mission, MissionReport, parse_mission
from schemas.partitioner import partition_for
from schemas.records import Batch, Partition, Record
from schemas.tensors import ObjectRef, TensorRef
from schemas.topics import GRADIENT_CHUNKS
from streams.learning.aggregator import Aggregator
from streams.learning.keys import gradient_key
from streams.learning.layout import chunk_ranges

POLICY = "bench"
SHARD_ELEMENTS = 25_000_000
MINE = Partition("gradient-chunks", partition_for(POLICY.encode(), GRADIENT_CHUNKS.partitions))


class DiskStore(MemoryStore):
    """Objects as files, so that the figure for memory is the aggregator's own."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def put(self, key: str, data: bytes | Path) -> ObjectRef:
        path = self._folder / key.replace("/", "_")
        if isinstance(data, Path):
            with data.open("rb") as source, path.open("wb") as target:
                while block := source.read(1 << 20):
                    target.write(block)
        else:
            path.write_bytes(data)
        return ObjectRef(key=key, sha256=file_digest(path), size_bytes=path.stat().st_size)

    def get(self, ref: ObjectRef) -> bytes:
        return (self._folder / ref.key.replace("/", "_")).read_bytes()

    def get_file(self, ref: ObjectRef, to: Path) -> Path:
        with (self._folder / ref.key.replace("/", "_")).open("rb") as source, to.open("wb") as file:
            while block := source.read(1 << 20):
                file.write(block)
        return to


class Bench:
    """An aggregator driven by hand, its time split by effect."""

    def __init__(self, store: ObjectStore, folder: Path, parameters: int) -> None:
        self.store, self.parameters = store, parameters
        self.aggregator = Aggregator(POLICY, folder / "scratch")
        self.mission: Mission = parse_mission(
            {
                "mission_id": "b",
                "policy": POLICY,
                "problems": {"name": "x"},
                "budget": {"problems": 1},
            }
        )
        self.chunk = self.mission.training.chunk_bytes // 4
        self.spent = {Get: 0.0, Put: 0.0}
        self.cpu_s = 0.0
        self._offset = 0
        shards = dict(self._shards(folder))
        report = MissionReport(mission_id="b", policy=POLICY, stage="prepared", base_shards=shards)
        for event in (self.mission, report):
            self.aggregator.observe(self._record(event))
        self.aggregator.assigned([MINE])
        steps = self.aggregator.tick()
        assert steps is not None
        self._run(steps)

    def _shards(self, folder: Path) -> Iterator[tuple[str, ObjectRef]]:
        for number, (start, stop) in enumerate(chunk_ranges(self.parameters, SHARD_ELEMENTS)):
            name = f"model-{number:05d}.safetensors"
            _write_shard(folder / name, f"w{number}", stop - start)
            yield name, self.store.put(f"bench/{name}", folder / name)
            (folder / name).unlink()

    def _record(self, event: object) -> Record:
        value = event.to_bytes()  # type: ignore[attr-defined]
        return Record(MINE, self._offset, b"", value, event=event)  # type: ignore[arg-type]

    def _answer(self, effect: Effect, outputs: Outputs) -> object:
        start = time.perf_counter()
        reply = perform(effect, self.store, outputs)
        if type(effect) in self.spent:
            self.spent[type(effect)] += time.perf_counter() - start
        return reply

    def _run(self, steps: Steps) -> None:
        outputs = Outputs()
        drive(steps, lambda effect: self._answer(effect, outputs))
        for event in outputs.events:
            if isinstance(event, WeightVersion):
                self.aggregator.observe(self._record(event))

    def upload(self) -> GradientUpload:
        """A gradient, stored."""
        head = self.aggregator.head
        assert head is not None
        chunks = []
        for index, (start, stop) in enumerate(chunk_ranges(self.parameters, self.chunk)):
            data = torch.randn(stop - start).numpy().tobytes()
            key = gradient_key(POLICY, head.version, f"u{self._offset}", index, digest(data))
            ref = self.store.put(key, data)
            chunks.append(TensorRef(**ref.model_dump(), dtype="float32", shape=(stop - start,)))
        at = f"samples[0]@{self._offset}"
        return GradientUpload(
            upload_id=f"u{self._offset}",
            policy=POLICY,
            mission_id="b",
            base_version=head.version,
            chunks=chunks,
            weight=1.0,
            groups=[GroupUse(group_id="g", at=at, version=head.version, rollouts=1)],
            records_sha256=digest(b""),
            source={"samples-0": (self._offset, self._offset + 1)},
        )

    def step(self) -> float:
        """Seconds of one step, its gradient already stored."""
        record = self._record(self.upload())
        self._offset += 1
        start, cpu = time.perf_counter(), time.process_time()
        self._run(self.aggregator.process(Batch([record], [], {})))
        self.cpu_s += time.process_time() - cpu
        return time.perf_counter() - start


def _write_shard(path: Path, name: str, elements: int) -> None:
    """A safetensors file of random numbers, never whole in memory."""
    entry = {"dtype": "F32", "shape": [elements], "data_offsets": [0, 4 * elements]}
    header = json.dumps({name: entry}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for start, stop in chunk_ranges(elements, 1 << 20):
            file.write(torch.randn(stop - start).numpy().tobytes())


def measure(kind: str, parameters: int, steps: int) -> str:
    """One line of figures."""
    with tempfile.TemporaryDirectory(prefix="ralo-bench-") as folder:
        if kind == "s3":
            from infra.connect import connect_store
            from infra.settings import settings

            store: ObjectStore = connect_store(settings())
            store.ensure_bucket()  # type: ignore[attr-defined]
        else:
            (Path(folder) / "objects").mkdir()
            store = DiskStore(Path(folder) / "objects")
        bench = Bench(store, Path(folder), parameters)
        bench.step()
        bench.spent, bench.cpu_s = dict.fromkeys(bench.spent, 0.0), 0.0
        times = sorted(bench.step() for _ in range(steps))
        get, put = (1e3 * spent / steps for spent in bench.spent.values())
        median = 1e3 * times[len(times) // 2]
    cpu = 1e3 * bench.cpu_s / steps
    own = 1e3 * sum(times) / steps - get - put
    speed = parameters * 4 / (own / 1e3) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"{parameters:>12,} parameters  {median:9.1f} ms a step (median of {steps})  "
        f"get {get:.1f}  put {put:.1f}  own {own:.1f} (CPU {cpu:.1f}) ms "
        f"= {speed:.2f} GB/s of gradient  peak RSS {peak:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=int, nargs="+", default=[108_000, 50_000_000])
    parser.add_argument("--steps", type=int, default=0, help="0: 50 for small models, else 3")
    parser.add_argument("--store", choices=["disk", "s3"], default="disk")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for parameters in options.parameters:
        steps = options.steps or (50 if parameters < 10**6 else 3)
        print(measure(options.store, parameters, steps), flush=True)


if __name__ == "__main__":
    main()
