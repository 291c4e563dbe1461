"""How a signal ends a command: the work is asked to stop, and leaves nothing behind."""

import signal
from types import FrameType


class Stop:
    """What `pool.limits` asks, and a signal answers.

    The first one raises nothing where the program happens to be. Between two lines of a library that would leave what
    it holds there, such as the lock of Numba's compiler, for which another thread then waits for ever. A second one
    does, for who cannot wait.
    """

    def __init__(self) -> None:
        self.signal = 0

    def __call__(self) -> bool:
        """Whether a signal was heard."""
        return self.signal != 0

    @property
    def code(self) -> int:
        """The exit code, as shells report signals."""
        return 128 + (self.signal or signal.SIGINT)

    def listen(self) -> None:
        """Hear of an interruption and of a termination from now on, unless the program was started to ignore them."""
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number
