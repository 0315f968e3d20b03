"""The pages keep their word: every Python block runs, every link between them leads somewhere.

A page is one session, run from top to bottom in an empty folder. A block that cannot run says why, in a comment that
readers of the page do not see: `<!--- skip: next "needs a model server" -->`. Set-up that readers need not see goes
into `<!--- invisible-code-block: python ... -->`.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import SkipTest

import pytest
import yaml
from sybil import Sybil
from sybil.example import NotEvaluated
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

import suffice.adapters.ax
import suffice.adapters.diffusion
import suffice.api.client
import suffice.optimizer

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()])

LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+\s+(.+?)\s*(?:\{.*\})?$", re.MULTILINE)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def slug(heading: str) -> str:
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)  # what a page sets is its own
    try:
        for example in EXAMPLES.parse(page).examples():
            try:
                example.evaluate()
            except SkipTest:
                continue
            except NotEvaluated:
                pytest.fail(f'{name(page)}:{example.line}: a skipped block gives its reason: skip: next "..."')
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_links_lead_somewhere(page: Path):
    for target in LINK.findall(FENCED.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue  # another site: not asked from a test
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{name(page)} links to {target}, which is not there"
        if anchor and linked.suffix == ".md":
            anchors = {slug(heading) for heading in HEADING.findall(linked.read_text())}
            assert anchor in anchors, f"{name(page)} links to {target}; {name(linked)} has {sorted(anchors)}"


def test_every_page_is_in_the_navigation():
    def pages(entry: object) -> list[str]:
        match entry:
            case str():
                return [entry]
            case dict():
                return [page for value in entry.values() for page in pages(value)]
            case list():
                return [page for value in entry for page in pages(value)]
        return []

    listed = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(listed) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:])


@pytest.mark.integration
def test_the_site_builds_without_a_warning_and_documents_every_public_name(tmp_path: Path):
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for folder in ("src", "optimizer", "api", "adapters"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    build = (sys.executable, "-m", "zensical", "build", "--strict")
    done = subprocess.run(
        build, cwd=tmp_path, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr

    site = {path: path.read_text() for path in (tmp_path / "site").rglob("*.html")}
    for path, text in site.items():
        assert not re.findall(r"<(?:script|img|link rel=.?stylesheet)[^>]*=.?https?:[^>]*>", text), path
        assert "$$" not in text, path
    assert site[tmp_path / "site" / "acquisitions" / "index.html"].count("<math") > 30

    pages = [text for path, text in site.items() if path.is_relative_to(tmp_path / "site" / "reference")]
    documented = {found for page in pages for found in re.findall(r'id="suffice\.([\w.]+)"', page)}
    short = {found.rsplit(".", 1)[-1] for found in documented}
    for module in (suffice.optimizer, suffice.api.client, suffice.adapters.diffusion, suffice.adapters.ax):
        assert set(module.__all__) <= short, module.__name__
    for path in (ROOT / "adapters").glob("[a-z]*.py"):
        assert any(found.startswith(f"adapters.{path.stem}.") for found in documented), path.name
