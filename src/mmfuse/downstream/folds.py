"""Division of labelled pairs into training, validation and test folds for a detector or segmenter.

A scene is never in two folds. The scene of a pair is extracted from its name, because frames of one place are similar
and a detector may memorise the place.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmfuse.errors import UserError
from mmfuse.files.reading import damaged, read_table
from mmfuse.words import number_of

FOLDS = ("train", "val", "test")


def scene_of(name: str, rule: Mapping[str, Any] | None) -> str:
    """Return the scene of a pair: what the rule's pattern matches in its name, or without a rule the name itself.

    With `frames`, the pattern matches a number, and that many consecutive numbers count as one scene.

    Raises:
        UserError: the pattern does not match the name.
    """
    if rule is None:
        return name
    found = re.search(rule["pattern"], name)
    if found is None or not found.groups():
        raise UserError(
            f"The name {name!r} does not determine its scene.",
            expected=f"a name that matches {rule['pattern']}, with the scene as its first group",
            fix="correct division.scene in params.yaml",
        )
    return str(int(found[1]) // int(rule["frames"])) if rule.get("frames") else found[1]


def divide(names: Mapping[str, str], division: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Map each name to its scene and its fold.

    Args:
        names: Name to the catalog's split.
        division: `{by: catalog}` keeps the catalog's splits; `{by: shares, train, val, test, seed, scene}` assigns the
            scenes, in an order that depends only on the seed and their names, each to the fold that lacks most.

    Raises:
        UserError: there are no pairs for training or none for testing.
    """
    rule = division.get("scene")
    scenes = {name: scene_of(name, rule) for name in names}
    if division["by"] == "catalog":
        folds = {name: (scenes[name], split) for name, split in names.items()}
    else:
        dealt = _dealt(scenes, division)
        folds = {name: (scene, dealt[scene]) for name, scene in scenes.items()}
    used = {fold for _, fold in folds.values()}
    if not {"train", "test"} <= used:
        raise UserError(
            "These labelled pairs cannot be divided.",
            expected="pairs for training and pairs for testing",
            found=f"{number_of(len(names), 'pair')} in {number_of(len(set(scenes.values())), 'scene')}: "
            + (", ".join(sorted(used)) or "no fold"),
            fix="use more splits of the catalog, other shares, or a finer rule for scenes",
        )
    _check_disjoint(folds)
    return folds


def _dealt(scenes: Mapping[str, str], division: Mapping[str, Any]) -> dict[str, str]:
    counts: dict[str, int] = {}
    for scene in scenes.values():
        counts[scene] = counts.get(scene, 0) + 1
    order = sorted(counts, key=lambda scene: hashlib.sha256(f"{division['seed']}:{scene}".encode()).digest())
    whole = sum(division[fold] for fold in FOLDS)
    missing = {fold: division[fold] / whole * len(scenes) for fold in FOLDS}
    dealt = {}
    for scene in order:
        fold = max(FOLDS, key=lambda one: missing[one] / max(division[one], 1e-9) if division[one] else -1.0)
        dealt[scene] = fold
        missing[fold] -= counts[scene]
    return dealt


def _check_disjoint(folds: Mapping[str, tuple[str, str]]) -> None:
    seen: dict[str, str] = {}
    for name, (scene, fold) in folds.items():
        if seen.setdefault(scene, fold) != fold:
            raise UserError(
                f"The scene {scene!r} would be in two folds.",
                expected="scenes within one split of the catalog",
                found=f"{name} in {fold}, others of the scene in {seen[scene]}",
                fix="divide by shares, or correct division.scene",
            )


def read_folds(path: Path) -> dict[str, list[str]]:
    """Return the names of each fold from a file that the stage `divide` wrote.

    Raises:
        UserError: the file is missing or damaged.
    """
    found: dict[str, list[str]] = {fold: [] for fold in FOLDS}
    fix = "run the stage `divide` again"
    for row in read_table(path, ("name", "fold"), fix=fix):
        if row["fold"] not in found:
            raise damaged(path, ", ".join(FOLDS), row["fold"], fix)
        found[row["fold"]].append(row["name"])
    return found
