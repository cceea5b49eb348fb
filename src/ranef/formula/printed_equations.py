"""Equations as a list of texts that a notebook shows as mathematics."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ranef.formula.equation import Line, Sub, plain

# Signs of equations as LaTeX writes them, and characters that mean something else to it.
_SIGNS = {
    **{"β": r"\beta ", "γ": r"\gamma ", "Δ": r"\Delta ", "ε": r"\varepsilon ", "η": r"\eta "},
    **{"κ": r"\kappa ", "λ": r"\lambda ", "μ": r"\mu ", "ν": r"\nu ", "π": r"\pi ", "ρ": r"\rho "},
    **{"σ": r"\sigma ", "Σ": r"\Sigma ", "τ": r"\tau ", "θ": r"\theta ", "φ": r"\phi "},
    **{"α": r"\alpha ", "ω": r"\omega ", "ℓ": r"\ell ", "²": "^2", "·": r"\cdot ", "≤": r"\le "},
    **{"→": r"\to ", "∞": r"\infty ", "∫": r"\int ", "−": "-", "⁻¹": "^{-1}", "√": r"\surd "},
    **{"×": r"\times ", "ψ": r"\psi ", " ": r"\ ", "<": r"\lt ", ">": r"\gt "},
    **{"~": r"\sim ", "\\": r"\backslash ", "^": r"\wedge ", "{": r"\{", "}": r"\}"},
    **{"_": r"\_", "#": r"\#", "$": r"\$", "%": r"\%", "&": r"\&"},
}
_SIGN = re.compile("|".join(map(re.escape, sorted(_SIGNS, key=len, reverse=True))))
# A word of at least two letters, which stands upright.
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9]+")


class Equations(list[str]):
    """The equations of a model, one text each, with subscripts written as ``_{...}``.

    They print one a line, and a notebook shows them as mathematics.
    """

    def __init__(self, lines: Sequence[Line]) -> None:
        super().__init__(plain(line) for line in lines)
        self._lines = tuple(lines)

    def __str__(self) -> str:
        return "\n".join(self)

    def __reduce__(self) -> tuple[type[Equations], tuple[Sequence[Line]]]:
        return Equations, (self._lines,)

    def _repr_latex_(self) -> str:
        rows = r" \\ ".join(f"& {latex(line)}" for line in self._lines)
        return rf"$$\begin{{aligned}} {rows} \end{{aligned}}$$"


def latex(line: Line) -> str:
    """An equation in LaTeX: words upright, subscripts below, nothing taken as a command."""
    return "".join(_below(part.text) if isinstance(part, Sub) else _beside(part) for part in line)


def _below(text: str) -> str:
    """A subscript; names of columns stand upright, with their spaces."""
    if len(text) == 1 and text.isalnum():
        return f"_{{{text}}}"
    return rf"_{{\mathrm{{{_escaped(text)}}}}}"


def _beside(text: str) -> str:
    """Text on the line, with its words upright and its signs as commands."""
    parts = []
    end = 0
    for word in _WORD.finditer(text):
        parts += [_escaped(text[end : word.start()]), rf"\mathrm{{{word[0]}}}"]
        end = word.end()
    return "".join([*parts, _escaped(text[end:])])


def _escaped(text: str) -> str:
    """Signs as commands, and spaces kept."""
    return _SIGN.sub(lambda found: _SIGNS[found[0]], text)
