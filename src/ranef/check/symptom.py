"""What was seen of a fit, what it means, and what to do."""

from dataclasses import dataclass

# From the mildest to the gravest.
VERDICTS = ("trust", "unchecked", "caution", "distrust")


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
        looked: each second opinion that was taken, as a phrase; () where none could be had.
    """

    symptoms: tuple[Symptom, ...]
    looked: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """The gravest of the symptoms' weights.

        Without any it is "trust" if a second opinion was taken, and "unchecked" if none was.
        """
        mildest = "trust" if self.looked else "unchecked"
        return max((mildest, *(s.weight for s in self.symptoms)), key=VERDICTS.index)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The symptoms as sentences."""
        return tuple(str(symptom) for symptom in self.symptoms)

    def __str__(self) -> str:
        lines = [f"- {reason}" for reason in self.reasons]
        looked = "; ".join(self.looked) or "none"
        none = "nothing speaks against this fit"
        return "\n".join([*(lines or [none]), f"second opinion: {looked}", self.verdict])

    __repr__ = __str__
