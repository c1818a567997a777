"""What must stay on the robot stays there, and what does not exist yet is said so."""

import pytest

from schemas.robot_file import Placement
from streams.acting.placement import PlacementError, places


def placed(**document: object) -> dict[str, str]:
    return dict(places(Placement.model_validate(document)))


def test_all_on_the_robot() -> None:
    assert set(placed().values()) == {"robot"}
    assert set(placed(at={"fusion": "robot"})) >= {"actuator", "safety", "fusion", "controller"}


@pytest.mark.parametrize("profile", ["robot_edge", "robot_cloud", "multi_robot_fleet"])
def test_other_profiles_are_refused_until_they_exist(profile: str) -> None:
    with pytest.raises(PlacementError, match=r"does not exist yet; there is single_robot"):
        placed(profile=profile)


@pytest.mark.parametrize("name", ["actuator", "safety"])
@pytest.mark.parametrize("profile", ["single_robot", "robot_edge"])
@pytest.mark.parametrize("place", ["edge", "cloud"])
def test_loop_and_safety_stay_on_the_robot(name: str, profile: str, place: str) -> None:
    with pytest.raises(PlacementError, match=f"{name} off the robot: a stop must not wait"):
        placed(profile=profile, at={name: place})


def test_others_have_nowhere_else_to_run_yet() -> None:
    with pytest.raises(PlacementError, match="fusion: edge"):
        placed(at={"fusion": "edge"})
