"""The written report in a real Chromium, without a window: nothing loaded or broken, and used with the keyboard."""

import os
import shutil
from datetime import UTC, datetime

import pytest

from common.files import write_json, write_text
from common.picture import CLASS_COLOURS
from experiments.base.results import Result, reported
from experiments.page import content, html, viewer
from tests.experiments.page.report_runs import everything, write_picture, write_predictions, write_run

WIDTHS = (360, 768, 1280)
LONG = "a_name_that_is_as_long_as_a_folder_can_be_" * 4
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
STAYS_WITHIN = "() => [document.documentElement.scrollWidth, window.innerWidth]"
BROKEN_IMAGES = "() => [...document.images].filter(i => !i.complete || i.naturalWidth === 0).map(i => i.alt)"
SKIPPED_HEADINGS = """() => [...document.querySelectorAll('h1, h2, h3, h4')].map(h => Number(h.tagName[1]))
    .filter((level, i, all) => i > 0 && level > all[i - 1] + 1)"""
UNNAMED = """() => [
    ...[...document.querySelectorAll('table')].filter(e => !e.caption?.textContent.trim()),
    ...[...document.querySelectorAll('thead th')].filter(e => e.scope !== 'col'),
    ...[...document.querySelectorAll('tbody th')].filter(e => e.scope !== 'row'),
    ...[...document.images].filter(e => !e.alt),
    ...[...document.querySelectorAll('canvas, svg[role=img]')].filter(e => !e.ariaLabel),
    ...[...document.querySelectorAll('input')].filter(e => !e.labels.length),
    ...[...document.querySelectorAll('section, nav, [role=region]')]
       .filter(e => !e.ariaLabel && !document.getElementById(e.getAttribute('aria-labelledby'))),
].map(e => e.outerHTML.slice(0, 80))"""
CUT = """() => [...document.querySelectorAll('.scroll')]
    .filter(e => e.scrollHeight > e.clientHeight + 1 || e.scrollWidth > e.clientWidth + 1)
    .map(e => e.ariaLabel)"""
CUT_RESULTS = """() => [...document.querySelectorAll('.scroll:has(.results)')]
    .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.ariaLabel)"""
# Contrast by WCAG 2.2: (lighter + 0.05) / (darker + 0.05) of relative luminances, the background from the nearest
# ancestor that has one; every element with text of its own.
LOW_CONTRAST = """() => {
    const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
    const luminance = colour => numbers(colour).slice(0, 3).map(c => c / 255)
        .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const background = e => {
        const colour = getComputedStyle(e).backgroundColor;
        return numbers(colour)[3] === 0 && e.parentElement ? background(e.parentElement) : colour;
    };
    const low = [];
    let seen = 0;
    for (const e of document.body.querySelectorAll('*')) {
        if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
        seen += 1;
        const [dark, light] = [luminance(getComputedStyle(e).color), luminance(background(e))].sort((a, b) => a - b);
        if ((light + 0.05) / (dark + 0.05) < 4.5) low.push(e.outerHTML.slice(0, 80));
    }
    return {low, seen};
}"""
# How many pixels of a plane have a class's colour over black or grey, and whether the plane was drawn at all.
COLOURED = """plane => {
    const canvas = document.querySelector(`#viewer-${plane}`);
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    let grey = 0, coloured = 0;
    for (let i = 0; i < pixels.length; i += 4) {
        const most = Math.max(pixels[i], pixels[i + 1], pixels[i + 2]);
        const least = Math.min(pixels[i], pixels[i + 1], pixels[i + 2]);
        if (most - least > 25) coloured += 1; else if (most > 25 && most < 230) grey += 1;
    }
    return {grey, coloured};
}"""
DRAWN = "() => document.querySelector('#viewer-axial').toDataURL()"
PLACES = "() => [...document.querySelectorAll('#viewer-form input[type=range]')].map(slider => Number(slider.value))"


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra test)")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        assert "GLIOMA_REQUIRE_BROWSER" not in os.environ, "a browser is required here, and none is on the path"
        pytest.skip(f"needs one of {', '.join(BROWSERS)} on the path")
    with sync_api.sync_playwright() as playwright:
        # Its sandbox refuses to run as root, as in a container; the page is our own.
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory, cohort):
    """A page with everything in it: all kinds of states, figures, pictures, viewers and very long names."""
    folder = tmp_path_factory.mktemp("report")
    runs, figures = folder / "runs", folder / "figures"
    write_picture(write_predictions(runs, cohort) / "figures" / "overlays.png", size=900)
    for experiment in ("unet3d", "mgmt_grid", "mgmt_ensemble"):
        write_run(runs, experiment, [*everything(experiment), Result(f"x.{LONG}", None, LONG, None, None, 3, True)])
    write_text(runs / "mgmt_ensemble" / "demo" / "verdicts.txt", f"{LONG}: a verdict.\n")
    write_text(write_run(runs, "cohort", []) / "summary.json", "[")
    status = {"experiment": "unet25d", "command": LONG, "state": "failed", "reason": LONG, "seconds": 1.0}
    write_json(runs / "run_all" / "status.json", [status])
    write_picture(figures / "1.png", size=900)
    write_text(figures / "2.svg", "<svg xmlns='http://www.w3.org/2000/svg' width='900' height='300'/>")
    drawn = {"title": "T", "caption": LONG, "state": "drawn", "reason": "", "command": "", "synthetic": True}
    missing = {"number": 3, "state": "missing", "reason": LONG, "command": LONG, "files": []}
    entries = [{**drawn, "number": number, "files": [file]} for number, file in ((1, "1.png"), (2, "2.svg"))]
    write_json(figures / "figures.json", [*entries, drawn | missing])
    path = folder / "index.html"
    found = content.gather(runs, figures)
    write_text(path, html.page(found, viewer.viewers(runs), made=datetime(2026, 3, 4, tzinfo=UTC)))
    return path


@pytest.fixture
def opened(browser, written):
    """Open the page at a width; afterwards nothing may have gone wrong in it and nothing been asked of the network."""
    pages, wrong = [], []

    def open_page(width=1280, **options):
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        pages.append(page)
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(request.url))
        page.on("request", lambda request: None if is_local(request.url) else wrong.append(request.url))
        page.goto(written.as_uri())
        return page

    def is_local(url):
        return url == written.as_uri() or url.startswith("data:image/")

    yield open_page
    for page in pages:
        page.close()
    assert wrong == []


def ready(page):
    """The page, its viewer drawn."""
    page.wait_for_function("() => document.querySelector('#viewer-form input[type=range]').ariaValueText")
    return page


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen_and_no_picture_is_broken(opened, width):
    page = opened(width)
    for detail in page.locator("details").all():
        detail.evaluate("element => { element.open = true; }")
    scrolled, inner = page.evaluate(STAYS_WITHIN)
    assert scrolled <= inner == width
    assert page.locator("img").count() == 5
    assert page.evaluate(BROKEN_IMAGES) == []
    assert ready(page).evaluate(STAYS_WITHIN)[0] <= width
    # Results are read without moving sideways: on a phone as blocks.
    assert width > 360 or page.evaluate(CUT_RESULTS) == []


def test_the_viewer_opens_on_the_prediction_with_the_truth_outlined_and_shows_either_or_neither(opened):
    page = ready(opened())
    assert page.locator("input[name=labels]:checked").get_attribute("value") == "both"
    shown = {}
    for value in ("both", "truth", "prediction", "none"):
        page.locator(f"input[name=labels][value={value}]").check()
        page.wait_for_timeout(50)
        shown[value] = page.evaluate(COLOURED, "axial"), page.evaluate(DRAWN)
    assert all(counts["grey"] > 1000 for counts, _ in shown.values())
    assert shown["truth"][0]["coloured"] > 50 < shown["prediction"][0]["coloured"]
    # The truth's outline lies beyond the prediction, which is the truth moved by one voxel.
    assert shown["both"][0]["coloured"] > shown["prediction"][0]["coloured"]
    assert shown["none"][0]["coloured"] == 0
    assert len({drawn for _, drawn in shown.values()}) == 4
    for name, colour in CLASS_COLOURS.items():
        assert page.locator(".key").get_by_text(name).locator("i").get_attribute("style") == f"background:{colour}"


def test_the_viewer_has_three_cases_and_four_contrasts(opened):
    page = ready(opened())
    page.locator("input[name=labels][value=none]").check()
    seen = set()
    for name in ("case", "contrast"):
        for choice in page.locator(f"input[name={name}]").all():
            choice.check()
            page.wait_for_timeout(150)
            seen.add(page.evaluate(DRAWN))
    assert len(seen) == 3 + 3  # the first contrast of the last case is seen twice


def test_the_viewer_is_used_with_keyboard_and_mouse(opened):
    page = ready(opened())
    slider = page.get_by_label("feet to head")
    before, drawn = page.evaluate(PLACES), page.evaluate(DRAWN)
    slider.press("ArrowRight")
    page.wait_for_timeout(50)
    assert page.evaluate(PLACES) == [before[0] + 1, *before[1:]]
    assert page.evaluate(DRAWN) != drawn
    page.locator("input[name=labels]:checked").press("ArrowRight")
    assert page.locator("input[name=labels]:checked").get_attribute("value") == "prediction"
    canvas = page.locator("#viewer-sagittal")
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] * 0.01, "y": box["height"] * 0.99})  # the front, the lowest slice
    page.wait_for_timeout(50)
    assert page.evaluate(PLACES) == [0, 0, before[2]]


def test_what_was_not_run_opens_where_a_link_leads_to_it(opened):
    page = opened()
    assert page.locator("#mgmt_backbones").is_hidden()
    page.locator("#summary a[href='#mgmt_backbones']").click()
    assert page.locator("#mgmt_backbones").is_visible()


def test_the_forest_plot_stands_where_its_numbers_are(opened):
    row = opened().locator(".forest li", has_text="mgmt_ensemble")
    said = reported()["mgmt_ensemble"]["ensemble__auc"].value
    axis, ours, diamond = (row.locator(part).bounding_box() for part in ("svg >> nth=0", ".ours", ".reported"))
    middle = {name: box["x"] + box["width"] / 2 for name, box in (("ours", ours), ("reported", diamond))}
    left, right = (row.locator(".grid").nth(n).bounding_box()["x"] for n in (0, 4))
    assert axis["width"] > 300
    assert (middle["reported"] - left) / (right - left) == pytest.approx(said, abs=0.005)
    assert (middle["ours"] - left) / (right - left) == pytest.approx(said + 0.01, abs=0.005)
    assert row.locator("svg").first.get_attribute("aria-label").startswith("AUC of the ensemble: ours")


def test_the_tab_key_reaches_the_content_and_the_focus_is_seen(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Skip to the content"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "summary"
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        tag, outline = page.evaluate(
            "() => [document.activeElement.tagName, parseFloat(getComputedStyle(document.activeElement).outlineWidth)]"
        )
        reached.append(tag)
        assert outline >= 2
    assert {"A", "DIV", "SUMMARY"} <= set(reached)  # links, tables that scroll, and what opens


def test_headings_landmarks_and_names(opened):
    page = opened()
    assert page.evaluate("() => document.documentElement.lang") == "en"
    assert page.title()
    for landmark in ("h1", "main", "header", "nav[aria-label]", "footer"):
        assert page.locator(landmark).count() == 1
    assert page.evaluate(SKIPPED_HEADINGS) == []
    assert page.evaluate(UNNAMED) == []
    broken = "() => [...document.querySelectorAll('a')].filter(a => !document.querySelector(a.getAttribute('href')))"
    assert page.evaluate(f"{broken}") == []
    identifiers = page.evaluate("() => [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(identifiers) == len(set(identifiers)) > len(reported())


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_contrast_is_at_least_4_5_to_1(opened, scheme):
    page = opened(color_scheme="dark" if scheme == "print" else scheme)
    page.emulate_media(media="print" if scheme == "print" else None)
    for detail in page.locator("details").all():
        detail.evaluate("element => { element.open = true; }")
    found = page.evaluate(LOW_CONTRAST)
    assert found["seen"] > 500
    assert found["low"] == []


def test_print_shows_every_table_whole_and_no_viewer(opened):
    page = opened(700)
    page.emulate_media(media="print")
    assert page.locator("#viewer-form").is_hidden()
    tables = page.locator("details table").all()
    assert len(tables) > 10
    assert all(table.bounding_box()["height"] > 20 for table in tables)
    assert page.evaluate(CUT) == []
    assert page.evaluate(STAYS_WITHIN)[0] <= 700
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF-")
