"""The page driven in headless Chromium."""

import json
import shutil

import pytest
from PIL import Image

from modeling_rtd import Gallery, RTDModel, RTDProcessor
from tests.factories import build_clip, build_image_processor, shake
from trainer.app import SearchDesk, list_voices
from trainer.worlds.small_world import build_benchmark, build_tokenizer


pytest.importorskip("gradio", reason="the page needs gradio, of the extra `app`")
webdriver = pytest.importorskip("selenium.webdriver", reason="driving a browser needs selenium")
StaleElementReferenceException = pytest.importorskip("selenium.common.exceptions").StaleElementReferenceException
By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium with its driver is installed"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folders of pictures of the small world: a gallery, and references."""
    folder = tmp_path_factory.mktemp("files")
    benchmark = build_benchmark("toy", "test")
    for name, rows, column in (
        ("gallery", benchmark.gallery, "image"),
        ("references", benchmark.queries, "reference_image"),
    ):
        (folder / name).mkdir()
        for row in rows.select(range(20)):
            row[column].save(folder / name / f"{row['id']}.png")
    return folder


@pytest.fixture(scope="module")
def url(files):
    from trainer.app.page import serve_page

    processor = RTDProcessor(build_image_processor(), build_tokenizer("toy"))
    sizes = {"vocab_size": len(processor.tokenizer), "max_position_embeddings": 40}
    model = RTDModel.from_clip(build_clip(**sizes), "lincir", tokenizer=processor.tokenizer)
    tower = RTDModel.from_clip(build_clip(seed=3, **sizes), "lincir", tokenizer=processor.tokenizer).text_model
    model.replace_text_model(shake(tower))
    paths = sorted(str(path) for path in (files / "gallery").iterdir())
    gallery = Gallery.from_images(model, processor, paths)
    examples = [(str(path), "is red") for path in sorted((files / "references").iterdir())[:3]]
    desk = SearchDesk(list_voices(model, processor, gallery), files / "gallery", top_k=6, examples=examples)
    page, url = serve_page(desk)
    yield url
    page.close()


class Browser:
    """A browser at the page."""

    def __init__(self, url, width, height):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        quiet = ["--disable-background-networking", "--disable-component-update", "--no-first-run"]
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", *quiet):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 640}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.url = url
        self.driver.get(url)
        self.wait(lambda: self.find("#search"))

    def wait(self, condition):
        # The page may not have drawn what is looked for, or draw it anew.
        ignored = (IndexError, StaleElementReferenceException)
        return WebDriverWait(self.driver, 30, ignored_exceptions=ignored).until(lambda _: condition())

    def find(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def wait_for(self, sentence):
        self.wait(lambda: sentence in self.find("#message")[0].text)

    def click(self, selector, place=0):
        self.wait(lambda: len(self.find(selector)) > place)
        self.find(selector)[place].click()

    def write(self, name, text):
        box = self.find(f"#{name} textarea, #{name} input")[0]
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(text)

    def upload(self, path):
        self.find("input[type=file]")[0].send_keys(str(path))

    def choose(self, name, option):
        self.click(f"#{name} input")
        self.wait(lambda: self.find("[role=option]"))
        next(one for one in self.find("[role=option]") if one.text.endswith(option)).click()

    def shown(self, name="results"):
        """Sources of the pictures shown."""
        return [image.get_attribute("src") for image in self.find(f"#{name} .thumbnail-item img")]

    def requested(self):
        """URLs that the page has asked for."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        sockets = [m["params"]["url"] for m in messages if m["method"] == "Network.webSocketCreated"]
        return {params["request"]["url"] for params in sent} | set(sockets)

    def press(self, *keys):
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()


@pytest.fixture
def open_page(url):
    opened = []

    def open_page(width=1280, height=900):
        opened.append(Browser(url, width, height))
        return opened[-1]

    yield open_page
    for browser in opened:
        browser.driver.quit()


def test_the_page_opens_with_the_gallery_and_examples_to_click(open_page):
    browser = open_page()
    browser.wait(lambda: len(browser.shown()) == 6)
    assert len(browser.shown("examples")) == 3
    assert not browser.find("#use")
    browser.click("#examples .thumbnail-item", 1)
    browser.wait_for("6 results, best first")
    assert browser.find("#text textarea, #text input")[0].get_attribute("value") == "is red"
    assert "test-query-0001.png, “is red”" in browser.find("#turns label")[0].text


def test_upload_search_refine_compare_and_an_error(open_page, files, tmp_path):
    browser = open_page()
    browser.upload(sorted((files / "references").iterdir())[0])
    browser.wait_for("The upload is the reference")
    browser.write("text", "is a red star" + Keys.ENTER)
    browser.wait_for("6 results, best first")
    browser.wait(lambda: len(browser.shown()) == 6)
    first = browser.shown()

    browser.click("#results .thumbnail-item", 1)
    browser.wait_for("Image 2 is chosen")
    browser.click("#use")
    browser.wait_for("The chosen image is the reference")
    browser.write("text", "is on a white background")
    browser.click("#more button")
    browser.choose("other", "projection alone")
    browser.click("#search")
    browser.wait(lambda: len(browser.shown("others")) == 6)
    second = browser.shown()
    assert second != first
    assert browser.shown("others") != second
    turns = [turn.text for turn in browser.find("#turns label")]
    assert [turn.split(",")[0].split(". ")[1] for turn in turns] == ["test-query-0000.png", "result 2 of turn 1"]

    browser.click("#turns input", 0)
    browser.wait_for("Results of turn 1")
    browser.wait(lambda: browser.shown() == first)

    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image at all")
    browser.upload(broken)
    browser.wait_for("'broken.png' is not an image that can be read")
    assert browser.find("#message [role=alert]")
    browser.write("negative", "is on a white background")
    browser.click("#search")
    browser.wait_for("the negative text is the query's own text")

    requested = browser.requested()
    assert any("/gradio_api/queue/join" in one for one in requested)
    assert {one for one in requested if not one.startswith((browser.url, "data:", "blob:"))} == set()
    assert [entry for entry in browser.driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_everything_is_reached_by_the_keyboard(open_page):
    browser = open_page()

    def tab_to(reached, limit=40):
        for _ in range(limit):
            browser.press(Keys.TAB)
            if reached(browser.driver.switch_to.active_element):
                return
        raise AssertionError("the Tab key does not lead there")

    tab_to(lambda one: one.get_attribute("id") == "browse")
    browser.press(Keys.ENTER)
    browser.wait_for("Images of the gallery")
    browser.wait(lambda: len(browser.shown()) == 6)
    tab_to(lambda one: "thumbnail-item" in (one.get_attribute("class") or ""))
    browser.press(Keys.ENTER)
    browser.wait_for("The chosen image is the reference")
    tab_to(lambda one: one.text.startswith("More"))
    browser.press(Keys.ENTER)
    browser.wait(lambda: browser.find("#strength")[0].is_displayed())
    tab_to(lambda one: one.get_attribute("type") == "range")
    browser.press(Keys.ARROW_LEFT)
    browser.write("text", "is red" + Keys.ENTER)
    browser.wait_for("6 results, best first")
    assert "strength 0.95" in browser.find("#turns label")[0].text


def test_a_phone_shows_two_columns_and_nothing_beside_the_screen(open_page, tmp_path):
    browser = open_page(390, 844)
    browser.click("#browse")
    browser.wait(lambda: len(browser.shown()) == 6)
    width = browser.driver.execute_script("return document.documentElement.scrollWidth")
    assert width <= 390
    boxes = [one.rect for one in browser.find("#results .thumbnail-item")]
    assert len({round(box["x"]) for box in boxes}) == 2
    assert all(box["width"] > 100 for box in boxes)
    tops = [browser.find(f"#{name}")[0].rect["y"] for name in ("reference", "text", "search", "results", "turns")]
    assert tops == sorted(tops)
    path = tmp_path / "phone.png"
    browser.driver.save_screenshot(str(path))
    with Image.open(path) as picture:
        assert picture.size == (390, 844)


def test_two_visitors_do_not_see_each_other(open_page):
    one, other = open_page(), open_page()
    one.write("text", "a red star")
    one.click("#search")
    one.wait_for("6 results")
    assert one.find("#turns label")
    assert not other.find("#turns label")
    assert other.shown() != one.shown()
