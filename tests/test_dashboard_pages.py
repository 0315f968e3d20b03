"""The dashboard in a real Chromium: a study created and watched, every page without a complaint, also on a dark phone.

Needs Chromium (`apt-get install chromium`); `.ci/run` installs it.
"""

import base64
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from live import BRANIN, Service, serving

from suffice.api.access_wire import KeyCreate

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]
expect = sync_api.expect
EVIL = "<img src=x onerror='window.stolen=1'>"
DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)  # one pixel, as PNG
SERIOUS = {"serious", "critical"}
PATIENCE = 30_000  # ms


class Visitor:
    """A page, and everything that it complained about."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        self.complaints: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def go(self, path: str) -> None:
        self.page.goto(self.url + path)
        expect(self.page.locator("main .quiet", has_text="Loading")).to_have_count(0)

    def forgive(self, *statuses: int) -> None:
        """Chromium notes every answer that is an error."""
        notes = tuple(f"the server responded with a status of {status} " for status in statuses)
        self.complaints[:] = [c for c in self.complaints if not any(note in c for note in notes)]

    def axe(self) -> list[str]:
        """What axe finds that is serious."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [f"{v['id']}: {[n['html'] for n in v['nodes']]}" for v in found if v["impact"] in SERIOUS]

    def too_wide(self) -> int:
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))


@pytest.fixture(scope="module")
def browser() -> Generator[Any]:
    with sync_api.sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Generator[Service]:
    """With an engine: one for all."""
    with serving(tmp_path_factory.mktemp("dashboard"), workers=1) as service:
        fill(service)
        yield service


@contextmanager
def visiting(browser: Any, service: Service, **how: Any) -> Generator[Visitor]:
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **how})
    try:
        yield Visitor(context.new_page(), service.url)
    finally:
        context.close()


@pytest.fixture
def visitor(browser: Any, service: Service) -> Generator[Visitor]:
    with visiting(browser, service) as visitor:
        yield visitor
        assert visitor.complaints == []


def add(service: Service, study: str, results: list[tuple[dict[str, Any], dict[str, float]]]) -> None:
    trials = [
        {"parameters": p, "measurements": [{"metric": m, "value": v} for m, v in values.items()]}
        for p, values in results
    ]
    service.call("POST", f"{study}/trials", {"trials": trials}, status=201)


def fill(service: Service) -> None:
    """Studies of several kinds, and a sampling."""
    bowl = [({"x1": i % 5 * 3 - 5, "x2": i * 7 % 15}, (i % 5 * 3 - 7) ** 2 + (i * 7 % 15 - 3) ** 2) for i in range(14)]
    add(service, service.study("bowl", budget={"trials": 40}), [(p, {"loss": float(v)}) for p, v in bowl])
    two = [{"metric": "loss"}, {"metric": "heat", "direction": "maximize"}]
    both = service.study("both", objectives=two, outcome_constraints=["size <= 12"])
    add(service, both, [(p, {"loss": float(v), "heat": p["x1"] + 0.0, "size": p["x2"] + 0.0}) for p, v in bowl])
    site = {"name": "site", "type": "categorical", "choices": ["north", "south"]}
    sites = service.study("sites", parameters=[*BRANIN["parameters"], site], context=["site"])
    add(service, sites, [({**p, "site": "south" if p["x1"] > 0 else "north"}, {"loss": float(v)}) for p, v in bowl])
    service.http.put(f"{sites}/trials/3/images/dot.png", content=DOT).raise_for_status()
    service.study("empty")
    choices = {"name": "x", "type": "categorical", "choices": [EVIL, "plain"]}
    evil = service.study("evil", parameters=[choices], metadata={EVIL: EVIL})
    add(service, evil, [({"x": EVIL}, {"loss": 1.0}), ({"x": "plain"}, {"loss": 2.0})])
    service.call("POST", f"{evil}/trials", {"trials": [{"parameters": {"x": EVIL}}]})
    (trial,) = service.ask(evil, worker=EVIL)
    reason = {"lease_token": trial["lease"]["token"], "reason": EVIL, "retry": False}
    service.call("POST", f"{evil}/trials/{trial['number']}/fail", reason)
    labels = {"labels": {"q1": EVIL, EVIL: "b"}}
    wanted = {"prompts": ["q1", EVIL], "price": 0.01, "max_samples": 6, "metadata": labels}
    path = f"/v1/samplings/{service.call('POST', '/v1/samplings', wanted)['id']}"
    while draws := service.call("POST", f"{path}/ask", {})["draws"]:
        told = [{"prompt": d["prompt"], "number": n, "answer": EVIL} for d in draws for n in d["numbers"]]
        service.call("POST", f"{path}/tell", {"answers": told})


def sampling(service: Service) -> str:
    return str(service.call("GET", "/v1/samplings")["samplings"][0]["id"])


def test_a_study_is_created_and_followed_without_reloading(visitor: Visitor, service: Service):
    page = visitor.page
    visitor.go("/")
    page.get_by_role("link", name="New study").click()
    page.get_by_label("Name").first.fill("made-here")
    page.get_by_label("What is measured").fill("loss")
    group = page.get_by_role("group", name="Parameter")
    group.get_by_label("Name").fill("x1")
    group.get_by_label("From").fill("5")
    group.get_by_label("To", exact=True).fill("-5")
    page.get_by_role("button", name="Create the study").click()
    expect(page.get_by_role("alert")).to_contain_text("parameters.x1.low")  # what is wrong is named
    group.get_by_label("To", exact=True).fill("10")
    page.get_by_role("button", name="Create the study").click()
    expect(page.get_by_role("heading", name="made-here", level=1)).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="live")).to_be_visible()

    page.evaluate("window.same = true")
    study = "/v1/studies/made-here"
    (trial,) = service.ask(study, worker="w1")
    expect(page.locator(".tile", has_text="Running").locator("dd").first).to_have_text("1")
    service.tell(study, trial, 2.5)
    expect(page.locator(".tile", has_text="Completed trials").locator("dd").first).to_have_text("1")
    expect(page.locator(".tile").first).to_contain_text("2.5")
    expect(page.locator("figure").first.locator("circle.dot")).not_to_have_count(0)
    expect(page.locator("section", has_text="Trials").locator("tbody tr").first).to_contain_text("completed")
    assert page.evaluate("window.same")
    visitor.forgive(422)  # the wrong form


def test_points_are_added_and_a_study_is_stopped_and_resumed(visitor: Visitor, service: Service):
    service.study("buttons")
    page = visitor.page
    visitor.go("/studies/buttons")
    page.get_by_role("button", name="Add a point").click()
    dialog = page.get_by_role("dialog", name="Add a point")
    dialog.get_by_label("x1").fill("3")
    dialog.get_by_label("x2").fill("99")
    dialog.get_by_role("button", name="Add", exact=True).click()
    expect(dialog.get_by_role("alert")).to_contain_text("x2")
    dialog.get_by_label("x2").fill("4")
    dialog.get_by_label("loss").fill("0.5")
    dialog.get_by_role("button", name="Add", exact=True).click()
    expect(dialog).to_be_hidden()
    (trial,) = service.call("GET", "/v1/studies/buttons/trials")["trials"]
    assert (trial["state"], trial["parameters"], trial["measurements"][0]["value"]) == (
        "COMPLETED",
        {"x1": 3, "x2": 4},
        0.5,
    )
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    assert service.call("GET", "/v1/studies/buttons")["state"] == "STOPPED"
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    visitor.forgive(422)


def test_what_the_model_believes_is_drawn(visitor: Visitor):
    page = visitor.page
    visitor.go("/studies/bowl")
    page.get_by_role("heading", name="Which parameters matter").scroll_into_view_if_needed()
    expect(page.get_by_text("The model explains")).to_be_visible()
    for name in ("x1", "x2"):
        expect(page.get_by_role("img", name=f"{name}. Expected loss along {name}")).to_be_visible()
    expect(page.get_by_role("img", name="Two parameters at once.")).to_be_visible()
    expect(page.locator(".tile", has_text="What to do next")).to_contain_text("expected to gain")
    expect(page.locator(".tile").first).to_contain_text("Recommended")
    page.get_by_label("Through trial").fill("3")
    page.get_by_label("Through trial").press("Enter")
    expect(page.get_by_text("through trial 3 (x1 4")).to_be_visible()


def test_what_to_use_is_said_for_the_chosen_context(visitor: Visitor):
    page = visitor.page
    visitor.go("/studies/sites")
    tile = page.locator(".tile").first
    for site in ("north", "south"):
        page.get_by_role("combobox", name="site", exact=True).select_option(site)
        expect(tile).to_contain_text(f"Recommended at site {site}")
    expect(page.locator(".tile", has_text="What to do next")).to_contain_text("expected to gain")


def test_several_objectives_have_a_front_and_its_growth(visitor: Visitor):
    visitor.go("/studies/both")
    expect(visitor.page.get_by_role("img", name="Pareto front.")).to_be_visible()
    expect(
        visitor.page.get_by_role("img", name="How far the front has come. The dominated volume grew")
    ).to_be_visible()


def test_images_are_shown_with_their_trials(visitor: Visitor):
    page = visitor.page
    visitor.go("/studies/sites")
    for alt in ("dot.png of trial 3", "dot.png"):
        image = page.get_by_role("img", name=alt)
        expect(image).to_have_js_property("naturalWidth", 1)
        if "trial" in alt:
            image.click()
            expect(page.get_by_role("heading", name="Trial 3", level=1)).to_be_visible()


def test_an_empty_study_says_what_to_do(visitor: Visitor, service: Service):
    page = visitor.page
    visitor.go("/studies/empty")
    expect(page.get_by_text(f'with Client("{service.url}") as client:')).to_be_visible()
    expect(page.get_by_role("heading", name="Which parameters matter")).to_be_hidden()


def test_ranges_are_chosen_by_keyboard(visitor: Visitor):
    page = visitor.page
    visitor.go("/studies/bowl")
    page.get_by_text("Choose ranges", exact=True).press("Enter")
    page.get_by_label("x1 to").fill("-2")
    page.get_by_label("x1 to").press("Enter")
    expect(page.get_by_text("6 of 14 trials pass: x1 between")).to_be_visible()
    page.get_by_role("button", name="Clear the selection").press("Enter")
    expect(page.get_by_label("x1 to")).to_have_value("")
    expect(page.get_by_text("14 trials; bright: better.")).to_be_visible()


def test_pictures_can_be_taken_away_and_read_as_tables(visitor: Visitor, tmp_path: Path):
    page = visitor.page
    visitor.go("/studies/bowl")
    figure = page.locator("figure").first
    for kind in ("SVG", "PNG", "CSV"):
        figure.get_by_label("Progress: download").click()
        with page.expect_download() as download:
            figure.get_by_role("button", name=kind).click()
        file = tmp_path / f"figure.{kind.lower()}"
        download.value.save_as(file)
        start = {"SVG": b"<svg", "PNG": b"\x89PNG", "CSV": b"trial,loss"}[kind]
        assert file.read_bytes().startswith(start)
    assert len((tmp_path / "figure.csv").read_text().splitlines()) == 15
    page.get_by_label("All parameters at once: download").click()
    with page.expect_download() as download:
        page.get_by_label("All parameters at once: download").locator("..").get_by_role("button", name="CSV").click()
    assert len(Path(download.value.path()).read_text().splitlines()) == 15
    figure.get_by_role("button", name="Progress: as a table").click()
    expect(figure.get_by_role("region", name="Progress").locator("tbody tr")).to_have_count(14)


def test_the_first_question_is_asked_once_and_early(visitor: Visitor):
    asked: list[str] = []
    visitor.page.on("request", lambda request: asked.append(request.url.removeprefix(visitor.url)))
    visitor.go("/studies/bowl")
    expect(visitor.page.locator("figure circle.dot").first).to_be_visible()
    first = "/v1/dashboard/studies/bowl"
    scripts = [i for i, url in enumerate(asked) if url.endswith("/study.js")]
    assert asked.index(first) < scripts[0]
    names = "performance.getEntriesByType('resource').map((one) => one.name)"
    # An answer is listed once it has come whole: the picture may stand before the table's.
    visitor.page.wait_for_function(f"{names}.some((name) => name.includes('/trials?'))")
    fetched = visitor.page.evaluate(names)
    before_the_table = fetched[: next(i for i, url in enumerate(fetched) if "/trials?" in url)]
    assert sum(url.endswith(first) for url in before_the_table) == 1  # what was asked early is what was used


def test_everything_is_reached_by_keyboard(visitor: Visitor):
    page = visitor.page
    visitor.go("/studies/bowl")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.locator("figure svg[role=img]").first.press("ArrowRight")
    expect(page.locator("figure").first.get_by_role("status")).to_contain_text("trial 0")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Trial 1", exact=False, level=1)).to_be_visible()
    page.go_back()
    page.get_by_role("button", name="loss", exact=True).press("Enter")
    expect(page.get_by_role("columnheader", name="loss")).to_have_attribute("aria-sort", "ascending")


def test_the_table_is_filtered_as_one_types(visitor: Visitor):
    visitor.go("/studies/bowl")
    section = visitor.page.locator("section[aria-labelledby=trials]")
    section.get_by_label("Filter trials by words").fill("x2=7")
    expect(section.locator("tbody tr")).to_have_count(1)
    expect(section).to_contain_text("1 to 1 of 1 (14 in all)")


def test_a_decision_is_replayed_answer_by_answer(visitor: Visitor, service: Service):
    page = visitor.page
    visitor.go(f"/samplings/{sampling(service)}")
    expect(page.get_by_text("labelled prompts")).to_be_visible()
    page.get_by_role("button", name="Replay q1").click()
    replay = page.locator("section[aria-labelledby=replay]")
    expect(replay.get_by_role("status").first).to_contain_text("Enough")
    replay.get_by_label("Answers seen").fill("0")
    expect(replay.get_by_role("status").first).to_contain_text("Before any answer")
    replay.get_by_label("Answers seen").press("ArrowRight")
    expect(replay.get_by_role("status").first).to_contain_text("Answer 1")


def test_a_sampling_is_followed_without_reloading(visitor: Visitor, service: Service):
    page = visitor.page
    wanted = {"prompts": ["one"], "max_samples": 4, "metadata": {"labels": {"one": "42"}}}
    made = service.call("POST", "/v1/samplings", wanted)["id"]
    visitor.go(f"/samplings/{made}")
    expect(page.get_by_text("1 open")).to_be_visible()
    page.evaluate("window.same = true")
    while draws := service.call("POST", f"/v1/samplings/{made}/ask", {})["draws"]:
        told = [{"prompt": d["prompt"], "number": n, "answer": "42"} for d in draws for n in d["numbers"]]
        service.call("POST", f"/v1/samplings/{made}/tell", {"answers": told})
    expect(page.get_by_text("all decided")).to_be_visible()
    expect(page.get_by_text("Of 1 labelled prompts 100 % were answered right")).to_be_visible()
    expect(page.get_by_text("accuracy so far")).to_be_visible()
    assert page.evaluate("window.same")


LIGHT: dict[str, Any] = {"color_scheme": "light"}
DARK_PHONE: dict[str, Any] = {"color_scheme": "dark", "viewport": {"width": 375, "height": 800}, "has_touch": True}


@pytest.mark.parametrize("how", [LIGHT, DARK_PHONE], ids=["light", "dark phone"])
def test_every_page_is_without_a_complaint(browser: Any, service: Service, how: dict[str, Any]):
    """No error in the console, nothing serious for axe, nothing wider than the screen, and texts stay texts."""
    with visiting(browser, service, **how) as visitor:
        page = visitor.page
        for path in (
            *("/", "/new", "/login", "/studies/bowl", "/studies/bowl/trials/3", "/studies/both"),
            *("/studies/sites", "/studies/sites/trials/3", "/studies/empty"),
            *("/samplings", f"/samplings/{sampling(service)}", "/studies/evil/trials/0", "/studies/evil/trials/2"),
        ):
            visitor.go(path)
            if path in ("/studies/bowl", "/studies/both", "/studies/sites"):
                page.get_by_role("heading", name="Which parameters matter").scroll_into_view_if_needed()
                expect(page.get_by_text("The model explains")).to_be_visible()
                expect(page.get_by_role("img", name="Two parameters at once.")).to_be_visible()
            assert visitor.complaints == [], path
            assert visitor.axe() == [], path
            assert visitor.too_wide() <= 0, path
            assert page.evaluate("window.stolen") is None, path


def test_names_from_users_stay_texts(browser: Any, service: Service):
    with visiting(browser, service) as visitor:
        page = visitor.page
        visitor.go("/studies/evil")
        page.locator("section[aria-labelledby=trials]").scroll_into_view_if_needed()
        expect(page.locator("section[aria-labelledby=trials] tbody tr")).to_have_count(3)
        expect(page.locator("section[aria-labelledby=trials] tbody")).to_contain_text(EVIL)
        visitor.go("/studies/evil/trials/2")
        expect(page.locator("main")).to_contain_text(EVIL)
        visitor.go(f"/studies/{EVIL}")
        expect(page.get_by_role("heading", level=1)).to_have_text(EVIL)
        assert page.evaluate("window.stolen") is None
        assert page.locator("main img").count() == 0


def test_what_is_not_there_is_said(browser: Any, service: Service):
    with visiting(browser, service) as visitor:
        for path in ("/studies/nothing", "/studies/bowl/trials/99", "/samplings/nothing"):
            visitor.go(path)
            expect(visitor.page.get_by_role("alert")).to_contain_text("there is no")


def test_what_pictures_are_computed_from(visitor: Visitor):
    """The small functions behind them, in the browser that runs them."""
    page = visitor.page
    visitor.go("/new")

    def called(module: str, expression: str) -> Any:
        return page.evaluate(f"async () => {{ const m = await import('/assets/x/{module}.js'); return {expression}; }}")

    # Through x + 2 y on a grid of 3 x 3 columns, the line at 3 is where it should be.
    pieces = called("contour", "m.isoline([0, 1, 2, 2, 3, 4, 4, 5, 6], 3, 3)")
    assert pieces
    assert all(abs(x + 2 * y - 3) < 1e-9 for piece in pieces for x, y in piece)
    ticks = called("scales", "m.numeric([0.0001, 0.1], [0, 300], { log: true }).ticks.map((t) => t.value)")
    assert ticks == [0.0001, 0.001, 0.01, 0.1]
    places = called("scales", "[1, 10, 100].map(m.numeric([1, 100], [0, 200], { log: true }).at)")
    assert places == [0, 100, 200]
    assert called("scales", "m.numeric([0, 7], [0, 100], { whole: true }).ticks.map((t) => t.value)") == [0, 2, 4, 6]
    assert called("dom", "m.csv([['=1+1', -2, 'a,\"b\"', null]])") == '\'=1+1,-2,"a,""b""",\r\n'
    assert called("dom", "[0.00001234, 12345678, -0, 1234, null, 0.5].map((x) => m.number(x))") == [
        *("1.23e−5", "1.23e7", "0", "1\u202f234", "–", "0.5"),
    ]


def test_light_and_dark_are_chosen_and_kept(visitor: Visitor):
    page = visitor.page
    visitor.go("/")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Dark").click()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert light != dark
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark


def test_with_keys_one_logs_in_and_what_one_may_not_is_refused(browser: Any, tmp_path: Path):
    with serving(tmp_path, workers=0) as service, visiting(browser, service) as visitor:
        page = visitor.page
        roles = {
            role: service.parts.keys.store.create(KeyCreate(name=role, role=role)).secret
            for role in ("reader", "owner")
        }
        service.parts.keys.forget()
        page.goto(f"{service.url}/studies/any")
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        page.get_by_label("Key").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_contain_text("unknown")
        for role in ("reader", "owner"):
            page.get_by_label("Key").fill(roles[role])
            page.get_by_role("button", name="Log in").click()
            expect(page.locator("#who")).to_contain_text(role)
            visitor.go("/new")
            page.get_by_label("Name").first.fill("mine")
            group = page.get_by_role("group", name="Parameter")
            for label, text in (("Name", "x"), ("From", "0"), ("To", "1")):
                group.get_by_label(label, exact=True).fill(text)
            page.get_by_role("button", name="Create the study").click()
            if role == "reader":
                expect(page.get_by_role("alert")).to_contain_text("owner")
                page.get_by_role("button", name="Log out").click()
                expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        expect(page.get_by_role("heading", name="mine", level=1)).to_be_visible()
        expect(page.get_by_role("status").filter(has_text="live")).to_be_visible()
