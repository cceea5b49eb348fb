"""The time that a check may take."""

import time
from dataclasses import dataclass, field


class OutOfTimeError(Exception):
    """The time is over before a second opinion was complete."""


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

    def tick(self) -> None:
        """Called between two steps of a computation.

        Raises:
            OutOfTimeError: once the time is over.
        """
        if self.left < 0:
            raise OutOfTimeError
