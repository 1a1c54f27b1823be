"""What the documents say is true: each command exists with its options, those that can be run here are run."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from scipy import ndimage

from conftest import ROOT, draw_image
from mmfuse.cli import app as cli
from mmfuse.data.images import write_image
from mmfuse.study.stages import STAGES
from mmfuse.weights import shipped

USAGE = typer.BadParameter.__mro__[1]  # the class of all errors of a command line
PAGES = sorted(
    [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md", "reports/README.md", "envs/README.md")]
    + [*(ROOT / "docs").rglob("*.md")]
)
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
# programs that are not this project's, or that need what a test has not: they are only known, not checked
UNCHECKED = {
    "git": "part of every system that clones this project",
    "cd": "a word of the shell",
    "source": "a word of the shell",
    "export": "a word of the shell; the variables are read by the tests of what they are for",
    "sed": "part of every Linux",
    "pre-commit": "needs an installation of its own",
    "apt-get": "needs root and the network",
    "pip": "needs the network",
    ".venv/bin/pip": "needs the network",
    "ssh": "needs another machine",
    "while": "a word of the shell",
    "do": "a word of the shell",
    "done": "a word of the shell",
    "grep": "part of every Linux",
    "sleep": "part of every Linux",
}
PLACEHOLDERS = {"NAME": "evaluate", "URL": "x"}


@dataclass(frozen=True)
class Command:
    """One command of a page; `whole` if it can be typed as it stands, else it is named in a sentence."""

    page: Path
    words: tuple[str, ...]
    whole: bool = True

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {shlex.join(self.words)}"


def blocks(page, *languages):
    """The contents of a page's fenced blocks in some languages."""
    return [text for language, text in BLOCK.findall(page.read_text(encoding="utf-8")) if language in languages]


def split(text):
    """The commands of a shell text, without assignments, redirections and comments."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.commenters, lexer.wordchars = "#", lexer.wordchars + "@%:,+[]{}!^…~"
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set(";&|"):
            words.append(word)
            continue
        while words and re.match(r"\w+=", words[0]):
            words.pop(0)
        if words:
            yield tuple(words)
        words = []


def shell_lines(page):
    """The lines that are typed: whole `sh` blocks, and what follows the prompt in `console` blocks."""
    for text in blocks(page, "sh"):
        yield from text.replace("\\\n", " ").splitlines()
    for text in blocks(page, "console"):
        yield from (line[2:] for line in text.splitlines() if line.startswith("$ "))


def commands_of(page):
    for line in shell_lines(page):
        yield from (Command(page, words) for words in split(line))
    prose = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for text in re.findall(r"`((?:mmfuse|snakemake|dvc|make|pytest) [^`]+)`", prose.replace("\n", " ")):
        yield from (Command(page, words, whole=False) for words in split(re.sub(r" +", " ", text)))


COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands_of(page)))


def test_the_pages_have_commands():
    assert len([c for c in COMMANDS if c.whole]) > 90
    assert len([c for c in COMMANDS if not c.whole]) > 60
    assert {"mmfuse", "snakemake", "dvc", "make", "pytest", "python", "mlflow", "sbatch"} <= {
        c.words[0] for c in COMMANDS
    }


def test_a_block_has_a_known_language():
    known = {"sh", "console", "python", "yaml", "ini", "html", "text"}
    for page in PAGES:
        assert {language for language, _ in BLOCK.findall(page.read_text(encoding="utf-8"))} <= known, page


def check_mmfuse(words, *, whole):
    """Parse as the command line does; of what a sentence names, only the names of commands and options."""
    command, above, name = typer.main.get_command(cli.app), None, "mmfuse"
    words = list(words)
    while True:
        if not whole and not hasattr(command, "commands"):
            known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
            used = {word.partition("=")[0] for word in words if re.match("--?[a-z]", word)}
            assert used <= known | {"--help", "-h"}, used - known
            return
        if words == ["--install-completion"]:
            words = ["--help"]  # it would edit the settings of the user's shell; tests/test_cli.py has the option
        try:
            context = command.make_context(name, words, parent=above)
        except typer.Exit:
            return  # --help, --version
        if not hasattr(command, "commands"):
            return
        rest = [*context._protected_args, *context.args]
        name, words, above = rest[0], rest[1:], context
        found = command.get_command(context, name)
        assert found is not None, f"there is no command {name}"
        command = found


def check_parsed(parser, words, *, whole):
    if whole:
        parser.parse_args(words)
        return
    text = " ".join(option for action in every_action(parser) for option in action.option_strings).split()
    assert {word.partition("=")[0] for word in words if re.match("--[a-z]", word)} <= set(text)


def every_action(parser):
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from every_action(inner)


def check_snakemake(words, *, whole):
    from snakemake.cli import get_argument_parser

    check_parsed(get_argument_parser(), list(words), whole=whole)
    known = {path for stage in STAGES.values() for path, _ in stage.patterns().values()}
    for word in words:
        if re.match("(data|reports)/", word):
            assert any(re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), word) for path in known), word
    if "--workflow-profile" in words:
        assert (ROOT / words[list(words).index("--workflow-profile") + 1] / "config.yaml").is_file()


def check_dvc(words, *, whole):
    from dvc.cli.parser import get_main_parser

    check_parsed(get_main_parser(), list(words), whole=whole)


def check_make(words):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {word for word in words if "=" not in word} <= set(targets)


def check_pytest(words):
    for word in words:
        path = word.partition("::")[0]
        assert not path.startswith("tests/") or list(ROOT.glob(path)), word


def check_python(words):
    if words[0] == "-c":
        compile(words[1], "a page", "exec")
        return
    script = ROOT / words[0]
    texts = "".join(
        path.read_text(encoding="utf-8") for path in script.parent.glob(f"{script.stem.split('_')[0]}_*.py")
    )
    assert script.read_text(encoding="utf-8")
    own = words[: words.index("--")] if "--" in words else words
    for word in own[1:]:
        if word.startswith("--"):
            assert f'"{word}"' in texts, word


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_exists_with_its_options(command):
    program, *words = command.words
    words = [PLACEHOLDERS.get(word, word) if program == "mmfuse" and "stage" in words else word for word in words]
    if program == "mmfuse":
        check_mmfuse(words, whole=command.whole)
    elif program == "snakemake":
        check_snakemake(words, whole=command.whole)
    elif program == "dvc":
        check_dvc(words, whole=command.whole)
    elif program == "make":
        check_make(words)
    elif program == "pytest":
        check_pytest(words)
    elif program == "python":
        check_python(words)
    elif program == "mlflow":
        from mlflow.cli import cli as mlflow

        mlflow.commands[words[0]].make_context(words[0], words[1:])
    elif program == "cp":
        assert words[0] == "CONFIGURATION" or (ROOT / words[0]).is_file()
    elif program == "sbatch":  # Slurm's own options are tested by tests/test_slurm.py
        for inner in split(words[words.index("--wrap") + 1]):
            test_a_command_exists_with_its_options(Command(command.page, inner))
    else:
        assert program in UNCHECKED


@pytest.mark.parametrize("words", ["mmfuse evalute", "mmfuse fuse A/ B/", "mmfuse fuse A/ B/ C/ --wieghts x",
                                   "mmfuse list weigths", "mmfuse params set", "snakemake --coers 1", "dvc rerpo",
                                   "dvc exp run --set-parm a=1", "make rnu", "pytest tests/test_none.py", "none",
                                   "python workflow/scripts/none.py", "snakemake reports/score/x.csv",
                                   "python workflow/scripts/dvc_slurm.py --dry-rnu", "cp none params.yaml",
                                   "sbatch --wrap 'dvc rerpo'"])  # fmt: skip
def test_a_wrong_command_is_found(words):
    from dvc.cli import DvcParserError

    [command] = [Command(ROOT / "README.md", found) for found in split(words)]
    with pytest.raises((AssertionError, USAGE, SystemExit, OSError, DvcParserError)):
        test_a_command_exists_with_its_options(command)


# ------------------------------------------------------------------------------------------- commands that are run here

RUN = [
    command
    for command in COMMANDS
    if command.whole and command.words[:2] in {("mmfuse", "fuse"), ("mmfuse", "evaluate"), ("mmfuse", "list")}
]
NOT_RUN = {
    "weighted": "the method is the page's example, see test_examples.py",
    "MAE": "the metric is the page's example, see test_examples.py",
    "data/": "needs the weights of a study or of other authors",
    ".mp4": "films; test_video.py runs the commands of the page",
    ".nii.gz": "volumes; test_volumes.py runs the commands of the page",
}


def same_view(seed):
    """An image that can be aligned with itself only in one way."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(0, 1, (96, 112)), 2)
    return np.clip(128 + 200 * noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("command", RUN, ids=str)
def test_a_command_for_own_images_runs(mmfuse, tmp_path, monkeypatch, command):
    """Each in a folder with all the images that the pages name."""
    if any(reason in word for word in command.words for reason in NOT_RUN):
        pytest.skip("; ".join(NOT_RUN[key] for key in NOT_RUN if any(key in word for word in command.words)))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "workflow/schemas", "workflow/schemas")
    (tmp_path / "data").mkdir()
    shutil.copy(ROOT / "data/catalog.yaml", "data/catalog.yaml")
    folders = [*"AB", "INFRARED", "VISIBLE", "MRI", "PET", "IR", "VI", "FUSED", "OUT", "MINE", "OTHER"]
    used = " ".join(command.words)
    for number, folder in enumerate(folders if command.words[1] != "list" else []):
        if f"{folder}/" in used and (folder != "OUT" or command.words[1] == "evaluate"):
            for image in range(3):
                drawn = same_view(image) if "--align" in used else draw_image(number + 10 * image, 48, 56)
                write_image(tmp_path / folder / f"n{image}.png", drawn)
    for number, name in enumerate(("n1_ir.png", "n1_vis.jpg", "n2_ir.png", "n2_vis.jpg") if "BOTH/" in used else ()):
        write_image(tmp_path / "BOTH" / name, draw_image(number, 48, 56))
    for number, name in enumerate(("infrared.png", "visible.png")):
        write_image(tmp_path / name, draw_image(number, 48, 56))
    name = next(iter(shipped.read_index().weights))
    words = [name if word == "NAME" else word for word in command.words[1:]]
    code, out, err = mmfuse(*words)
    assert code == 0, err
    assert out
    if "--out" in words:
        assert Path(words[words.index("--out") + 1]).is_file()


# ------------------------------------------------------------------------------------------------------ other sentences


def test_make_clean_removes_what_the_jobs_write_and_nothing_that_a_person_put_there():
    said = subprocess.run(["make", "-n", "clean"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    [(_, _, *removed)] = split(said)
    pattern = "|".join(re.escape(one).replace(r"\*", "[^/]*") for one in removed)
    written = [path for stage in STAGES.values() for path, _ in stage.patterns().values()]
    written += [stage.resume for stage in STAGES.values() if stage.resume] + ["logs/x.log"]
    assert len(written) > 20
    for path in written:
        assert re.match(f"({pattern})(/|$)", path), path
    for path in ("data/manual/x", "data/external/x", ".venv/x", "mlflow.db", "mlruns/x", "data/catalog.yaml",
                 "params.yaml", "reports/README.md", "data/README.md", "dvc.lock"):  # fmt: skip
        assert not re.match(f"({pattern})(/|$)", path), path


def test_no_source_file_and_no_function_is_longer_than_contributing_says():
    import ast

    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "workflow").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") < 400 or path.name == "stages.py", path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
                assert body[-1].end_lineno - body[0].lineno < 60, f"{path}: {node.name}"


def test_yaml_blocks_are_yaml():
    for page in PAGES:
        for text in blocks(page, "yaml"):
            yaml.safe_load(text.replace("{...}", "{}"))
