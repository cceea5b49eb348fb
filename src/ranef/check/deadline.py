"""The time that a check may take."""

import time
from dataclasses import dataclass, field


class OutOfTimeError(Exception):
    """The time is over before a second opinion was complete."""


# Seconds that it takes at least to compile the density of a program and its gradient. Nothing
# interrupts it.
COMPILING = 2.0


@dataclass(frozen=True)
class Deadline:
    """A number of seconds of work from now on.

    Those count that pass, or those of the processor where these are fewer: other programs on a busy
    machine take nothing from a check.

    Attributes:
        seconds: how many.
        began: readings of the clock and of the processor's time when they began.
    """

    seconds: float
    began: tuple[float, float] = field(
        default_factory=lambda: (time.perf_counter(), time.process_time())
    )

    @property
    def left(self) -> float:
        """Seconds that are left; negative once they are over."""
        passed = time.perf_counter() - self.began[0], time.process_time() - self.began[1]
        return self.seconds - min(passed)

    def tick(self, needed: float = 0.0) -> None:
        """Called between two steps of a computation.

        Args:
            needed: seconds that the next step takes at least, where it cannot be interrupted.

        Raises:
            OutOfTimeError: once that is not left.
        """
        if self.left < needed:
            raise OutOfTimeError
