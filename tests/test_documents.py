"""The documents say what the program does: commands parse, links lead somewhere, and README and tutorial run from top to bottom."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from documents import PAGES, ROOT, Block, blocks, checkout, commands, promised, reader, run, without_comments
from heads import head

from hepdist.cli import app
from hepdist.inference.spec import parse_predict
from hepdist.ingest.spec import IngestSpec
from hepdist.models.specs import FAMILIES
from hepdist.recipe import SHIPPED, Recipe, load_recipe
from hepdist.spec import known_keys
from hepdist.surveillance.spec import SurveilSpec

ENGLISH_AND_CHINESE = [("README.md", "README.zh-CN.md"), ("docs/tutorial.md", "docs/zh/quickstart.md")]
EVERY_COMMAND = [(page, words) for page in PAGES for words in commands(page)]
OF_RECIPES = ("train", "tune", "crossval", "demo")
KEYS = {*known_keys(Recipe), *(f"model.{key}" for spec in FAMILIES.values() for key in known_keys(spec))}


def test_the_documents_show_most_of_the_verbs():
    assert {words[0] for _, words in EVERY_COMMAND} >= {*OF_RECIPES[:3], "doctor", "phantom", "ingest", "inspect", "evaluate", "compare", "explain", "predict", "serve", "export", "submit", "surveil", "cluster"}  # fmt: skip


@pytest.mark.parametrize(("page", "words"), EVERY_COMMAND, ids=[f"{p.name}-{' '.join(w)[:50]}" for p, w in EVERY_COMMAND])
def test_a_command_in_a_document_is_one_that_the_program_takes(page, words):
    command, rest = typer.main.get_command(app), list(words)
    while hasattr(command, "commands"):
        name = rest.pop(0)
        if name.startswith("-"):
            return  # hepdist --version
        assert name in command.commands, f"hepdist has no verb {name}"
        command = command.commands[name]
    given = command.make_context(name, rest).params  # raises where an option is unknown or an argument is missing or one too many
    if name == "submit" and given["verb"] not in ("VERB", "..."):
        test_a_command_in_a_document_is_one_that_the_program_takes(page, [given["verb"], *(given["words"] or [])])
    settings = [word for word in given.get("overrides") or given.get("options") or [] if "=" in word and "key=value" not in word]
    check_settings(name, given, settings)


def check_settings(verb: str, given: dict[str, object], settings: list[str]) -> None:
    """Each key=value is one that the verb knows; with a shipped recipe, a value that it takes."""
    names = {setting.partition("=")[0] for setting in settings}
    if verb in ("ingest", "serve"):
        assert names <= set(known_keys(IngestSpec))
    elif verb == "predict":
        parse_predict(settings)
    elif verb == "surveil":
        assert names <= set(known_keys(SurveilSpec))
    elif verb in OF_RECIPES:
        assert {name for name in names if not name.startswith("search.space.")} <= KEYS
        if (SHIPPED / f"{given.get('recipe', 'demo')}.yaml").is_file():
            assert load_recipe(str(given.get("recipe", "demo")), settings).name


def test_the_site_builds_without_a_warning_and_has_every_verb_and_key(tmp_path):
    """--strict: a dead link, a missing anchor or a page outside the navigation is an error."""
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-q",
        "-f",
        str(ROOT / "docs/site/mkdocs.yml"),
        "-d",
        str(tmp_path / "site"),
    ]
    built = subprocess.run(command, env={**reader(tmp_path / "home"), "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False)  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {page.stem: page.read_text(encoding="utf-8") for page in (tmp_path / "site/reference").glob("*.html")}
    missing = [verb.name for verb in app.registered_commands if f"hepdist {verb.name or verb.callback.__name__}" not in pages["commands"]]
    assert not missing
    assert [key for key in known_keys(Recipe) if "." in key and f"<code>{key}</code>" not in pages["recipes"]] == []
    assert [name for name in FAMILIES if f'id="{name}"' not in pages["models"]] == []
    assert "hepdist.evaluation.delong" in pages["python"] and "DeLong" in pages["python"]
    assert not re.search(r'(?:src|href)="https?://[^"]+\.(?:css|js|woff2?)"', (tmp_path / "site/index.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "README.zh-CN.md"], ids=lambda page: page.name)
def test_links_of_the_readme_lead_to_files(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).is_file()] == []


@pytest.mark.parametrize(("english", "chinese"), ENGLISH_AND_CHINESE)
def test_the_chinese_pages_have_the_same_commands_and_pictures(english, chinese):
    def told(name: str) -> tuple[list[tuple[str, str]], list[str]]:
        runnable = [b for b in blocks(ROOT / name) if b.language in ("bash", "sh", "python", "yaml")]
        pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (ROOT / name).read_text(encoding="utf-8"))
        return [(b.title, without_comments(b.text)) for b in runnable], [Path(picture).name for picture in pictures]

    assert told(chinese) == told(english)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_tutorial_runs_from_top_to_bottom(tmp_path):
    folder = checkout(tmp_path / "hepdist")
    page = ROOT / "docs/tutorial.md"
    said = run(blocks(page), folder, reader(tmp_path / "home"))
    assert sorted(name for name in promised(page) if not (folder / name).exists()) == []
    assert '"probabilities"' in said  # what the server answered
    assert "probability_yes" in (folder / "predictions/new/predictions.csv").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_readme_runs_from_top_to_bottom(tmp_path, monkeypatch):
    """All of it but `make test`, which is what runs this."""
    folder, environment = checkout(tmp_path / "hepdist"), reader(tmp_path / "home")
    make, work, jobs = [b for b in blocks(ROOT / "README.md") if b.language == "sh"]
    assert "make test" in make.text
    run([Block("sh", "", make.text.replace("make test ", "#"))], folder, environment)
    assert (folder / "runs/demo/report.html").is_file()
    run([work], folder, environment)
    assert (folder / "predictions/new/index.html").is_file()
    assert len(list((folder / "predictions/new/dicom").rglob("*.dcm"))) == 8
    monkeypatch.setenv("PATH", environment["PATH"])  # of the shell that starts the head: `python` of a job is the one on it
    with head(tmp_path / "head.log") as cluster:
        run([jobs], folder, environment | {name: value for name, value in cluster.items() if name.startswith("RAY_")})
    for name in ("submitted", "the-same"):
        assert (folder / "runs" / name / "report.html").is_file()
