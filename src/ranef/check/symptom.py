"""What was seen of a fit, what it means, and what to do."""

from dataclasses import dataclass

VERDICTS = ("trust", "caution", "distrust")


@dataclass(frozen=True)
class Symptom:
    """What was seen.

    Attributes:
        sign: what it is, with its number.
        meaning: what it says of the fit.
        remedy: what to do.
        weight: the verdict that it alone would bring; "trust" for what is only worth knowing.
    """

    sign: str
    meaning: str
    remedy: str
    weight: str

    def __str__(self) -> str:
        return f"{self.sign}: {self.meaning}; {self.remedy}"


@dataclass(frozen=True)
class Check:
    """What `Fit.check` returns; it prints as a few lines.

    Attributes:
        symptoms: the gravest first.
    """

    symptoms: tuple[Symptom, ...]

    @property
    def verdict(self) -> str:
        """The gravest of the symptoms' weights, "trust" without any."""
        return max((s.weight for s in self.symptoms), key=VERDICTS.index, default="trust")

    @property
    def reasons(self) -> tuple[str, ...]:
        """The symptoms as sentences."""
        return tuple(str(symptom) for symptom in self.symptoms)

    def __str__(self) -> str:
        lines = [f"- {reason}" for reason in self.reasons]
        return "\n".join([*(lines or ["nothing speaks against this fit"]), self.verdict])

    __repr__ = __str__
