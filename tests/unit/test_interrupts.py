import os
import signal
import threading
from pathlib import Path

import pytest

from infra.embedded import process
from infra.embedded.process import ProcessId
from infra.embedded.stack import Stack
from infra.embedded.state import ServerState, StackState, read_state
from infra.interrupts import interrupts_wait, signals_stop
from infra.settings import Settings, state_file


def test_an_interrupt_comes_after_what_must_be_done() -> None:
    done, before = list[str](), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interrupts_wait():
        signal.raise_signal(signal.SIGINT)
        done.append("first")
    assert done == ["first"] and signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_also_who_is_just_about_to_wait(number: signal.Signals) -> None:
    with signals_stop() as stop:
        with stop._cond:  # type: ignore[attr-defined]
            signal.raise_signal(number)
        assert stop.wait(10)


def test_afterwards_signals_mean_what_they_meant() -> None:
    with signals_stop() as outer:
        with signals_stop() as inner:
            signal.raise_signal(signal.SIGINT)
            assert inner.wait(10)
        assert not outer.is_set()
        signal.raise_signal(signal.SIGINT)
        assert outer.wait(10)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_without_an_interrupt_nothing_is_raised_in_any_thread() -> None:
    done = list[str]()

    def work() -> None:
        with interrupts_wait():
            done.append(threading.current_thread().name)

    thread = threading.Thread(target=work, name="other")
    thread.start()
    thread.join(10)
    work()
    assert done == ["other", threading.main_thread().name]


def test_a_server_that_was_launched_amid_a_ctrl_c_is_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched, launch = list[ProcessId](), process.launch

    def interrupted(command: list[str], log: Path, environ: dict[str, str]) -> ProcessId:
        signal.raise_signal(signal.SIGINT)
        launched.append(launch(["/bin/sleep", "60"], log, dict(os.environ)))
        return launched[0]

    monkeypatch.setattr(process, "launch", interrupted)
    stack = Stack(Settings(state_dir=tmp_path))
    kafka = stack._server("kafka")
    state = StackState(servers={"kafka": ServerState(address="h:1", ports={}, version="4")})
    try:
        with pytest.raises(KeyboardInterrupt):
            stack._launch(kafka, [], state, print)
        assert read_state(state_file(stack.config), print).servers["kafka"].pid == launched[0].pid
    finally:
        process.kill(launched[0])
