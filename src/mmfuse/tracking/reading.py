"""Read earlier results of a study from MLflow, at the user's request; no job does this."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mmfuse.errors import UserError
from mmfuse.tracking import PARENT_TAG
from mmfuse.tracking.servers import answers_needed, connect, default_uri, page, shown_uri


def fetch_kept(root: Path, run: str, *, study: str | None, name: str, folder: Path) -> tuple[Path, str | None]:
    """Fetch a file that is stored with the run of a study.

    Args:
        root: The project's root.
        run: Name or id of a study's run, or of one of a system or job below it.
        study: The study in which to look for a name; None for all studies.
        name: The file.
        folder: Where to put it.

    Returns:
        The file, and the system of the run (METHOD.VARIANT.sSEED), None for the whole study.

    Raises:
        UserError: there is no such run, several have that name, or it has no such file.
    """
    uri = default_uri(root)
    shown = shown_uri(uri, root)
    if _no_database(uri):
        raise UserError(
            f"{run} is neither a folder nor a commit, and there is no MLflow database.",
            expected=f"a folder with results, a commit with them, or a run in {shown}",
            fix="name a folder, or run the command in the root of the project that tracked the run",
        )
    with answers_needed(f"MLflow at {shown} does not answer.", uri):
        client = connect(uri)
        found = _runs_called(client, run, study)
        if len(found) != 1:
            raise UserError(
                f"{run} is neither a folder nor a commit, and MLflow has {len(found) or 'no'} runs of that name.",
                expected=f"one run in {shown}",
                found=", ".join(one.info.run_id for one in found) or None,
                fix="`make ui` shows the names and ids; use the id if several runs have the same name",
            )
        top = found[0]
        while PARENT_TAG in top.data.tags:
            top = client.get_run(top.data.tags[PARENT_TAG])
        if not any(item.path == name for item in client.list_artifacts(top.info.run_id)):
            raise UserError(
                f"The run {top.info.run_name} has no results.",
                expected=f"{name}, which the stage `report` stores with the run of a study",
                fix="complete the study, or name the run of a complete one",
            )
        path = Path(client.download_artifacts(top.info.run_id, name, str(folder)))
    tags = found[0].data.tags
    system = "{method}.{variant}.s{seed}".format(**tags) if {"method", "variant", "seed"} <= tags.keys() else None
    return path, system


def hours_of(root: Path, run: str | None) -> float:
    """Return the hours from the start to the end of a job's run, including pauses between a kill and the next start.

    Args:
        root: The project's root.
        run: The run's id in the job's run.json; None if it was not tracked.

    Raises:
        UserError: MLflow does not have the run, or it has not ended.
    """
    uri = default_uri(root)
    shown = shown_uri(uri, root)
    fix = "give the hours yourself"
    if run is None or _no_database(uri):
        raise UserError("The duration of a job is unknown.", expected=f"its run in {shown}", found=run, fix=fix)
    with answers_needed(f"MLflow at {shown} does not answer.", uri):
        found = [one for one in _runs_called(connect(uri), run, None) if one.info.end_time]
    if len(found) != 1:
        raise UserError("The duration of a job is unknown.", expected=f"the run {run} in {shown}, ended", fix=fix)
    hours = float(found[0].info.end_time - found[0].info.start_time) / 3_600_000
    if hours < 0:
        raise UserError(
            "The duration of a job is unknown.", expected=f"the run {run} in {shown} to end after its start",
            found=f"{hours:.2f} hours: the clock was set back", fix=fix,
        )  # fmt: skip
    return hours


def studies(root: Path) -> list[tuple[str, str]]:
    """Return the name of each tracked study, and the address of MLflow's page with its runs.

    Raises:
        UserError: MLflow does not answer.
    """
    uri = default_uri(root)
    if _no_database(uri):
        return []
    with answers_needed(f"MLflow at {shown_uri(uri, root)} does not answer.", uri):
        found = connect(uri).search_experiments(order_by=["name"])
    return [(one.name, page(uri, root, one.experiment_id)) for one in found if one.name != "Default"]


def _no_database(uri: str) -> bool:
    return uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file()


def _runs_called(client: Any, run: str, study: str | None) -> list[Any]:
    """Return the runs with an id or a name."""
    experiments = [e.experiment_id for e in client.search_experiments() if study in {None, e.name}]
    if re.fullmatch("[0-9a-f]{32}", run):
        every = [e.experiment_id for e in client.search_experiments()]
        return list(client.search_runs(every, f"attributes.run_id = '{run}'"))
    quoted = run.replace("'", "")
    return list(client.search_runs(experiments, f"attributes.run_name = '{quoted}'")) if experiments else []
