"""The page in a browser: opened from the file system, offline, pointed at, clicked, printed."""

import json
import os
import shutil

import pytest
from playwright.sync_api import sync_playwright

from ranef.report.page import Page
from ranef.report.parts import Section, Table, cells

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("RANEF_REQUIRE_BROWSER"):
            pytest.fail("no Chromium is installed")
        pytest.skip("no Chromium is installed to open the page in")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, hostile_page):
    """A page of some width, and what it asked for and complained of."""
    _, path = hostile_page
    contexts = []

    def open_at(width: int, scheme: str = "light"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        contexts.append(context)
        page, seen = context.new_page(), []
        page.on("request", lambda r: seen.append(r.url))
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("dialog", lambda dialog: (seen.append("dialog"), dialog.dismiss()))
        page.goto(path.as_uri())
        return page, [s for s in seen if not s.startswith("data:image/png")], path.as_uri()

    yield open_at
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", [390, 1200])
def test_it_asks_for_nothing_and_complains_of_nothing(opened, width):
    page, seen, own = opened(width)
    assert seen == [own]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Nothing is cut, or has to be scrolled sideways to be read.
    wide = "e => [...e.querySelectorAll('.wide')].filter(w => w.scrollWidth > w.clientWidth)"
    assert page.locator("main").evaluate(f"e => ({wide})(e).map(w => w.ariaLabel)") == []
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert page.locator("main script, main b").count() == 0
    assert "<img src=x onerror=alert(1)>" in page.locator("main").inner_text()


def test_a_table_of_small_numbers_fits_a_phone(browser, tmp_path):
    head = ("parameter", "mean", "sd", "2.5%", "97.5%")
    row = cells(["hours:kind[house]", -0.000012345, 0.00045671, -0.0012345, -0.00098765])
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto(
        Page("t", "", [Section("s", [Table(head, [row])])]).write(tmp_path / "p.html").as_uri()
    )
    assert page.evaluate(
        "[...document.querySelectorAll('.wide')].every(w => w.scrollWidth <= w.clientWidth)"
    )
    page.close()


def test_a_point_answers_on_hover_and_a_click_keeps_it(opened):
    page, seen, own = opened(1200)
    picture = page.locator("[data-points]").first
    picture.scroll_into_view_if_needed()
    points = json.loads(picture.get_attribute("data-points"))
    box, tip = picture.locator("img").bounding_box(), picture.locator(".tip")

    def at(i):
        return box["x"] + points[i][0] * box["width"], box["y"] + points[i][1] * box["height"]

    assert tip.is_hidden()
    for i in (0, 3):
        page.mouse.move(*at(i))
        assert tip.text_content() == points[i][2]
    page.mouse.click(*at(3))
    page.mouse.move(5, 5)
    assert tip.is_visible()
    assert tip.text_content() == points[3][2]
    page.mouse.click(*at(3))
    page.mouse.move(5, 5)
    assert tip.is_hidden()
    page.mouse.click(*at(0))
    picture.focus()
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    page.keyboard.press("ArrowRight")
    assert tip.text_content() == points[0][2]
    assert seen == [own]


def test_the_dots_lie_where_the_points_say(opened):
    """At each point of the shrinkage picture the pixel is not paper."""
    page, _, _ = opened(1200)
    shades = page.evaluate(
        """() => {
          const picture = document.querySelector("[data-points]");
          const image = picture.querySelector("img");
          const canvas = document.createElement("canvas");
          [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
          const context = canvas.getContext("2d");
          context.drawImage(image, 0, 0);
          return JSON.parse(picture.dataset.points).map(([x, y]) => [
            ...context.getImageData(x * canvas.width, y * canvas.height, 1, 1).data]);
        }"""
    )
    assert all(min(pixel[:3]) < 200 for pixel in shades)


def test_contents_lead_to_sections_and_dark_is_dark(opened):
    page, _, _ = opened(390, "dark")
    page.locator("nav a", has_text="Groups").click()
    assert page.url.endswith("#part-5")
    assert page.locator("#part-5 h2").inner_text() == "Groups"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 28)"


def test_it_prints(opened):
    page, _, _ = opened(1200)
    assert page.pdf(format="A4")[:5] == b"%PDF-"
