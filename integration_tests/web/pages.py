"""NNI's web page in a real browser: headless Chromium, driven by Selenium."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PATIENCE = 60
"""Seconds for something to appear: NNI's page asks for news every ten."""

_DRAWN = """
    const chart = arguments[0];
    let node = chart[Object.keys(chart).find(key => key.startsWith('__reactFiber$'))];
    while (node && !(node.memoizedProps && node.memoizedProps.option)) node = node.return;
    return node.memoizedProps.option.series.map(line => line.data);
"""
"""What a chart draws, line by line: it is on a canvas, so its component is asked."""


def missing() -> str:
    """Return what a browser test lacks here, or an empty text."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed: pip install '.[test]'"
    if _program("BALENAS_CHROMIUM", _BROWSERS) is None:
        return "there is no Chromium or Chrome (Debian: apt-get install chromium chromium-driver)"
    if _program("BALENAS_CHROMEDRIVER", ("chromedriver",)) is None:
        return "there is no chromedriver (Debian: apt-get install chromium-driver)"
    return ""


def _program(variable: str, names: tuple[str, ...]) -> str | None:
    return os.environ.get(variable) or next(filter(None, map(shutil.which, names)), None)


class Page:
    """The page of one experiment.

    Args:
        address: as `balenas ui` prints it.
        size: of the window, in pixels.
    """

    def __init__(self, address: str, *, size: tuple[int, int] = (1360, 1000)) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = _program("BALENAS_CHROMIUM", _BROWSERS)
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ):
            options.add_argument(argument)
        options.add_argument(f"--window-size={size[0]},{size[1]}")
        self.driver = webdriver.Chrome(options, Service(_program("BALENAS_CHROMEDRIVER", ("chromedriver",))))
        self.base = address.removesuffix("/oview")

    def close(self) -> None:
        """Close the browser."""
        self.driver.quit()

    def overview(self) -> str:
        """Open the overview; return its text."""
        self.driver.get(f"{self.base}/oview")
        return str(self.wait(lambda: self._text(".overviewBasicInfo") and self._text("#root")))

    def trials(self) -> list[list[str]]:
        """Open the list of trials; return the text of its cells, row by row."""
        self.driver.get(f"{self.base}/detail")
        rows = self.wait(lambda: self._all("#detail-tab, .detailTable .ms-DetailsRow, .ms-DetailsRow"))
        return [[cell.text for cell in row.find_elements("css selector", ".ms-DetailsRow-cell")] for row in rows]

    def tab(self, name: str) -> None:
        """Open one of the panels above the list of trials."""
        self.wait(lambda: self.driver.find_elements("xpath", f"//button[.//*[text()='{name}']]"))[0].click()

    def axes(self) -> list[str]:
        """Return the names of the axes of the hyper-parameter panel."""
        return [label.text for label in self.wait(lambda: self._all(".parcoords .dimension .label"))]

    def intermediate_points(self, row: int) -> list[list[Any]]:
        """Open the intermediate results of a trial; return what its graph draws, line by line."""
        self.wait(lambda: self._all("button[title=Intermediate]"))[row].click()
        chart = self.wait(lambda: self._all(".ms-Dialog-main .echarts-for-react"))[0]
        return self.wait(lambda: self.driver.execute_script(_DRAWN, chart))

    def error_of(self, row: int) -> str:
        """Unfold a trial, ask for its log and click on its standard error; return what the new tab shows."""
        self.wait(lambda: self._all(".ms-DetailsRow i[data-icon-name=ChevronRight]"))[row].click()
        self.wait(lambda: self.driver.find_elements("xpath", "//button[.//*[text()='Log']]"))[0].click()
        self.wait(lambda: self.driver.find_elements("xpath", "//button[.//*[text()='View trial error']]"))[0].click()
        first, second = self.wait(lambda: len(self.driver.window_handles) == 2 and self.driver.window_handles)
        self.driver.switch_to.window(second)
        text = self.wait(lambda: self._text("body"))
        self.driver.close()
        self.driver.switch_to.window(first)
        return str(text)

    def picture(self, path: Path) -> None:
        """Save what the window shows; icons whose font could not be loaded are left out."""
        self.driver.execute_script(
            "if (!document.fonts.check('16px FabricMDL2Icons')) {"
            "  const style = document.createElement('style');"
            "  style.textContent = 'i[data-icon-name] { color: transparent !important; }';"
            "  document.head.append(style); }"
        )
        self.driver.save_screenshot(str(path))

    def wait(self, look: Callable[[], Any]) -> Any:
        """Return the first true answer."""
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        waiting = WebDriverWait(self.driver, _PATIENCE, ignored_exceptions=[StaleElementReferenceException])
        return waiting.until(lambda _: look())

    def _all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def _text(self, selector: str) -> str:
        found = self._all(selector)
        return found[0].text if found else ""
