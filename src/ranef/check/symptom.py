"""The result of a check: symptoms and the verdict that they lead to."""

from dataclasses import dataclass

from ranef import markup

# The verdicts, from the mildest to the gravest.
VERDICTS = ("trust", "unchecked", "caution", "distrust")


@dataclass(frozen=True)
class Symptom:
    """Something that a check has found.

    Attributes:
        sign: what was found, with its number.
        meaning: what follows for the fit.
        remedy: what the user can do.
        weight: the verdict that the symptom alone would lead to; "trust" if it is only worth
            knowing.
    """

    sign: str
    meaning: str
    remedy: str
    weight: str

    def __str__(self) -> str:
        return f"{self.sign}: {self.meaning}; {self.remedy}"


@dataclass(frozen=True)
class Check:
    """What `Fit.check` returns. It prints as a few lines.

    Attributes:
        symptoms: what was found, the gravest first.
        looked: each second opinion that was taken, as a phrase; () if there was none.
    """

    symptoms: tuple[Symptom, ...]
    looked: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """The gravest of the symptoms' weights.

        It is at least "unchecked" if no second opinion was taken.
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

    def _repr_html_(self) -> str:
        looked = "; ".join(self.looked) or "none"
        found = markup.listed(self.reasons) or markup.lines("nothing speaks against this fit")
        return markup.lines(f"verdict: {self.verdict}", f"second opinion: {looked}") + found
