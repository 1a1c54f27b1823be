"""The commit in a record is that of the code that ran."""

import os
import subprocess

import pytest

from mmfuse.pipeline.revision import Revision, revision_of

IDENTITY = ["-c", "user.name=t", "-c", "user.email=t@t"]


def git(folder, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    run = subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return run.stdout.strip()


def repository(folder, name="a.py"):
    (folder / "src").mkdir(parents=True)
    (folder / "src" / name).write_text("1\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, *IDENTITY, "commit", "-qm", "x")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def project(tmp_path):
    repository(tmp_path / "project")
    return tmp_path / "project"


def test_a_clean_repository(project):
    assert revision_of(project) == Revision(git(project, "rev-parse", "HEAD"), None)


def test_no_repository(tmp_path):
    assert revision_of(tmp_path) == Revision(None, None)


def test_a_repository_around_the_project_is_another_one(project):
    (project / "inner/src").mkdir(parents=True)
    assert revision_of(project / "inner") == Revision(None, None)


def test_git_dir_of_another_repository_does_not_matter(project, tmp_path, monkeypatch):
    other = repository(tmp_path / "other", "b.py")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other/.git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "other"))
    found = revision_of(project)
    assert found == Revision(git(project, "rev-parse", "HEAD"), None)
    assert found.commit != other


CHANGES = {
    "edited": lambda project: (project / "src/a.py").write_text("2\n"),
    "edited otherwise": lambda project: (project / "src/a.py").write_text("3\n"),
    "new": lambda project: (project / "src/b.py").write_text("2\n"),
    "new with other content": lambda project: (project / "src/b.py").write_text("3\n"),
    "new with another name": lambda project: (project / "src/c.py").write_text("2\n"),
    "removed": lambda project: (project / "src/a.py").unlink(),
    "binary": lambda project: (project / "src/a.py").write_bytes(b"\0\xff"),
    "not UTF-8": lambda project: (project / "src/a.py").write_bytes(b"\xff\n"),
    "executable": lambda project: (project / "src/a.py").chmod(0o755),
}


SETTINGS = {
    "status.showUntrackedFiles": "no", "diff.noprefix": "true", "core.quotePath": "false", "diff.renames": "copies",
    "diff.external": "false", "color.ui": "always",
}  # fmt: skip


def test_every_change_has_a_digest_of_its_own(project):
    found = {}
    for name, change in CHANGES.items():
        change(project)
        found[name] = revision_of(project).changes
        for setting, value in SETTINGS.items():
            git(project, "config", setting, value)
            assert revision_of(project).changes == found[name], setting
            git(project, "config", "--unset", setting)
        git(project, "reset", "-q", "--hard")
        git(project, "clean", "-qfd")
    assert None not in found.values()
    assert len(set(found.values())) == len(CHANGES)
    assert revision_of(project).changes is None


def test_staged_changes_count_and_results_do_not(project):
    (project / "dvc.lock").write_text("x")
    (project / "reports").mkdir()
    (project / "reports/a.csv").write_text("x")
    assert revision_of(project).changes is None
    (project / "src/a.py").write_text("2\n")
    edited = revision_of(project).changes
    git(project, "add", "src/a.py")
    assert revision_of(project).changes == edited
