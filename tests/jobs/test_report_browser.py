"""A report in a real browser: what it shows after its script ran, by mouse, by keyboard, on a phone, in the dark.

Needs Chromium and its driver (``apt-get install chromium chromium-driver``); nothing is loaded from a network.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.run.report import ReportOptions, write_report
from rmbatch.costs.series import ModelUsage, UsageSeries
from tests.jobs.running import run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium with its driver: apt-get install chromium chromium-driver"
)
SIZE = 8


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a selection by a proxy that likes a worthless trap, and by length alone."""
    place = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(5)
    prompts = 400
    quality = rng.random((prompts, SIZE))
    is_trap = rng.random((prompts, SIZE)) < 0.15
    texts = [["very " * int(n) + "<script>document.title = 'hacked'</script>" for n in row] for row in quality * 40]
    table = pa.table(
        {
            "prompt": [f"What is {number}?" for number in range(prompts)],
            "responses": texts,
            "writer": [["one", "two"] * (SIZE // 2)] * prompts,
            "score.proxy": np.where(is_trap, 2.0 + quality, quality).tolist(),
            "score.length": [[float(len(text)) for text in row] for row in texts],
            "score.truth": np.where(is_trap, 0.0, quality).tolist(),
        }
    )
    (place / "in").mkdir()
    pq.write_table(table, place / "in/a.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.run.where._is_attached", lambda: False)
        patch.delenv("RAY_ADDRESS", raising=False)
        select = {"by": "proxy", "control": {"measure": "truth"}}
        paths = {"input": {"path": str(place / "in")}, "output": {"path": str(place / "out")}}
        run({"job": "select", "select": select, **paths})
    usage = place / "out/_rmbatch/usage/20260101T000000Z-0a0b0c0d.json"
    usage.parent.mkdir()
    usage.write_bytes(usage_of_a_run().to_json())
    return Path(write_report(str(place / "out"), ReportOptions(source="writer")).folder) / "index.html"


def usage_of_a_run() -> UsageSeries:
    """An hour of a judge whose price is set, and of one without a price."""
    series = UsageSeries(began=1_767_225_600.0)
    for minute in range(1, 61):
        priced = ModelUsage("chat", "large", {"answers": minute, "prompt_tokens": 900 * minute}, usd=minute / 8)
        series.add(
            60.0 * minute, {"priced": priced, "free": ModelUsage("chat", "small", {"answers": 2 * minute}, None)}
        )
    return series


def open_browser(folder: Path, width: int = 1200, *, dark: bool = False) -> Any:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={folder}"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={width},1000"),
        *(["--blink-settings=preferredColorScheme=0"] if dark else []),
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))


@pytest.fixture(scope="module")
def browser(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    driver = open_browser(tmp_path_factory.mktemp("profile"))
    driver.get(page.as_uri())
    yield driver
    driver.quit()


def table_of(browser: Any, caption: str) -> Any:
    found = browser.find_elements("xpath", f"//table[caption[text()='{caption}']]")
    assert len(found) == 1, caption
    return found[0]


def column(table: Any, place: int) -> list[str]:
    rows = table.find_elements("css selector", "tbody tr")
    return [row.find_elements("css selector", "th, td")[place].text for row in rows]


def test_first_lines_recommend_n_and_warn(browser: Any) -> None:
    said = [each.text for each in browser.find_elements("css selector", "#findings li")]
    assert any("Warning:More is worse: picking by proxy, N = 8" in text.replace(": More", ":More") for text in said), (
        said
    )
    assert any("length prefers the longer response in 100.0%" in text and "length alone" in text for text in said), said
    advice = [text for text in said if text.startswith("Advice")]
    assert len(advice) == 1
    assert "Use N = " in advice[0]
    assert browser.title.startswith("Report on ")  # the script in the responses did not run


def test_curve_of_the_page_is_that_of_the_figures(browser: Any, page: Path) -> None:
    import orjson

    report = orjson.loads((page.parent / "report.json").read_bytes())
    points = report["curve"]["choosers"]["proxy"]["points"]
    shown = column(table_of(browser, "Picked by proxy"), 1)
    assert [float(each) for each in shown] == pytest.approx([each["mean"] for each in points], abs=5e-5)
    chosen = browser.find_elements("css selector", "tr.chosen")
    assert str(report["curve"]["choosers"]["proxy"]["recommended"]) in [each.text.split()[0] for each in chosen]


def test_costs_of_all_runs_are_drawn_and_told(browser: Any) -> None:
    section = browser.find_element("css selector", "#costs")
    assert "cost the job at least $7.5000 in its one run" in section.text
    table = table_of(browser, "Models, in all runs")
    assert [column(table, place) for place in (0, 2, 3)] == [
        ["priced", "free"],
        ["7.5000", "–"],
        ["–", "no price is set"],
    ]
    drawn = [each.text for each in section.find_elements("css selector", "#plot-usage svg text")]
    assert {"US dollars so far", "requests so far", "minutes since the first run began", "priced", "free"} <= {*drawn}


def test_tables_sort_by_mouse_and_by_keyboard(browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    table = table_of(browser, "Picked by proxy")
    before = column(table, 0)
    button = table.find_elements("css selector", "th button")[1]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    values = [float(each) for each in column(table, 1)]
    assert values == sorted(values)
    assert button.find_element("xpath", "..").get_attribute("aria-sort") == "ascending"
    button.send_keys(Keys.ENTER)
    assert [float(each) for each in column(table, 1)] == values[::-1]
    first = table.find_elements("css selector", "th button")[0]
    first.send_keys(Keys.SPACE)
    assert column(table, 0) == before
    assert button.find_element("xpath", "..").get_attribute("aria-sort") is None


def test_headings_tables_and_plots_have_names(browser: Any) -> None:
    sections = browser.find_elements("css selector", "main section")
    names = [each.find_element("css selector", "h2").text for each in sections]
    assert names[:3] == ["What stands out", "Best of N", "Picks and ties"]
    assert len(browser.find_elements("css selector", "nav a")) == len(names)
    for table in browser.find_elements("tag name", "table"):
        assert table.find_elements("tag name", "caption")
    plots = browser.find_elements("css selector", "figure svg")
    assert len(plots) >= 6
    assert all(each.get_attribute("aria-label") and each.get_attribute("role") == "img" for each in plots)
    ids = browser.execute_script("return [...document.querySelectorAll('[id]')].map(each => each.id)")
    assert len(ids) == len(set(ids))


def test_diff_marks_words_and_shows_html_as_text(browser: Any) -> None:
    shown = browser.find_elements("css selector", "#examples details[open] .text")
    assert any("<script>" in each.text for each in shown)
    assert browser.find_elements("css selector", "#examples ins")
    assert not browser.find_elements("css selector", "main script")


def test_nothing_is_asked_of_a_network_and_nothing_fails(browser: Any) -> None:
    import json

    events = [json.loads(each["message"])["message"] for each in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert not [url for url in asked if url.startswith(("http:", "https:", "ws:"))]
    assert not [each for each in browser.get_log("browser") if each["level"] == "SEVERE"]


def test_phone_in_the_dark_scrolls_in_one_direction(page: Path, tmp_path: Path) -> None:
    driver = open_browser(tmp_path / "profile", dark=True)
    try:
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        )
        driver.get(page.as_uri())
        width, inner = driver.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert (width, inner) == (390, 390)
        page_color, ink = driver.execute_script(
            "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        )
        assert brightness(page_color) < 60 < 180 < brightness(ink)
        for name in ("best_of_n", "usage"):
            label = driver.find_element("css selector", f"#plot-{name} svg text")
            assert brightness(label.value_of_css_property("fill")) > 140  # plots follow the page
    finally:
        driver.quit()


def brightness(color: str) -> float:
    """The mean of red, green and blue of a colour as browsers write it."""
    parts = color[color.index("(") + 1 : color.index(")")].split(",")[:3]
    return float(np.mean([float(part) for part in parts]))
