"""The report's pages in a real browser: no error, no request outside their folder, and what a reader does with them."""

from __future__ import annotations

import csv
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmfuse.data.images import luminance, read_image, write_image
from mmfuse.data.packs import Pack
from mmfuse.reporting import viewer
from test_report import NAMES, NASTY, ROOT, _run, make_study

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: run `make env`")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on the path; Debian's package is called chromium")
ODD = 'odd "<i>&'  # the name of the study's third pair
MAXIMUM, NET = "maximum.base.s0", "net.base.s0"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, headless; its sandbox does not work for root."""
    with sync_api.sync_playwright() as driver:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield started
        started.close()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up study with its report in `out`."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)  # the catalog's schema is found from the project's root
        make_study(folder)
        _run(folder)
    return folder


@pytest.fixture
def sheet(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a page from disk: `sheet(path, "hash", width=...)`; in the end no error, no request outside its folder."""
    opened: list[tuple[Any, Path, list[str], list[str]]] = []

    def show(path: Path, tail: str = "", width: int = 1400, height: int = 900) -> Any:
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(60_000)  # a busy machine is no error
        wrong: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{path.as_uri()}{tail and '#'}{tail}")
        opened.append((page, path.parent, wrong, asked))
        return page

    yield show
    for page, folder, wrong, asked in opened:
        page.close()
        assert not wrong
        assert [url for url in asked if not url.startswith((f"{folder.as_uri()}/", "data:"))] == []


@pytest.fixture
def show(study: Path, sheet: Callable[..., Any]) -> Callable[..., Any]:
    """Open the viewer: `show("dataset=road&...")`, with the pictures on the screen when it returns."""

    def opened(tail: str = "", **size: int) -> Any:
        page = sheet(study / "out/viewer.html", tail, **size)
        settle(page)
        return page

    return opened


def settle(page: Any) -> None:
    """Wait until the pictures that were asked for are drawn."""
    page.wait_for_function("stage.getAttribute('aria-busy') === 'false' && framed === 0")


def truth(study: Path, name: str, layer: str, dataset: str = "road") -> np.ndarray:
    """The true pixels, from the file that the viewer's scripts were made from."""
    if layer in {"a", "b"}:
        pack = Pack(study / f"data/prepared/{dataset}/test.safetensors")
        return pack[pack.names.index(name)][layer]
    return read_image(study / f"data/fused/{dataset}/{layer}/{name}.png")


def rgb(pixels: np.ndarray, column: int, row: int) -> list[int]:
    return np.broadcast_to(pixels[row, column], 3).tolist()


def spot(page: Any, column: int, row: int) -> tuple[float, float]:
    """Where the middle of a pixel of the image is, from the top left of each pane."""
    return tuple(
        page.evaluate(
            """([column, row]) => { const { box, scale, x, y } = place();
            return [box.width / 2 + (column + 0.5 - x) * scale, box.height / 2 + (row + 0.5 - y) * scale]; }""",
            [column, row],
        )
    )


def drawn(page: Any, canvas: str, column: int, row: int) -> list[int]:
    """What the screen shows of a pixel of the image."""
    left, top = spot(page, column, row)
    script = "([id, x, y]) => [...document.getElementById(id).getContext('2d').getImageData(x, y, 1, 1).data]"
    return page.evaluate(script, [canvas, int(left), int(top)])[:3]


def point(page: Any, column: int, row: int, pane: int = 0) -> tuple[float, float]:
    """Move the pointer to a pixel of the image; return where on the screen that is."""
    left, top = spot(page, column, row)
    box = page.locator(".pane").nth(pane).bounding_box()
    page.mouse.move(box["x"] + left, box["y"] + top)
    settle(page)
    return box["x"] + left, box["y"] + top


def text(page: Any, selector: str) -> str:
    return page.locator(selector).inner_text()


def scale(page: Any) -> float:
    return page.evaluate("place().scale")


# ---- both pages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["index.html", "viewer.html"])
@pytest.mark.parametrize("width", [1400, 420])
def test_page_fits_its_window(study, sheet, name, width):
    page = sheet(study / "out" / name, width=width)
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert NASTY in page.title()


def test_tables_of_the_report_sort(study, sheet):
    page = sheet(study / "out/index.html")
    table = page.locator("table:has(th[data-sort])").first
    table.evaluate("table => { location.hash = table.closest('section[id]').id; }")  # the page that it stands on
    heads = table.locator("th[data-sort]")
    for number in range(heads.count()):
        for order in ("ascending", "descending"):
            heads.nth(number).locator("button").click()
            assert [head.get_attribute("aria-sort") for head in heads.all()].count(order) == 1
            cells = [row.locator("> *").nth(number + 1).inner_text() for row in table.locator("tbody tr").all()]
            found = [float(hit[0]) for cell in cells if (hit := re.search(r"\d+(\.\d+)?", cell))]
            assert len(found) > 1 or number == heads.count() - 1
            assert found == sorted(found, reverse=order == "descending")


def test_report_leads_to_the_viewer_and_back(study, sheet):
    page = sheet(study / "out/index.html")
    page.get_by_role("link", name="Compare pictures").first.click()
    settle(page)
    assert page.title().endswith("comparison viewer")
    page.get_by_role("link", name="Report").first.click()
    assert page.url.endswith("index.html")


def test_the_best_case_opens_in_the_viewer(study, sheet):
    page = sheet(study / "out/index.html")
    page.get_by_role("link", name="compare in the viewer").first.click()
    settle(page)
    assert ODD in text(page, "#status")
    assert (page.locator("#a").input_value(), page.locator("#b").input_value()) == (MAXIMUM, NET)


# ---- choosing ----------------------------------------------------------------------------------------------------


def test_begins_with_two_results(show):
    page = show()
    assert page.locator("#a").input_value() == "average.base.s0"
    assert page.locator("#b").input_value() == NET
    assert text(page, "#count") == "1 of 4"


def test_choosing_dataset_picture_and_layers(study, show):
    page = show("dataset=road")
    page.get_by_label("Dataset").select_option(label="brain")
    settle(page)
    assert page.locator("#b").input_value() == MAXIMUM, "brain has no net: its last result"
    page.locator("#image").select_option(label="p4")
    page.get_by_label("A shows").select_option(label="infrared (a)")
    page.get_by_label("B shows").select_option(label="average")
    settle(page)
    assert page.get_by_role("status").inner_text() == "Brains: p4, 32 × 20 pixels. A is infrared (a), B is average."
    page.get_by_text("Side by side", exact=True).click()
    settle(page)
    for side, layer in (("first", "a"), ("second", "average.base.s0")):
        assert drawn(page, side, 3, 4) == rgb(truth(study, "p4", layer, "brain"), 3, 4)


def test_next_previous_and_swap(study, show):
    page = show(f"dataset=road&a=a&b={NET}&view=side")
    page.get_by_role("button", name="Next picture").click()
    page.get_by_role("button", name="Swap A and B").click()
    settle(page)
    assert page.locator("#image").input_value() == "1"
    assert drawn(page, "first", 9, 9) == rgb(truth(study, "p2", NET), 9, 9)
    assert drawn(page, "second", 9, 9) == rgb(truth(study, "p2", "a"), 9, 9)
    page.get_by_role("button", name="Previous picture").click()
    assert page.get_by_role("button", name="Previous picture").is_disabled()


def test_names_stay_text(show):
    page = show("dataset=road")
    page.locator("#image").select_option(label=ODD)
    settle(page)
    assert ODD in text(page, "#status")
    assert NASTY in text(page, "h1")
    assert NASTY in text(page, "#status"), "the dataset's title"
    assert page.locator("i").count() == 0
    assert page.locator("script").count() == 4, "the page's own: what it has, and three programs"


# ---- slider, side by side, difference ----------------------------------------------------------------------------


def test_slider_shows_a_left_and_b_right(study, show):
    page = show(f"dataset=road&image=p2&a=b&b={MAXIMUM}&at=25")
    a, b = truth(study, "p2", "b"), truth(study, "p2", MAXIMUM)
    for column in (2, 5):
        assert drawn(page, "first", column, 7) == rgb(a, column, 7)
    for column in (12, 20, 30):
        assert drawn(page, "first", column, 7) == rgb(b, column, 7)


def test_slider_moves_by_drag_and_by_its_control(study, show):
    page = show(f"dataset=road&image=p1&a=b&b={MAXIMUM}&at=50")
    box = page.locator(".pane").first.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, middle, steps=4)
    page.mouse.up()
    settle(page)
    assert page.locator("#at").input_value() == "80"
    assert drawn(page, "first", 20, 7) == rgb(truth(study, "p1", "b"), 20, 7)
    page.locator("#at").fill("10")
    settle(page)
    assert drawn(page, "first", 20, 7) == rgb(truth(study, "p1", MAXIMUM), 20, 7)


def test_side_by_side_moves_and_zooms_both_alike(study, show):
    page = show(f"dataset=road&image=p4&a=a&b={NET}&view=side")
    before = scale(page)
    x, y = point(page, 24, 12, pane=1)
    page.mouse.wheel(0, -400)
    settle(page)
    assert scale(page) > before * 1.4
    assert text(page, "#where") == "x 24, y 12", "the pixel under the pointer stays there"
    page.mouse.down()
    page.mouse.move(x - 60, y - 30, steps=3)
    page.mouse.up()
    settle(page)
    assert text(page, "#where") == "x 24, y 12", "and moves with the pointer"
    for side, layer in (("first", "a"), ("second", NET)):
        assert drawn(page, side, 24, 12) == rgb(truth(study, "p4", layer), 24, 12)


def hand(page: Any) -> Callable[..., None]:
    """Return what puts fingers on the screen, moves them, or (`touchEnd`) leaves only these there."""
    driver = page.context.new_cdp_session(page)  # one for all that the fingers do

    def touch(kind: str, *fingers: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(fingers)]
        driver.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    return touch


def two_fingers(
    touch: Callable[..., None],
    start: tuple[float, float],
    end: tuple[float, float],
    near: float,
    far: float,
    turn: int,
) -> None:
    """Spread two fingers around a place that moves; `turn` 0 holds them side by side, 1 one above the other."""
    for step in range(7):
        share = step / 6
        middle = [a + share * (b - a) for a, b in zip(start, end, strict=True)]
        apart = near + share * (far - near)
        shift = (apart, 0) if turn == 0 else (0, apart)
        fingers = [(middle[0] + sign * shift[0], middle[1] + sign * shift[1]) for sign in (-1, 1)]
        touch("touchMove" if step else "touchStart", *fingers)


@pytest.mark.parametrize(("view", "pane", "turn"), [("slider", 0, 0), ("side", 1, 1)], ids=["beside", "above"])
def test_two_fingers_zoom(show, view, pane, turn):
    """One above the other as well, where one finger would scroll the page, and on the second picture."""
    page = show(f"dataset=road&image=p4&a=a&b={NET}&view={view}&at=5")
    touch, before = hand(page), scale(page)
    left, top = spot(page, 18, 9)
    box = page.locator(".pane").nth(pane).bounding_box()
    start = (box["x"] + left, box["y"] + top)
    two_fingers(touch, start, (start[0] + 24, start[1] - 12), 40, 60, turn)
    settle(page)
    assert scale(page) == pytest.approx(1.5 * before, rel=0.02)


def test_one_finger_moves_the_slider(show):
    page = show(f"dataset=road&image=p1&a=b&b={MAXIMUM}&at=50")
    touch, box = hand(page), page.locator(".pane").first.bounding_box()
    middle = box["y"] + box["height"] / 2
    touch("touchStart", (box["x"] + box["width"] / 2 + 15, middle))
    for share in (0.6, 0.7, 0.8):
        touch("touchMove", (box["x"] + box["width"] * share, middle))
    touch("touchEnd")
    settle(page)
    assert float(page.locator("#at").input_value()) == pytest.approx(80, abs=1)


def test_difference_map(study, show):
    page = show(f"dataset=road&image=p1&a=b&b={MAXIMUM}&view=difference&gain=2")
    value = luminance(truth(study, "p1", "b")).astype(int) - luminance(truth(study, "p1", MAXIMUM)).astype(int)
    for column, row in ((0, 0), (7, 3), (31, 19), (16, 10)):
        share = min(1.0, 2 * abs(value[row, column]) / 255)
        ink = np.array([0, 114, 178] if value[row, column] > 0 else [213, 94, 0])
        assert drawn(page, "first", column, row) == np.floor(255 + (ink - 255) * share + 0.5).astype(int).tolist()
    mean, largest = np.abs(value).mean(), np.abs(value).max()
    assert text(page, "#summary") == f"Luminance of A − B: mean |A − B| {mean:.2f}, largest {largest} of 255."
    page.locator("#gain").select_option("1")
    assert text(page, "#high") == "A brighter by 255"


# ---- numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["slider", "side", "difference"])
def test_pixel_under_the_pointer(study, show, view):
    page = show(f"dataset=road&image=p2&a=a&b={NET}&view={view}")
    a, b = truth(study, "p2", "a"), truth(study, "p2", NET)
    for column, row in ((0, 0), (31, 19), (5, 11)):
        point(page, column, row, pane=int(view == "side"))
        assert text(page, "#where") == f"x {column}, y {row}"
        assert text(page, "#value-a") == str(a[row, column])
        assert text(page, "#value-b") == " ".join(map(str, b[row, column]))
        light = int(luminance(b)[row, column])
        assert text(page, "#luminance-b") == str(light)
        assert text(page, "#luminance-d") == str(int(a[row, column]) - light).replace("-", "−")
    page.mouse.move(2, 2)
    settle(page)
    assert text(page, "#where") == "x 16, y 10 (middle of the view)"


def test_metrics_of_the_pair(study, show):
    page = show(f"dataset=road&image=p2&a=average.base.s0&b={MAXIMUM}")
    found = {}
    for row in page.locator("#metrics tr:has(td)").all():
        cells = row.locator("td")
        values = [float(cell.get_attribute("title")) for cell in cells.all()]
        found[row.locator("abbr").inner_text()] = values, [cell.get_attribute("class") for cell in cells.all()]
    for layer, side in (("average.base.s0", 0), (MAXIMUM, 1)):
        with (study / f"reports/scores/road/{layer}.csv").open(encoding="utf-8") as stream:
            line = next(line for line in csv.DictReader(stream) if line["name"] == "p2")
        assert {name: values[side] for name, (values, _) in found.items()} == {
            name: float(line[name]) for name in ("EN", "Nabf")
        }
    # EN is better higher (5 and 6), Nabf lower (0.1 and 0.3)
    assert found["EN"][1] == [None, "best"]
    assert found["Nabf"][1] == ["best", None]
    assert text(page, "#metrics tr:has-text('Nabf') td >> nth=0").startswith("0.1000")


def test_sources_and_undefined_scores_have_a_dash(show):
    page = show(f"dataset=road&image=p2&a=a&b={NET}")
    cells = page.locator("#metrics td").all_inner_texts()
    assert cells == ["–", "6.000", "–", "–"]


# ---- address -----------------------------------------------------------------------------------------------------


def test_address_brings_the_view_back(show):
    page = show("dataset=road")
    page.locator("#image").select_option(label=ODD)
    page.locator("#b").select_option("b")
    page.get_by_text("Difference", exact=True).click()
    page.locator("#gain").select_option("8")
    page.mouse.move(300, 400)
    page.mouse.wheel(0, -600)
    settle(page)
    page.wait_for_function("location.hash.includes('zoom=')")
    page.wait_for_timeout(300)  # the address follows a little later
    again = show(page.url.partition("#")[2])
    for selector in ("#dataset", "#image", "#a", "#b", "#gain"):
        assert again.locator(selector).input_value() == page.locator(selector).input_value()
    assert again.get_by_role("radio", name="Difference").is_checked()
    assert text(again, "#scale") == text(page, "#scale")
    first, second = (shown.evaluate("[place().x, place().y]") for shown in (page, again))
    assert second == pytest.approx(first, abs=0.06)


def test_address_can_be_changed_and_may_be_wrong(show):
    page = show("dataset=nothing&image=<b>&a=b&b=nobody&view=cube&zoom=x&gain=3&at=900")
    assert page.locator("#dataset").input_value() == "0"
    assert [page.locator(one).input_value() for one in ("#a", "#b", "#at")] == ["b", NET, "100"]
    page.evaluate("location.hash = 'dataset=brain&image=p2&view=side'")
    page.wait_for_function("document.getElementById('status').textContent.includes('Brains: p2')")
    assert page.get_by_role("radio", name="Side by side").is_checked()


# ---- keys --------------------------------------------------------------------------------------------------------


def test_keys(show):
    page = show("dataset=road")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    assert page.locator("#image").input_value() == "1"
    page.keyboard.press("ArrowRight")
    assert page.locator("#at").input_value() == "52"
    before = scale(page)
    page.keyboard.press("+")
    assert scale(page) == pytest.approx(1.25 * before)
    page.keyboard.press("-")
    page.keyboard.press("-")
    assert scale(page) == pytest.approx(before), "not smaller than the view"
    page.keyboard.press("1")
    assert scale(page) == 1
    page.keyboard.press("0")
    assert scale(page) == pytest.approx(before)
    for key, name in (("b", "Side by side"), ("d", "Difference"), ("s", "Slider")):
        page.keyboard.press(key)
        assert page.get_by_role("radio", name=name).is_checked()
    page.keyboard.press("d")
    page.keyboard.press("ArrowRight")
    assert page.locator("#image").input_value() == "2", "without a slider, the next picture"
    sides = [page.locator(one).input_value() for one in ("#a", "#b")]
    page.keyboard.press("x")
    assert [page.locator(one).input_value() for one in ("#b", "#a")] == sides
    page.keyboard.press("?")
    assert page.get_by_role("dialog", name="Help").is_visible()
    page.keyboard.press("ArrowDown")
    assert page.locator("#image").input_value() == "2", "no picture changes behind the help"
    page.keyboard.press("Escape")
    assert not page.get_by_role("dialog", name="Help").is_visible()
    settle(page)


def test_shift_and_arrows_move_the_pictures(show):
    page = show("dataset=road&zoom=60&x=10&y=8")
    before = page.evaluate("[place().x, place().y]")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowUp")
    after = page.evaluate("[place().x, place().y]")
    assert after[0] > before[0]
    assert after[1] < before[1]
    assert page.locator("#image").input_value() == "0"


def test_keys_of_a_select_are_its_own(show):
    page = show("dataset=road")
    page.locator("#b").focus()
    page.keyboard.press("x")
    page.keyboard.press("ArrowUp")
    settle(page)
    assert page.locator("#a").input_value() == "average.base.s0", "not swapped"
    assert page.locator("#b").input_value() == MAXIMUM, "the entry above"
    assert page.locator("#image").input_value() == "0"


def test_every_control_can_be_reached_and_has_a_name(show):
    page = show("dataset=road&image=p2")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        found = page.evaluate("document.activeElement.id || document.activeElement.name || ''")
        reached.add(found)
        outline = page.evaluate(
            """() => { const one = document.activeElement;
            return getComputedStyle(one.name === "view" ? one.nextElementSibling : one).outlineStyle; }"""
        )
        assert outline == "solid" or not found, f"the focus is not seen on {found}"
    ids = ("dataset", "previous", "image", "next", "a", "swap", "b", "view", "out", "in", "fit", "one", "stage", "at")
    assert reached >= {*ids, "ask"}
    for control in page.locator("select, input, button").all():
        name = control.evaluate("e => e.ariaLabel || e.labels?.[0]?.textContent || e.textContent")
        assert name.strip()


# ---- narrow windows, many pictures, missing files ----------------------------------------------------------------


@pytest.mark.parametrize("view", ["slider", "side", "difference"])
def test_narrow_window(study, show, view):
    page = show(
        f"dataset=road&image={ODD.replace('&', '%26')}&a=a&b={NET}&view={view}&zoom=30&x=16&y=10", width=420, height=800
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    for one in page.locator("select:visible, button:visible, .pane:visible").all():
        box = one.bounding_box()
        assert box["x"] + box["width"] <= 420
    if view == "side":
        boxes = [pane.bounding_box() for pane in page.locator(".pane").all()]
        assert boxes[1]["y"] > boxes[0]["y"] + boxes[0]["height"] - 1, "one below the other"
        assert drawn(page, "second", 16, 10) == rgb(truth(study, ODD, NET), 16, 10)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A viewer with 500 pairs of VGA size; all pairs have the same few pixels, so that it is made quickly."""
    folder = tmp_path_factory.mktemp("many")
    keys = ["a", "b", NET]
    for key in keys:
        write_image(folder / f"{key}.png", np.tile(np.arange(64, dtype=np.uint8), (480, 10)))
    files = {key: (folder / f"{key}.png").read_bytes() for key in keys}
    card = {
        "name": "road",
        "title": "Many",
        "layers": [{"key": key, "label": key} for key in keys],
        "pairs": [[f"{number:04d}", f"scene {number}"] for number in range(500)],
        "metrics": [{"name": "EN", "convention": "lkc_funet", "sign": 1, "words": "entropy"}],
    }
    for number in range(500):
        for key, png in files.items():
            path = folder / "viewer" / f"road/{number:04d}/{key}.js"
            path.parent.mkdir(parents=True, exist_ok=True)
            own = f"road/{number:04d}/{key}"
            path.write_text(viewer._script(own, png, [number] if key == NET else None), encoding="utf-8")
    (folder / "viewer.html").write_text(viewer.render("many", [card]), encoding="utf-8")
    return folder


def test_five_hundred_pairs(many, sheet):
    page = sheet(many / "viewer.html")
    settle(page)
    assert page.locator("#image option").count() == 500
    assert page.evaluate("mmfuse.held()") == 2
    for _ in range(60):
        page.keyboard.press("ArrowDown")
    settle(page)
    assert "scene 60," in text(page, "#status")
    assert page.locator("#metrics td").all_inner_texts() == ["–", "60.00"]
    assert page.evaluate("mmfuse.held()") <= 6
    assert page.locator("script[src]").count() == 0, "scripts go when they have handed over their picture"
    page.locator("#image").select_option(label="scene 499")
    settle(page)
    assert text(page, "#count") == "500 of 500"
    assert page.get_by_role("button", name="Next picture").is_disabled()


def test_missing_picture_is_said(many, browser):
    missing = many / "viewer/road/0001/b.js"
    missing.unlink()
    page = browser.new_page()
    page.goto(f"{(many / 'viewer.html').as_uri()}#dataset=road&image=scene 1&a=b")
    settle(page)
    assert text(page, "#status") == (
        "Cannot show this picture. viewer/road/0001/b.js is missing: the folder viewer belongs beside this page."
    )
    assert page.locator("#metrics tr").count() == 0
    page.keyboard.press("ArrowDown")
    settle(page)
    assert "scene 2," in text(page, "#status"), "and the others are shown"
    page.close()


def test_made_up_study_has_what_these_tests_look_for():
    assert NAMES[:3] == ["p1", "p2", ODD]
