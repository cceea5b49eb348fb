"""Recognises and parses numbers among the texts of a column."""

import re

import pyarrow as pa
from numpy.typing import NDArray

from ranef.data.array_columns import ArrowColumn, pc, to_numpy
from ranef.numerics.shapes import Bool

# Texts that stand for a missing value in a column of numbers of an untyped file.
NOT_A_NUMBER = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", ".")

_NUMBER = r"^[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|inf|Inf|INF)$"
# A number as written for people, with a currency sign, thousands separators or a per cent sign.
FORMATTED_NUMBER = re.compile(
    r"\(?[+-]?\s?[$€£¥]?\s?[+-]?(\d{1,3}([,.'’\s]\d{3})+|\d+)?([.,]\d+)?([eE][+-]?\d+)?"
    r"\s?[%‰$€£¥]?\)?"
)


def parse_numbers(values: ArrowColumn) -> ArrowColumn:
    """Texts as numbers; null for a text that stands for a missing value."""
    texts = pc.utf8_trim_whitespace(values.cast(pa.string()))
    blank = pc.is_in(texts, pa.array(NOT_A_NUMBER))
    texts = pc.if_else(blank, pa.scalar(None, pa.string()), texts)
    return pc.cast(texts, pa.float64())


def not_numbers(values: ArrowColumn) -> Bool[NDArray, "n"]:
    """True for a text that is neither a number nor stands for a missing value."""
    texts = pc.utf8_trim_whitespace(values.cast(pa.string()))
    number = pc.match_substring_regex(texts, _NUMBER).fill_null(False)
    return ~to_numpy(number, bool) & ~says_nothing(values)


def says_nothing(values: ArrowColumn) -> Bool[NDArray, "n"]:
    """True for null and for a text that stands for a missing value."""
    texts = pc.utf8_trim_whitespace(values.cast(pa.string()))
    return to_numpy(pc.is_in(texts, pa.array(NOT_A_NUMBER)).fill_null(True), bool) | to_numpy(
        values.is_null(), bool
    )
