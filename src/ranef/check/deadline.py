"""The time limit of a check."""

import time
from dataclasses import dataclass, field


class OutOfTimeError(Exception):
    """Raised if the time limit is reached before a second opinion is complete."""


# Seconds needed at least to compile the density of a program and its gradient, which cannot be
# interrupted.
COMPILING = 2.0


@dataclass(frozen=True)
class Deadline:
    """A time limit that starts when the object is made.

    The time used is the wall-clock time or the processor time of this process, whichever is less.
    So other programs on a busy machine do not shorten a check.

    Attributes:
        seconds: the limit.
        began: wall-clock and processor time at the start, in seconds.
    """

    seconds: float
    began: tuple[float, float] = field(
        default_factory=lambda: (time.perf_counter(), time.process_time())
    )

    @property
    def left(self) -> float:
        """Seconds that are left; negative after the limit."""
        passed = time.perf_counter() - self.began[0], time.process_time() - self.began[1]
        return self.seconds - min(passed)

    def tick(self, needed: float = 0.0) -> None:
        """Raise if too little time is left; to be called between two steps of a computation.

        Args:
            needed: seconds that the next step takes at least, if it cannot be interrupted.

        Raises:
            OutOfTimeError: if fewer seconds than needed are left.
        """
        if self.left < needed:
            raise OutOfTimeError
