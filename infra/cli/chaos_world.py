"""What a fault run keeps busy: a language model and an arm that learn, and the arm that acts.

Missions are short and follow one another, so that the provider and the orchestrator, too, always
have something to do. All versions are kept, for at the end the whole chain is proved.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from schemas.missions import Mission, Reach, RobotMission, parse_mission

WORDS, ARM = "words", "arm"
POLICIES = (WORDS, ARM)
ROBOT, WORLD, MOVES = "arm-1", "lab", "moves"
SCALE: Mapping[str, int] = {"sampler": 2, "trainer": 2}
TARGETS: Mapping[str, Sequence[str]] = {
    "provider": ["provider-0"],
    "orchestrator": ["orchestrator-0"],
    "sampler": [f"sampler-{i}@{policy}" for policy in POLICIES for i in range(2)],
    "trainer": [f"trainer-{i}@{policy}" for policy in POLICIES for i in range(2)],
    "aggregator": [f"aggregator-0@{policy}" for policy in POLICIES],
    "evaluator": [f"evaluator-0@{policy}" for policy in POLICIES],
    "gate": [f"gate-0@{ARM}"],
    "world": [f"world-{WORLD}"],
    **{kind: [f"{kind}@{ROBOT}"] for kind in ("actuator", "link", "fusion", "controller")},
}
"""The processes of each kind, as the supervisor names them."""
_LETTERS = "abcdefghijklmnop"
_KEEP = {"last": 10, "every": 1}

_WORDS: Mapping[str, Any] = {
    "policy": WORDS,
    "model": {
        "new": {"alphabet": f"{_LETTERS}=", "layers": 1, "heads": 2, "width": 16, "positions": 8}
    },
    "rollout": {"group_size": 32, "max_tokens": 3, "problems_per_batch": 8},
    "training": {"groups_per_upload": 16, "uploads_per_step": 8, "staleness_max": 8},
    "max_in_flight": 256,
    "evaluate_every": 1,
    "keep": _KEEP,
}
_ARM: Mapping[str, Any] = {
    "policy": ARM,
    "model": {"mlp": {"hidden": [16, 16], "log_std": -0.3}},
    "problems": {
        "source": "gymnasium",
        "name": "producers.robots.envs:ReacherDelayed-v0",
        "args": {"make": {"action_delay": 1, "anywhere": True}, "success_return": -9},
        "size": 256,
        "heldout": 0.02,
    },
    "rollout": {"group_size": 4, "problems_per_batch": 4},
    "algorithm": {"name": "ppo", "settings": {"epochs": 2, "minibatch": 320, "gamma": 0.95}},
    "training": {
        "groups_per_upload": 4,
        "uploads_per_step": 6,
        "staleness_max": 8,
        "clip_norm": 0.5,
    },
    "max_in_flight": 48,
    "evaluate_every": 1,
    "keep": _KEEP,
}
_BUDGET: Mapping[str, int] = {WORDS: 2048, ARM: 576}
"""Problems of one mission, whole steps of them: a minute or so of work."""


def learning_mission(policy: str, number: int, folder: Path) -> Mission:
    """The so-manieth learning mission of a policy."""
    document: dict[str, Any] = dict({WORDS: _WORDS, ARM: _ARM}[policy])
    if policy == WORDS:
        document["problems"] = {
            "source": "jsonl",
            "name": str(_word_list(folder)),
            "prompt": "{word}=",
            "verifier": {"name": "positional"},
        }
    return parse_mission(
        {
            **document,
            "mission_id": f"{policy}-{number:03d}",
            "seed": number,
            "budget": {"problems": _BUDGET[policy]},
        }
    )


def robot_mission() -> RobotMission:
    """Have the arm act, under what is learnt."""
    return RobotMission(mission_id=MOVES, robots={ROBOT: Reach()}, policy=ARM)


def _word_list(folder: Path) -> Path:
    """All words of two letters, each to be spelt backward."""
    path = folder / "words.jsonl"
    if not path.exists():
        pairs = ((a, b) for a in _LETTERS for b in _LETTERS)
        items = (
            {"question": f"spell {a + b} backward", "word": a + b, "answer": b + a}
            for a, b in pairs
        )
        path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def robot_files(folder: Path) -> tuple[Path, Path]:
    """The files of the arm and of its world."""
    robot = {
        "robot_id": ROBOT,
        "driver": {"name": "simulated", "args": {"kind": "arm"}},
        "control_hz": 100,
        "frame_hz": 50,
        "fusion": {
            "filter": "joints",
            "channels": {
                "joints": {"kind": "joints", "std": [0.001, 0.001, 0.01, 0.01]},
                "target": {"kind": "held"},
                "reward": {"kind": "held"},
            },
            "process_std": {"angle_rad": 0.01, "velocity_radps": 100.0},
        },
        "safety": {"load": "busy"},
        "controller": {
            "tracker": "rest",
            "horizon_ms": 150,
            "policy": ARM,
            "observation": [
                *("cos_q1", "cos_q2", "sin_q1", "sin_q2", "target_x_m", "target_y_m"),
                *("dq1_radps", "dq2_radps", "tip_from_target_x_m", "tip_from_target_y_m"),
            ],
        },
    }
    world = {"name": WORLD, "seed": 7, "arms": {ROBOT: {}}}
    paths = folder / "arm.yaml", folder / f"{WORLD}.yaml"
    for path, document in zip(paths, (robot, world), strict=True):
        # JSON is YAML too.
        path.write_text(json.dumps(document, indent=2))
    return paths
