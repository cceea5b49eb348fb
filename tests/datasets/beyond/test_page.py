"""The page "beyond the post": small tables of known truth, a formula and a picture each."""

import re

import numpy as np
import pytest

from ranef.datasets.beyond import page as beyond
from ranef.datasets.beyond import tables
from ranef.formula.formula import Formula
from ranef.report.page import Page
from ranef.report.parts import Picture


@pytest.fixture(scope="module")
def examples():
    return {example.name: example for example in beyond.examples(seed=1)}


def test_each_formula_finds_its_columns(examples):
    assert len(examples) == 6
    for example in examples.values():
        words = set(re.findall(r"[a-z]+", example.formula))
        assert str(Formula.parse(example.formula).response) in example.known.rows
        assert set(example.known.rows) <= words
        lengths = {len(column) for column in example.known.rows.values()}
        assert len(lengths) == 1


def test_a_section_has_the_verdict_and_a_picture(examples):
    section = examples["slopes"].section(seed=0, progress=False)
    (picture,) = section.pictures()
    assert isinstance(picture, Picture)
    assert picture.png.startswith(b"\x89PNG")
    assert "Verdict: trust." in [part.text for part in section.parts if part.kind == "text"]


def test_factors_predict_better_than_intercepts(examples):
    figure = examples["factors"]
    titles = []

    def kept(fit, known):
        drawn = figure.draw(fit, known)
        titles.extend(axes.get_title(loc="left") for axes in drawn.axes)
        return drawn

    section = beyond.Example(**{**vars(figure), "draw": kept}).section(seed=0, progress=False)
    assert len(section.pictures()) == 1
    plain, factors = (float(title.rpartition(" ")[2]) for title in titles)
    assert factors < 0.3 * plain


def test_what_is_missing_is_missing_where_prices_are_high():
    known = tables.houses(seed=3)
    gaps = np.isnan(known.rows["area"])
    assert 0.2 < gaps.mean() < 0.4
    price = known.rows["price"]
    assert price[gaps].mean() > price[~gaps].mean() + 0.5
    np.testing.assert_array_equal(known.truth["areas"][~gaps], known.rows["area"][~gaps])


def test_a_page_names_those_beside_it():
    page = Page("One", "", [], {"other.html": "Another <page>"}).html()
    assert '<a href="other.html">Another &lt;page&gt;</a>' in page
