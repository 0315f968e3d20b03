"""What is installed is what the tree holds, and it works where a bare `optimizer` would be shadowed."""

import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
FOLDERS = ("optimizer", "api", "adapters")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

CLEAN = """
import sys
import suffice.adapters, suffice.optimizer
from suffice.api.client import AsyncClient, Client
assert not {"fastapi", "sqlmodel", "torch"} & set(sys.modules)
print(suffice.optimizer.__file__)
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def python_folders() -> set[str]:
    files = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return {"suffice." + ".".join(path.parent.relative_to(ROOT).parts) for path in files}


def test_every_folder_with_python_files_is_packaged():
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == python_folders()


def test_the_links_for_type_checkers_point_at_the_folders():
    for folder in FOLDERS:
        link = ROOT / "src" / "suffice" / folder
        assert link.is_symlink(), f"{link} is not a link"
        assert link.resolve() == ROOT / folder
    assert not (ROOT / "src" / "suffice" / "__init__.py").exists(), "suffice is a namespace package"


def test_every_direct_dependency_is_pinned():
    pins = {
        canonicalize_name(line.split("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    }
    project = PYPROJECT["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    names = {canonicalize_name(Requirement(line).name) for line in wanted} - {"suffice"}
    assert names <= pins, f"add to constraints.txt: {sorted(names - pins)}"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel built from the tree, and one built from the sdist."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    build = (sys.executable, "-m", "build", "--no-isolation")
    run(*build, "--wheel", "--outdir", tree / "direct", tree, cwd=tree)
    shutil.rmtree(tree / "build")
    run(*build, "--sdist", "--outdir", tree / "sdist", tree, cwd=tree)
    (sdist,) = (tree / "sdist").iterdir()
    shutil.unpack_archive(sdist, tree / "unpacked", filter="data")
    (unpacked,) = (tree / "unpacked").iterdir()
    run(*build, "--wheel", "--outdir", tree / "via sdist", unpacked, cwd=tree)
    return {how: next((tree / how).iterdir()) for how in ("direct", "via sdist")}


@pytest.mark.integration
@pytest.mark.parametrize("how", ["direct", "via sdist"])
def test_a_wheel_holds_the_whole_package_and_nothing_else(wheels: dict[str, Path], how: str):
    names = set(zipfile.ZipFile(wheels[how]).namelist())
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not re.fullmatch(r"suffice-[\d.]+\.dist-info", top)} == {"suffice"}

    kept = {".py", ".typed", ".mako", ".ini", ".js", ".css", ".html", ".svg"}
    tree = {
        path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in kept or path.name == "py.typed"
    }
    assert {f"suffice/{path.relative_to(ROOT).as_posix()}" for path in tree} <= names


@pytest.mark.integration
@pytest.mark.parametrize("how", ["direct", "via sdist"])
def test_the_light_client_works_in_a_clean_environment_beside_decoys(wheels: dict[str, Path], how: str, tmp_path: Path):
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheels[how], cwd=tmp_path
    )
    (suffice,) = distributions(name="suffice", path=[str(site)])
    link_requirements_of(suffice, site)

    work = tmp_path / "work"
    work.mkdir()
    for folder in FOLDERS:
        (work / f"{folder}.py").write_text("raise ImportError('a decoy was imported')\n")
    assert run(python, "-c", CLEAN, cwd=work).startswith(str(site))


def link_requirements_of(dist: Distribution, site: Path) -> None:
    """Put what `dist` requires without extras, and nothing more, into `site`.

    The files are linked from the environment the tests run in, so the test needs no network and still fails when the
    metadata of the wheel forgets a dependency.
    """
    for line in dist.requires or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        required = distribution(requirement.name)
        for top in {path.parts[0] for path in required.files or []} - {"..", "__pycache__"}:
            link = site / top
            if not link.exists():
                link.symlink_to(str(required.locate_file(top)))
        link_requirements_of(required, site)
