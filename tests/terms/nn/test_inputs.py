"""Arguments of nn() and the inputs of a network."""

import numpy as np
import pytest

import ranef as rf
from ranef.data.tables import read
from ranef.formula.formula import Formula
from ranef.terms.nn import inputs
from ranef.terms.nn.inputs import Argument, Input

X, Z = Argument("x"), Argument("z")
KIND = Argument("kind", (), ("a", "b"))
IMAGE = Argument("image", (8, 8))
CODES = Argument("codes", (64,))


def matched(entries, arguments):
    listed = [Input(*entry) for entry in entries]
    feeds = inputs.match("f", "nn(..., net=f)", listed, arguments)
    return [(feed.arguments, feed.shape) for feed in feeds]


@pytest.mark.parametrize(
    ("entries", "arguments", "expected"),
    [
        # One input takes all, side by side.
        ([("a", (2,))], [X, Z], [((0, 1), (2,))]),
        ([("a", (None,))], [X, Z], [((0, 1), (2,))]),
        ([("a", ())], [X], [((0,), ())]),
        ([("a", (1,))], [X], [((0,), (1,))]),
        ([("a", (66,))], [X, IMAGE, Z], [((0, 1, 2), (66,))]),
        ([("a", ())], [KIND], [((0,), ())]),
        ([("a", (2,))], [KIND, KIND], [((0, 1), (2,))]),
        # An array keeps its shape, but for a last axis of one, or to and from a vector.
        ([("a", (8, 8))], [IMAGE], [((0,), (8, 8))]),
        ([("a", (8, 8, 1))], [IMAGE], [((0,), (8, 8, 1))]),
        ([("a", (None, 8))], [IMAGE], [((0,), (8, 8))]),
        ([("a", (64,))], [IMAGE], [((0,), (64,))]),
        ([("a", (8, 8, 1))], [CODES], [((0,), (8, 8, 1))]),
        # Several take them in order, one each or as many as fill their width.
        ([("a", (1,)), ("b", (1,))], [X, Z], [((0,), (1,)), ((1,), (1,))]),
        ([("a", (2,)), ("b", (8, 8, 1))], [X, Z, IMAGE], [((0, 1), (2,)), ((2,), (8, 8, 1))]),
        ([("a", (None,)), ("b", (1,))], [X, Z], [((0,), (1,)), ((1,), (1,))]),
        ([("a", (1,)), ("b", ())], [X, KIND], [((0,), (1,)), ((1,), ())]),
        # A name of its own goes before order.
        ([("z", (1,)), ("x", (1,))], [X, Z], [((1,), (1,)), ((0,), (1,))]),
        ([("n", (2,)), ("kind", ())], [KIND, X, Z], [((1, 2), (2,)), ((0,), ())]),
    ],
)
def test_arguments_are_matched_to_inputs(entries, arguments, expected):
    assert matched(entries, arguments) == expected


@pytest.mark.parametrize(
    ("entries", "arguments", "said"),
    [
        ([("a", (3,))], [X, Z], r"expects input of shape \(None, 3\) .* gives 2 columns"),
        ([("a", (8, 4, 2))], [IMAGE], r"\(None, 8, 4, 2\) .* gives image of shape \(8, 8\)"),
        ([("a", (4, 16))], [IMAGE], r"gives image of shape \(8, 8\)"),
        ([("a", (2,))], [X, KIND], "gives the levels of kind and numbers to one input"),
        ([("a", (2,)), ("b", (1,))], [X, Z], r"input 'b' \(2 of 2\) .* gives it nothing"),
        ([("a", (1,)), ("b", (1,))], [X, Z, Z], r"input 'b' \(2 of 2\) .* gives it z, z"),
        ([("a", (2,)), ("b", (1,))], [X, IMAGE], r"shape \(None, 2\) at its input 'a' \(1 of 2\)"),
        ([("x", (2,)), ("b", (1,))], [X, Z], r"shape \(None, 2\) at its input 'x' .* gives it x;"),
        ([("a", (2,)), ("b", ())], [X, KIND], r"at its input 'a' \(1 of 2\) .* gives it x;"),
    ],
)
def test_what_cannot_be_matched_is_said_in_a_sentence(entries, arguments, said):
    with pytest.raises(rf.OptionError, match=said):
        matched(entries, arguments)


def learned(formula: str, table: dict):
    (call,) = [c for c in Formula.parse(formula).predictors[""] if c.kind == "nn"]
    frame = read(table)
    return call.arguments, inputs.finish(inputs.scan(None, call.arguments, frame), call.arguments)


def test_levels_are_coded_from_one_and_others_are_zero():
    table = {"y": np.zeros(4), "k": np.array(["b", "10", "a", "b"]), "h": np.array([7, 30, 7, 9])}
    expressions, arguments = learned("y ~ nn(k, C(h), hidden=[2])", table)
    assert [a.levels for a in arguments] == [("10", "a", "b"), ("7", "9", "30")]
    new = read({"k": np.array(["a", "c", "10"]), "h": np.array([30, 9, 8])})
    (k, new_k), (h, new_h) = (
        inputs.values(a, e, new, {}) for a, e in zip(arguments, expressions, strict=True)
    )
    np.testing.assert_array_equal(k, [2, 0, 1])
    np.testing.assert_array_equal(h, [3, 2, 0])
    assert (new_k, new_h) == (("c",), ("8",))


def test_new_rows_have_the_shape_of_training():
    expressions, (image,) = learned(
        "y ~ nn(a, hidden=[2])", {"y": np.zeros(3), "a": np.ones((3, 4))}
    )
    with pytest.raises(rf.DataError, match=r"shape \(5,\) here and had \(4,\) in training"):
        inputs.values(image, expressions[0], read({"a": np.ones((2, 5))}), {})


def test_functions_of_arrays_keep_their_shape():
    _, (image,) = learned(
        "y ~ nn(I(a / 255), hidden=[2])", {"y": np.zeros(3), "a": np.ones((3, 4))}
    )
    assert image == Argument("I(a / 255)", (4,))
