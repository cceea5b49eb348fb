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
    """A number of seconds from now on.

    Attributes:
        seconds: how many.
        began: the clock's reading when they began.
    """

    seconds: float
    began: float = field(default_factory=time.perf_counter)

    @property
    def left(self) -> float:
        """Seconds that are left; negative once they are over."""
        return self.began + self.seconds - time.perf_counter()

    def tick(self, needed: float = 0.0) -> None:
        """Called between two steps of a computation.

        Args:
            needed: seconds that the next step takes at least, where it cannot be interrupted.

        Raises:
            OutOfTimeError: once that is not left.
        """
        if self.left < needed:
            raise OutOfTimeError
