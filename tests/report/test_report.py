"""The page: nothing a table says is ever markup, and what it shows is what the fit knows."""

import base64
import hashlib
import re
from datetime import date
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

import ranef as rf
from ranef.report.page import Page
from ranef.report.parts import Picture, Point, Section, Table, Text, cells

TAGS = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "h1",
        "p",
        "nav",
        "ol",
        "li",
        "a",
    ),
    *("main", "section", "h2", "pre", "code", "div", "sub", "table", "thead", "tbody", "tr", "th"),
    *("ul", "td", "figure", "figcaption", "strong", "img", "span", "script"),
}
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


class Reader(HTMLParser):
    """Every tag with its attributes, the text, and each script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = self.opened = ""
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.opened = tag

    def handle_endtag(self, tag):
        self.opened = ""

    def handle_data(self, data):
        if self.opened in self.inside:
            self.inside[self.opened].append(data)
        self.text += data


def test_a_fits_page_holds_what_the_fit_knows(hostile_page):
    fit, path = hostile_page
    read = Reader(path.read_text(encoding="utf-8"))
    assert {tag for tag, _ in read.tags} <= TAGS
    assert len(read.inside["script"]) == 1
    for tag, attributes in read.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("src", "href"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:image/png;base64,")), (tag, name)
    text = " ".join(read.text.split())
    for said in (
        "60 rows were read and 58 used",
        "Normal(",
        "Methods",
        "It took",
        "share(",
        "Point at a dot",
    ):
        assert said in text, said
    table = fit.summary()
    assert f"{table.loc['sigma', 'mean']:,.4g}" in text
    assert "point estimate" in text


def test_the_answer_comes_first_and_methods_last(hostile_page):
    fit, path = hostile_page
    page = path.read_text(encoding="utf-8")
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    checks = "Does the model describe the data?"
    expected = ["Answer", "Data", checks, "Effects", "Groups", "Parameters", "Methods"]
    assert titles == expected
    text = " ".join(Reader(page).text.split())
    slope = fit.posterior["<img src=x onerror=alert(1)>"].to_numpy()
    low, high = np.quantile(slope, [0.025, 0.975])
    assert f'higher by 1: y "<b> +{slope.mean():.2f}, 95% interval {low:.2f} to {high:.2f}.' in text
    assert "Verdict: " in text
    assert "about the computation, and not about the model" in text
    assert f"The rows came from a table in memory. This page was made on {date.today()}" in text
    assert "a fit with the seed 0" in text
    assert text.index("Verdict: ") < text.index("60 rows were read") < text.index("Normal(")


def test_distrust_is_said_before_the_numbers(hostile_page, monkeypatch):
    from ranef.check import Check, Symptom
    from ranef.report.answer import answer

    fit, _ = hostile_page
    good = Check((), ("the posterior by another method",))
    monkeypatch.setattr(rf.Fit, "check", lambda fit, quick=False: good)
    assert answer(fit)[0].kind == "sentences"
    assert answer(fit)[-1].text.startswith("Verdict: trust. That is: the numbers on this page are")
    bad = Check((Symptom("k-hat is 2", "it is off", "use nuts", "distrust"),), ())
    monkeypatch.setattr(rf.Fit, "check", lambda fit, quick=False: bad)
    first, second, third, *_ = answer(fit)
    assert first.text.startswith("Verdict: distrust. That is: do not use these numbers")
    assert second.text == "k-hat is 2: it is off; use nuts."
    assert third.kind == "sentences"


def test_the_file_of_the_rows_is_named(tmp_path, grouped):
    from ranef.report.answer import source

    pd.DataFrame(grouped)[["y", "x"]].to_csv(tmp_path / "scores.csv", index=False)
    fit = rf.Model("y ~ x").fit(tmp_path / "scores.csv", progress=False)
    assert source(fit) == "The rows are those of the file scores.csv."


def test_points_say_level_and_size(hostile_page):
    import json

    _, path = hostile_page
    read = Reader(path.read_text(encoding="utf-8"))
    pictures = [json.loads(a["data-points"]) for _, a in read.tags if "data-points" in a]
    assert len(pictures) == 3
    for points in pictures:
        assert len(points) == 6
        assert all(0 < x < 1 and 0 < y < 1 for x, y, _ in points)
        assert all(re.search(r": \d+ rows?, ", text) for _, _, text in points)
        assert sum("<script>alert(" in text for _, _, text in points) == 6


def test_the_policy_allows_the_pages_own_style_and_script_alone(hostile_page):
    _, path = hostile_page
    read = Reader(path.read_text(encoding="utf-8"))
    (policy,) = (a["content"] for t, a in read.tags if "Content-Security-Policy" in a.values())
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for kind in ("script", "style"):
        digest = hashlib.sha256("".join(read.inside[kind]).encode()).digest()
        assert f"{kind}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy


def test_every_kind_of_part_is_escaped():
    picture = Picture("p", EVIL, EVIL, b"png", 10, 10, (Point(0.5, 0.5, EVIL),))
    parts = [Text(EVIL), Table([EVIL], [[EVIL]], EVIL), picture]
    html = Page(EVIL, EVIL, [Section(EVIL, parts)]).html()
    read = Reader(html)
    assert {tag for tag, _ in read.tags} <= TAGS
    assert html.count("<script>") == 1
    assert read.text.count("<script>alert(1)</script>") >= 7


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    page = Page("t", "", [Section("s", [Text("\ud800 lone")])])
    assert page.write(tmp_path / "p.html").read_text(encoding="utf-8").count("? lone") == 1
    for bad in (tmp_path / "absent" / "p.html", tmp_path / "p.html" / "q.html", tmp_path):
        with pytest.raises(rf.FileError, match="cannot be written"):
            page.write(bad)
    assert [p.name for p in tmp_path.iterdir()] == ["p.html"]


def test_what_cannot_be_drawn_says_why(tmp_path):
    rng = np.random.default_rng(0)
    fit = rf.Model("y ~ 1").fit({"y": rng.normal(size=50)}, steps=50, progress=False)
    text = " ".join(Reader(fit.report(tmp_path / "p.html").read_text()).text.split())
    assert "not drawn, because 'y ~ 1' has no numeric predictor" in text
    assert "not drawn, because 'y ~ 1' has no predictor" in text


def test_numbers_have_four_digits():
    assert cells(["a", 1234.5678, 0.000123456, 3]) == ("a", "1,235", "0.0001235", "3")
