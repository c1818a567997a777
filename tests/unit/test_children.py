"""How long a supervisor waits before it starts a process again."""

from infra.children import BACK_OFF_S, STEADY_S, Child


def killed_after(lives_s: list[float]) -> list[float]:
    """The pause after each of these lives."""
    child, now_s, pauses = Child("sampler-0@p", "sampler", {}), 0.0, []
    for life_s in lives_s:
        child.started_s = now_s
        now_s += life_s
        child.note_exit(-9, now_s)
        pauses.append(child.next_start_s - now_s)
        now_s = child.next_start_s
    return pauses


def test_who_dies_at_once_waits_longer_each_time() -> None:
    assert killed_after([1.0] * 6) == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_who_is_killed_at_work_time_and_again_is_not_punished_for_it() -> None:
    assert killed_after([STEADY_S + 1] * 100) == [BACK_OFF_S[0]] * 100


def test_one_steady_life_makes_up_for_short_ones() -> None:
    assert killed_after([1.0, 1.0, STEADY_S + 1, 1.0]) == [1.0, 2.0, 0.5, 1.0]
