"""Ctrl-C waits for set-ups and clean-ups, and for nothing else."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from demo.interrupts import Interrupts


@contextmanager
def interrupted(
    events: list[str], *, entering: bool = False, leaving: bool = False
) -> Iterator[None]:
    if entering:
        os.kill(os.getpid(), signal.SIGINT)
    events.append("entered")
    try:
        yield
    finally:
        if leaving:
            os.kill(os.getpid(), signal.SIGINT)
        events.append("left")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_in_the_open_raises_at_once(number: signal.Signals) -> None:
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


def test_signal_while_entering_is_raised_inside_and_the_context_is_left() -> None:
    events: list[str] = []

    def enter_and_work(interrupts: Interrupts) -> None:
        with interrupts.shield(interrupted(events, entering=True)):
            events.append("inside")
            interrupts.check()
            events.append("never")

    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        enter_and_work(interrupts)
    assert events == ["entered", "inside", "left"]


def test_signal_while_leaving_lets_the_clean_up_end() -> None:
    events: list[str] = []
    with Interrupts() as interrupts:
        with interrupts.shield(interrupted(events, leaving=True)):
            events.append("inside")
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert events == ["entered", "inside", "left"]


def test_pending_signal_keeps_the_next_context_from_being_entered() -> None:
    events: list[str] = []
    with Interrupts() as interrupts:
        with interrupts.shield(interrupted(events, leaving=True)):
            pass
        with pytest.raises(KeyboardInterrupt), interrupts.shield(interrupted(events)):
            events.append("never")
    assert events == ["entered", "left"]


def test_impatient_second_signal_does_not_cut_the_clean_up() -> None:
    events: list[str] = []
    with (
        Interrupts() as interrupts,
        pytest.raises(KeyboardInterrupt),
        interrupts.shield(interrupted(events, leaving=True)),
    ):
        os.kill(os.getpid(), signal.SIGINT)
    assert events == ["entered", "left"]


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
