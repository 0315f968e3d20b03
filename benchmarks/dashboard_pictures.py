"""The dashboard's pictures: `python -m benchmarks.dashboard_pictures --out docs/images`; `--all FOLDER`: every page.

Starts a service with an engine, fills it with studies and a sampling that look like real ones, and takes screenshots in
Chromium. The suggestions come from the real engine; the objectives are formulas.
"""

from __future__ import annotations

import argparse
import io
import math
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from benchmarks.service import Served
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

Results = dict[str, float]
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "has_touch": True},
    "dark-phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True},
}
LR = {"name": "lr", "type": "float", "low": 1e-5, "high": 1e-1, "log": True}
LAYERS = {"name": "layers", "type": "int", "low": 1, "high": 12}
DROPOUT = {"name": "dropout", "type": "float", "low": 0, "high": 0.5}
OPTIMIZER = {"name": "optimizer", "type": "categorical", "choices": ["adam", "sgd", "lion"]}
SITE = {"name": "site", "type": "categorical", "choices": ["north", "south"]}
TIMES = {"name": "times", "type": "time_steps", "k": 6, "low": 0, "high": 999}


def loss(p: dict[str, Any], noise: random.Random) -> float:
    best = {"adam": -3.0, "sgd": -1.8, "lion": -3.7}[p.get("optimizer", "adam")]
    bowl = (
        0.35 * (math.log10(p["lr"]) - best) ** 2
        + 0.02 * (p["layers"] - 7) ** 2
        + 0.6 * (p.get("dropout", 0.1) - 0.15) ** 2
    )
    offset = {"adam": 0.0, "sgd": 0.15, "lion": 0.05}[p.get("optimizer", "adam")]
    return float(2.1 + bowl + offset + noise.gauss(0, 0.02))


def tuned(p: dict[str, Any], noise: random.Random) -> Results:
    return {"loss": loss(p, noise)}


def traded(p: dict[str, Any], noise: random.Random) -> Results:
    """Larger models are better and slower."""
    latency = 8 + 6.5 * p["layers"] + noise.gauss(0, 1.5)
    return {"loss": loss(p, noise) + 0.5 / p["layers"], "latency": latency, "memory": 0.4 + 0.55 * p["layers"]}


def at_a_site(p: dict[str, Any], noise: random.Random) -> Results:
    return {"loss": loss({**p, "lr": p["lr"] * (3 if p["site"] == "south" else 1)}, noise)}


def denoised(p: dict[str, Any], noise: random.Random) -> Results:
    known = [999, 850, 620, 380, 170, 40]
    return {"fid": 4 + 6e-5 * sum((a - b) ** 2 for a, b in zip(p["times"], known, strict=True)) + noise.gauss(0, 0.1)}


def drawn(fid: float, noise: random.Random) -> bytes:
    """A grid of blobs as PNG, the more noise in it the worse the value."""
    rng = np.random.default_rng(noise.randrange(1000))
    x = np.linspace(-1, 1, 48)
    tiles = []
    for _ in range(9):
        (u, v), width = rng.uniform(-0.4, 0.4, 2), rng.uniform(0.15, 0.5)
        blob = np.exp(-((x[:, None] - u) ** 2 + (x - v) ** 2) / width)
        tiles.append(np.clip(blob + 0.015 * (fid - 4) * rng.standard_normal((48, 48)), 0, 1))
    rows = [np.hstack(tiles[k : k + 3]) for k in (0, 3, 6)]
    out = io.BytesIO()
    Image.fromarray((255 * np.vstack(rows)).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


STUDIES: list[tuple[dict[str, Any], Callable[[dict[str, Any], random.Random], Results], int]] = [
    ({"name": "language-model", "parameters": [LR, LAYERS, DROPOUT, OPTIMIZER], "budget": {"trials": 60}}, tuned, 34),
    (
        {
            "name": "fast-or-good",
            "parameters": [LR, LAYERS, OPTIMIZER],
            "objectives": [{"metric": "loss"}, {"metric": "latency"}],
            "outcome_constraints": ["memory <= 6"],
        },
        traded,
        24,
    ),
    (
        {"name": "two-sites", "parameters": [LR, LAYERS, SITE], "context": ["site"], "cost": {"price": 0.005}},
        at_a_site,
        14,
    ),
    ({"name": "few-steps", "parameters": [TIMES], "objectives": [{"metric": "fid"}]}, denoised, 16),
    ({"name": "just-made", "parameters": [LR, DROPOUT]}, tuned, 0),
]


def fill(http: httpx.Client) -> None:
    noise = random.Random(1)
    for definition, measure, count in STUDIES:
        made = {"objectives": [{"metric": "loss"}], "seed": 0, **definition}
        http.post("/v1/studies", json=made).raise_for_status()
        study = f"/v1/studies/{made['name']}"
        for k in range(count + 2 if count else 0):
            context = {"context": {"site": "north" if k % 3 else "south"}} if "context" in made else {}
            wanted = {"worker": f"gpu-{k % 2}", "max_wait_s": 100, **context}
            asked = http.post(f"{study}/ask", json=wanted).raise_for_status().json()
            if "stop" in asked:
                break
            (trial,) = asked["trials"]
            if k >= count:
                continue  # these two run
            results = measure(trial["parameters"], noise)
            measurements = [{"metric": name, "value": value} for name, value in results.items()]
            body = {"lease_token": trial["lease"]["token"], "measurements": measurements}
            path = f"{study}/trials/{trial['number']}"
            if made["name"] == "few-steps":
                http.put(f"{path}/images/samples.png", content=drawn(results["fid"], noise)).raise_for_status()
            http.post(f"{path}/tell", json=body).raise_for_status()


def sample(http: httpx.Client) -> str:
    """A sampling of forty prompts, easy ones and hard ones; its id."""
    noise = random.Random(0)
    ease = {f"problem {i + 1}": noise.uniform(0.35, 0.98) for i in range(40)}
    wanted = {
        "prompts": list(ease),
        "max_samples": 16,
        "price": 0.004,
        "metadata": {"labels": dict.fromkeys(ease, "42")},
    }
    path = f"/v1/samplings/{(made := http.post('/v1/samplings', json=wanted).json())['id']}"
    while draws := http.post(f"{path}/ask", json={}).json()["draws"]:
        told = []
        for draw in draws:
            for number in draw["numbers"]:
                answer = "42" if noise.random() < ease[draw["prompt"]] else noise.choice(["41", "17", "7"])
                told.append(
                    {"prompt": draw["prompt"], "number": number, "answer": answer, "tokens": noise.randint(180, 420)}
                )
        http.post(f"{path}/tell", json={"answers": told}).raise_for_status()
    return str(made["id"])


# --- the pictures -----------------------------------------------------------------------------------------------------


def opened(browser: Browser, url: str, path: str, **how: Any) -> Page:
    page = browser.new_context(reduced_motion="reduce", **how).new_page()
    page.goto(url + path)
    page.locator("main .quiet", has_text="Loading").wait_for(state="detached")
    return page


def settled(page: Page, path: str) -> None:
    """Wait for what the model says, where it says something."""
    if path.startswith("/studies/") and path.count("/") == 2 and "just-made" not in path:
        page.get_by_role("heading", name="Which parameters matter").scroll_into_view_if_needed()
        page.get_by_text("The model explains").first.wait_for(timeout=60_000)
        if "few-steps" not in path:
            page.get_by_role("img", name="Two parameters at once.").wait_for(timeout=60_000)
        page.evaluate("scrollTo(0, 0)")


def around(first: Locator, last: Locator) -> Any:
    """From the top of the first to the bottom of the last."""
    top, bottom = first.bounding_box(), last.bounding_box()
    assert top is not None
    assert bottom is not None
    return {**top, "height": bottom["y"] + bottom["height"] - top["y"]}


def for_the_docs(browser: Browser, url: str, made: str, out: Path) -> None:
    sharp: dict[str, Any] = {**LOOKS["light"], "device_scale_factor": 1.5}
    page = opened(browser, url, "/studies/language-model", **{**sharp, "viewport": {"width": 1180, "height": 852}})
    settled(page, "/studies/language-model")
    page.get_by_text("expected to gain").first.wait_for()
    page.screenshot(path=out / "dashboard.png")
    page.evaluate("scrollTo(0, 0)")
    beliefs = page.locator("section", has=page.locator(".many"))
    both = page.locator(".pair", has=page.get_by_role("heading", name="Two parameters at once"))
    page.screenshot(path=out / "dashboard_model.png", full_page=True, clip=around(beliefs, both))
    page.context.close()
    page = opened(browser, url, "/studies/few-steps", **{**LOOKS["light"], "viewport": {"width": 1000, "height": 900}})
    schedules = page.locator("section", has=page.get_by_role("heading", name="Schedules: times"))
    images = page.locator("section", has=page.get_by_role("heading", name="Images"))
    images.scroll_into_view_if_needed()
    expect(images.locator("img").last).not_to_have_js_property("naturalWidth", 0)
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=out / "dashboard_images.png", full_page=True, clip=around(schedules, images))
    few = Image.open(out / "dashboard_images.png").convert("RGB").quantize(256, Image.Quantize.FASTOCTREE)
    few.save(out / "dashboard_images.png", optimize=True)  # noise packs badly
    page.context.close()
    page = opened(browser, url, f"/samplings/{made}", **{**sharp, "viewport": {"width": 1180, "height": 900}})
    page.get_by_role("button", name="Replay problem 3", exact=True).click()
    replay = page.locator("section[aria-labelledby=replay]")
    replay.locator("figure svg[role=img]").wait_for()
    replay.screenshot(path=out / "dashboard_sampling.png")
    page.context.close()
    page = opened(browser, url, "/studies/language-model", **{**LOOKS["dark-phone"], "device_scale_factor": 2})
    page.get_by_text("expected to gain").first.wait_for()
    page.screenshot(path=out / "dashboard_phone.png")
    page.context.close()


def everything(browser: Browser, url: str, made: str, out: Path) -> None:
    paths = ["/", "/new", "/login", "/samplings", f"/samplings/{made}", "/studies/language-model/trials/30"]
    paths += [f"/studies/{definition['name']}" for definition, _, _ in STUDIES]
    for look, how in LOOKS.items():
        for path in paths:
            page = opened(browser, url, path, **how)
            settled(page, path)
            if path.startswith("/samplings/"):
                page.get_by_role("button", name="Replay problem 3", exact=True).click()
            name = "home" if path == "/" else path.strip("/").replace("/", "-").replace(made, "one")
            page.screenshot(path=out / f"{name}-{look}.png", full_page=True)
            page.context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="folder for the pictures of the documentation")
    parser.add_argument("--all", type=Path, help="folder for every page, light, dark and on a phone")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        service = Served(Path(folder), "--workers", "1")
        service.start()
        try:
            with httpx.Client(base_url=service.url, timeout=120) as http, sync_playwright() as playwright:
                fill(http)
                made = sample(http)
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                for take, out in ((for_the_docs, wanted.out), (everything, wanted.all)):
                    if out is not None:
                        out.mkdir(parents=True, exist_ok=True)
                        take(browser, service.url, made, out)
                browser.close()
        finally:
            service.kill()


if __name__ == "__main__":
    main()
