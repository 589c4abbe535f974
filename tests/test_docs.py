"""The documentation: its code runs, its linked and named files exist, its commands parse."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from session_worlds import wild_world

import magrathea
from magrathea.cli import main as cli
from magrathea.world import World

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COMMAND = re.compile(r"^(?:.*&& )?(magrathea .+?)(?:\s+#.*)?$", re.MULTILINE)

NAMED_FILE = re.compile(r"`((?:magrathea|tests|docs)/(?:[\w/.-]+\.\w+|[\w/.-]*/))[`: ]")


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page: Path) -> None:
    """Paths in backticks, such as `magrathea/layout.py`; only the changelog names files that no longer exist."""
    if page.name == "CHANGELOG.md":
        return
    for named in NAMED_FILE.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / named).exists(), f"{page.name} names {named}, which does not exist"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `magrathea ...` in a shell block names a command and options that exist."""
    called: list[str] = []
    monkeypatch.setattr(
        cli, "COMMANDS", {name: _recording(function, called) for name, function in cli.COMMANDS.items()}
    )
    shown = [line for block in code_blocks(page, "bash") for line in COMMAND.findall(block)]
    for line in shown:
        if "WORLD" not in line:
            assert cli.main(shlex.split(line, comments=True)[1:]) == 0, line
            assert called.pop() == cli.command_name(shlex.split(line)[1:])


def _recording(function: Any, called: list[str]) -> Any:
    """A command with the same options that only records that it was called."""
    name = next(name for name, known in cli.COMMANDS.items() if known is function)

    def record(*arguments: Any, **options: Any) -> None:
        called.append(name)

    record.__wrapped__ = function
    record.__doc__, record.__name__ = function.__doc__, function.__name__
    record.__annotations__, record.__module__ = function.__annotations__, function.__module__
    return record


def test_file_map_is_complete() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `(magrathea/[^`]*|docs/)`", text, re.MULTILINE)
    assert len(named) > 15
    for name in named:
        assert (ROOT / name).exists(), f"The README's file map names {name}, which does not exist"
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "magrathea").glob("*.py")} - {
        "magrathea/__init__.py"
    }
    missing = [module for module in modules if Path(module).name not in text]
    missing += [
        f"{path.parent.name}/"
        for path in sorted((ROOT / "magrathea").glob("*/__init__.py"))
        if f"| `magrathea/{path.parent.name}/`" not in text
    ]
    assert not missing, f"The README's file map has no line for {missing}"


def test_readme_has_the_commands_that_ci_runs() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("play", "test"):
        block = text.split(f"<!-- command:{name} -->\n")[1].split(f"<!-- /command:{name} -->")[0]
        assert re.fullmatch(r"```bash\npip install .+ && (magrathea play|pytest).*\n```\n", block)


def test_version_agrees_with_the_changelog_and_the_citation() -> None:
    changelog, citation = ((ROOT / name).read_text(encoding="utf-8") for name in ("CHANGELOG.md", "CITATION.cff"))
    release = re.match(r"\d+\.\d+\.\d+", magrathea.__version__)
    newest = re.search(r"^## \[(.+)\]", changelog, re.MULTILINE)
    assert release is not None and newest is not None and newest[1] == release[0]
    assert re.search(rf"^version: {re.escape(magrathea.__version__)}$", citation, re.MULTILINE)


def test_example_tokenizer_round_trip() -> None:
    (source,) = code_blocks(ROOT / "docs" / "tokenizers.md", "python")
    names: dict[str, Any] = {"__name__": "guide"}
    exec(source, names)
    space = spaces.Box(-np.pi, np.pi, (3,), np.float32)
    tokenizer = names["AngleTokenizer"](space, num_bins=64)
    values = np.random.default_rng(0).uniform(-np.pi, np.pi, (20, 5, 3)).astype(np.float32)
    tokens = tokenizer.encode(values)
    assert tokens.shape == (20, 5, 3) and tokens.max() < tokenizer.vocab_size
    difference = np.angle(np.exp(1j * (tokenizer.decode(tokens) - values)))
    assert np.abs(difference).max() <= np.pi / 64 + 1e-6
    again = names["AngleTokenizer"].from_config(tokenizer.to_config(), tokenizer.tensors(), space)
    assert np.array_equal(again.encode(values), tokens)


def test_code_of_the_sessions_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(World, "from_pretrained", lambda name: wild_world())
    (source,) = code_blocks(ROOT / "docs" / "sessions.md", "python")
    exec(source, {"__name__": "page"})
    compared, parted = capsys.readouterr().out.splitlines()
    assert "first=None" in compared and int(parted) == 4


def test_tests_named_by_the_sessions_page_exist() -> None:
    text = (ROOT / "docs" / "sessions.md").read_text(encoding="utf-8")
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_session_*.py"))
    names = re.findall(r"`(test_\w+)`", text)
    assert len(names) > 5
    for name in names:
        assert f"def {name}(" in tests, f"docs/sessions.md names the test {name}, which does not exist"


def test_example_environment_conforms(monkeypatch: pytest.MonkeyPatch) -> None:
    specification = importlib.util.spec_from_file_location("garden", ROOT / "docs" / "examples" / "garden.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setattr(gymnasium.envs.registration, "registry", {})  # it may be registered already
    specification.loader.exec_module(module)
    env = gymnasium.make("Garden-v0", render_mode="rgb_array")
    check_env(env.unwrapped)
    env.reset(seed=0)
    assert sum(env.step(env.action_space.sample())[1] for _ in range(200)) > 0
