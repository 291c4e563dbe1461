"""Signals: the first is a request that the work answers, the second is an end."""

import itertools
import signal

import pytest

from quantlab.cli.stopping import Stop

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def handlers():
    """The handlers of the tests' own process, as they were."""
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_heard_and_the_second_interrupts(number, code):
    stop = Stop()
    stop.listen()
    assert not stop()
    signal.raise_signal(number)
    assert stop()
    assert stop.code == code
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_program_that_was_started_to_ignore_interruptions_does():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = Stop()
    stop.listen()
    signal.raise_signal(signal.SIGINT)
    assert not stop()


@pytest.mark.parametrize(
    "words",
    [
        ["info", "--stats"],
        ["info", "--findings"],
        ["sweep", "--dtype", "int4"],
        ["sweep", "--dtype", "int4", "--dry-run"],
        ["quantize", "--config", "w4_g32", "-o", "out.npz"],
        ["export", "--config", "w4_g32", "-o", "out.safetensors"],
    ],
    ids=" ".join,
)
def test_every_command_ends_at_its_next_look(words, run, model, tmp_path, monkeypatch):
    """At the first look that the work takes, at the next ones and then at some, until it takes fewer."""
    monkeypatch.chdir(tmp_path)
    command, *options = words
    for look in itertools.chain(range(1, 20), (20 + i**2 for i in itertools.count())):
        stop = StoppedAt(look)
        monkeypatch.setattr("quantlab.cli.Stop", lambda stop=stop: stop)
        ran = run(command, model, *options)
        if stop.left > 0:
            break
        assert (ran.code, ran.out) == (130, "")
        assert ran.err.splitlines()[-1] == "quantlab: interrupted; no half-written file is left"
        assert list(tmp_path.glob(".*")) == []
    assert ran.code == 0
    assert look > 5


class StoppedAt(Stop):
    """As if Ctrl-C had been pressed shortly before a look."""

    def __init__(self, look):
        super().__init__()
        self.left = look

    def __call__(self):
        self.left -= 1
        return self.left <= 0
