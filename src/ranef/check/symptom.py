"""The result of a check: symptoms and the verdict that they lead to."""

from dataclasses import dataclass

from ranef import markup

# The verdicts, from the mildest to the gravest.
VERDICTS = ("trust", "unchecked", "caution", "distrust")
# What the verdict is about, as a check prints it.
_SUBJECT = (
    "the verdict is on the computation of the posterior; how well the model suits the data is for "
    "loo() and predictive checks to say"
)


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
        notes: what was found about the model rather than the computation, such as counts that vary
            more than the family allows. Notes do not change the verdict.
    """

    symptoms: tuple[Symptom, ...]
    looked: tuple[str, ...]
    notes: tuple[Symptom, ...] = ()

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
        lines = [f"- {reason}" for reason in self.reasons] or ["nothing speaks against this fit"]
        lines += [f"- about the model: {note}" for note in self.notes]
        looked = "; ".join(self.looked) or "none"
        return "\n".join([*lines, f"second opinion: {looked}", _SUBJECT, self.verdict])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        looked = "; ".join(self.looked) or "none"
        found = markup.listed(self.reasons) or markup.lines("nothing speaks against this fit")
        return markup.lines(f"verdict: {self.verdict}", f"second opinion: {looked}") + found
