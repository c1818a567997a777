"""`ralo bench fusion`: frames fused a second on one core, beside filterpy's EKF on the same."""

import importlib.util
import json as json_module
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from schemas.acting import SensorFrame
    from schemas.records import Record

RATE_HZ = 200.0
WARM_FRAMES = 200

Take = Callable[["Record"], "NDArray[np.float64]"]
"""Fuses one frame; answers the mean."""


def fusion(
    frames: Annotated[int, typer.Option(min=1000, help="Frames to fuse, each way.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of the rover's motion and noise.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Fuse a rover's frames at 200 Hz as fast as it goes, beside a bare filterpy EKF.

    Ours counts from a decoded record to the bytes to publish: order of events, history, gates,
    covariance and health; `filter` is the same without making and encoding states. filterpy's
    predicts and updates with the same models and noise, and has none of that.
    """
    # Small matrices: threads of a BLAS would only take more than the one core that is counted.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    figures = compared(frames, seed)
    print(json_module.dumps(figures, indent=2) if json else "\n".join(_lines(figures)))


def compared(frames: int, seed: int) -> dict[str, Any]:
    """The figures of ours and, where it is installed, of filterpy's."""
    records = _records(frames + WARM_FRAMES, seed)
    ours = _measured("ours", _ours(), records)
    figures: dict[str, Any] = {"frames": frames, "rate_hz": RATE_HZ, "ours": ours}
    figures["filter"] = _measured("filter", _filter(), records)
    if importlib.util.find_spec("filterpy") is None:
        figures["filterpy"] = None
    else:
        theirs = _measured("filterpy", _filterpy(), records)
        figures["filterpy"] = theirs
        figures["ours_over_filterpy"] = round(ours["frames_per_s"] / theirs["frames_per_s"], 2)
    return figures


def _records(count: int, seed: int) -> list["Record"]:
    from infra.cli.rover_frames import rover_frames
    from schemas.records import Partition, Record

    partition = Partition("sensor-frames", 0)
    return [
        Record(partition, offset, b"rover", None, event=frame)
        for offset, frame in enumerate(rover_frames(count, RATE_HZ, seed))
    ]


def _measured(name: str, take: Take, records: Sequence["Record"]) -> dict[str, Any]:
    """Frames a second, time a frame, and how far the positions are from the truth."""
    import numpy as np

    took_s, apart_m = [], []
    said_s = time.monotonic()
    for k, record in enumerate(records):
        began_s = time.perf_counter()
        mean = take(record)
        took_s.append(time.perf_counter() - began_s)
        apart_m.append(math.dist(mean[:2], _truth(record)))
        if time.monotonic() - said_s > 2:
            said_s = time.monotonic()
            print(f"bench: {name}, {k:,} of {len(records):,} frames", file=sys.stderr)
    took = np.array(took_s[WARM_FRAMES:])
    frames_per_s = len(took) / float(took.sum())
    return {
        "frames_per_s": round(frames_per_s, 1),
        "rovers_at_200_hz": int(frames_per_s // RATE_HZ),
        "frame_p50_us": round(float(np.percentile(took, 50)) * 1e6, 1),
        "frame_p99_us": round(float(np.percentile(took, 99)) * 1e6, 1),
        "rmse_m": round(float(np.sqrt(np.mean(np.square(apart_m[WARM_FRAMES:])))), 4),
    }


def _truth(record: "Record") -> list[float]:
    frame: SensorFrame = record.event  # type: ignore[assignment]
    return next(r.values[:2] for r in frame.readings if r.channel == "truth")


def _ours() -> Take:
    import numpy as np

    from infra.cli.rover_frames import ROVER
    from streams.acting.fusion import SensorFusion

    processor = SensorFusion({"rover": ROVER})

    def take(record: "Record") -> "NDArray[np.float64]":
        (state,) = processor.take(record)
        state.to_bytes()
        return np.array(state.mean)

    return take


def _filter() -> Take:
    """Ours up to the mean: order of events, history and gates, no event made of it."""
    from infra.cli.rover_frames import ROVER
    from streams.acting.fusion.boot import Boot
    from streams.acting.fusion.filter import Filter

    boot = Boot(ROVER, Filter(ROVER))

    def take(record: "Record") -> "NDArray[np.float64]":
        boot.take(record.event)  # type: ignore[arg-type]
        return boot.belief.mean

    return take


def _filterpy() -> Take:
    """An extended Kalman filter as one writes it with filterpy: nine states, the same noise."""
    from infra.cli.filterpy_rover import FilterpyRover
    from infra.cli.rover_frames import ROVER

    rover = FilterpyRover(ROVER)

    def take(record: "Record") -> "NDArray[np.float64]":
        return rover.take(record.event)  # type: ignore[arg-type]

    return take


def _lines(figures: dict[str, Any]) -> Iterable[str]:
    yield f"{figures['frames']:,} frames of a rover, one core"
    for name in ("ours", "filter", "filterpy"):
        if found := figures[name]:
            yield (
                f"  {name:9}{found['frames_per_s']:>8,.0f} frames/s, "
                f"{found['rovers_at_200_hz']} rovers at 200 Hz, "
                f"p50 {found['frame_p50_us']:.0f} µs, p99 {found['frame_p99_us']:.0f} µs, "
                f"{found['rmse_m']:.3f} m from the truth"
            )
        else:
            yield "  filterpy is not installed: it comes with the development packages"
    if "ours_over_filterpy" in figures:
        yield f"  ours over filterpy's: {figures['ours_over_filterpy']:.2f}"
