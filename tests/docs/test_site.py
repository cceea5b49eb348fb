"""The site of `make docs`: nothing remote, no dead link, and used in a browser, offline."""

import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from playwright.sync_api import sync_playwright

SITE = Path(__file__).parents[2] / "build" / "docs" / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# What a page loads by itself: tag to the attribute with the address.
LOADS = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
    "object": "data",
}
# Kinds of <link> that name a page and load nothing.
NAMES = {"canonical", "prev", "next", "index", "search", "up", "top", "author", "help", "copyright"}


class Page(HTMLParser):
    """The addresses that a page loads, those that it links to, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = {"", "top"}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        address = values.get(LOADS.get(tag, ""), "")
        if address and not (tag == "link" and values.get("rel", "") in NAMES):
            self.loads.append(address)
        self.loads += re.findall(r"url\(['\"]?([^'\")]+)", values.get("style", ""))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])


@pytest.fixture(scope="module")
def site() -> dict[Path, Page]:
    if not (SITE / "index.html").is_file():
        pytest.skip("the site is not built; `make docs` builds it")
    # The theme's folder has a template that is no page.
    pages = [path for path in sorted(SITE.rglob("*.html")) if "_static" not in path.parts]
    return {path: Page(path) for path in pages}


def test_pages_load_files_of_the_site_alone(site):
    remote = {
        (path.name, address)
        for path, page in site.items()
        for address in page.loads
        if re.match(r"(https?:)?//", address)
    }
    assert remote == set()
    for style in SITE.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", text), style.name


def test_links_within_the_site_lead_somewhere(site):
    dead = []
    for path, page in site.items():
        for link in [*page.links, *page.loads]:
            if re.match(r"[a-z]+:|//", link):
                continue
            file, _, anchor = link.partition("#")
            to = (path.parent / unquote(file.partition("?")[0])).resolve() if file else path
            known = site.get(to)
            if not to.is_file() or (known and unquote(anchor) not in known.anchors):
                dead.append((str(path.relative_to(SITE)), link))
    assert dead == []


def test_the_gallery_has_twenty_examples_with_a_picture_and_what_they_printed(site):
    pages = [p for p in site if p.parent.parent.name == "examples"]
    assert len(pages) >= 20
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert "sphx-glr-single-img" in text or "sphx-glr-multi-img" in text, path.name
        assert "sphx-glr-script-out" in text, path.name
        assert re.search(r"[Tt]ables? (is|are) (real|generated)|Both tables are generated", text), (
            path.name
        )


# What the sources of tables have published: page to numbers that it prints.
PUBLISHED = {
    "groups/dyestuff": ("1764.0", "2451.0"),  # REML, as lme4 prints it (Bates and others, 2015)
    "groups/nested": ("0.3652", "0.1611", "0.0067"),  # Snedecor and Cochran's analysis of variance
    "families/cheese": ("-3.35", "-1.71", "1.61"),  # McCullagh and Nelder, by maximum likelihood
    "families/doctors": ("rate ratio 1.42",),  # Breslow and Day (1987): exp(0.355)
    "families/light": ("26.21",),  # the mean of Newcomb's 66, in Stigler
}


@pytest.mark.parametrize(("page", "numbers"), PUBLISHED.items())
def test_an_example_prints_what_was_published(site, page, numbers):
    text = (SITE / "examples" / f"{page}.html").read_text(encoding="utf-8")
    printed = "".join(re.findall(r"sphx-glr-script-out.*?</pre>", text, re.DOTALL))
    assert [number for number in numbers if number not in printed] == []


def test_every_page_of_the_folder_is_in_the_contents(site):
    sources = {page.stem for page in (SITE.parents[2] / "docs").glob("*.md")}
    assert {path.stem for path in site if path.parent == SITE} >= sources


@pytest.fixture(scope="module")
def browser():
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("RANEF_REQUIRE_BROWSER"):
            pytest.fail("no Chromium is installed")
        pytest.skip("no Chromium is installed to open the site in")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, site):
    """Opens the first page at some width; the list is of what asked for more, or complained."""
    contexts = []

    def open_at(width: int):
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
        contexts.append(context)
        page, seen = context.new_page(), []
        page.on("request", lambda r: seen.append(r.url) if not _local(r.url) else None)
        page.on("console", lambda m: seen.append(m.text) if m.type in ("error", "warning") else 0)
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.goto((SITE / "index.html").as_uri())
        return page, seen

    yield open_at
    for context in contexts:
        context.close()


def _local(address: str) -> bool:
    return address.startswith(("file://", "data:", "blob:"))


@pytest.mark.parametrize("width", [390, 1200])
def test_the_first_page_shows_a_table_and_a_picture(opened, width):
    page, seen = opened(width)
    assert page.locator("h1").inner_text().startswith("ranef")
    assert page.locator("article").get_by_text("verdict: trust").count() == 1
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert seen == []


def test_no_page_is_cut_on_a_phone_or_lacks_a_picture(opened, site):
    page, seen = opened(390)
    for path in site:
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path.name
        assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0)"), path.name
    assert seen == []


def test_navigation_leads_to_a_picture_of_the_gallery(opened):
    page, seen = opened(1200)
    page.locator("header").get_by_role("link", name="Gallery").first.click()
    assert page.locator("h1").inner_text().startswith("Gallery")
    page.locator("a", has_text="Eight schools").or_(
        page.locator(".sphx-glr-thumbcontainer", has_text="eight schools")
    ).first.click()
    assert "eight schools" in page.locator("h1").inner_text().lower()
    picture = page.locator("article img.sphx-glr-single-img").first
    picture.scroll_into_view_if_needed()
    assert picture.evaluate("i => i.complete && i.naturalWidth > 300")
    assert page.locator(".sphx-glr-script-out").first.inner_text().find("1|school_sigma") >= 0
    assert seen == []


def test_search_finds_random_slopes_without_a_connection(opened):
    page, seen = opened(1200)
    page.keyboard.press("Control+k")
    page.locator("dialog input[name=q], .search-button__search-container input[name=q]").first.fill(
        "random slopes"
    )
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a")
    results = page.locator("#search-results li a").all_inner_texts()
    assert any("Random slopes" in text for text in results)
    page.locator("#search-results li a", has_text="Random slopes").first.click()
    assert "nights without sleep" in page.locator("h1").inner_text()
    assert seen == []


def test_the_reference_leads_from_a_name_to_its_docstring(opened):
    page, seen = opened(1200)
    page.locator("header").get_by_role("link", name="Reference").first.click()
    page.locator("article a", has_text="predict").first.click()
    assert page.url.endswith("#ranef.Fit.predict")
    assert page.locator("[id='ranef.Fit.predict']").is_visible()
    assert seen == []
