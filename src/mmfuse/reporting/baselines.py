"""Whether a learned network is ahead of the training-free baselines: the kind of each system, and the answer in words.

Networks are systems that the study trains and those with given weights. Images that were fused elsewhere count as
neither, because the study does not know how they were made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmfuse.reporting.study import Study
from mmfuse.study import plan
from mmfuse.study.plan import System
from mmfuse.study.types import Parameters

TRAINED, SHIPPED, GIVEN = "trained in this study", "shipped weights", "weights from elsewhere"
EXTERNAL, FREE = "images from elsewhere", "training-free"
NETWORKS = (TRAINED, SHIPPED, GIVEN)
AHEAD, TIED, BEHIND = "is ahead of", "cannot be distinguished from", "is behind"


@dataclass(frozen=True)
class Match:
    """The best network and the best training-free baseline of one test set, by mean rank.

    Attributes:
        dataset: The test set.
        network: The network's label.
        kind: The origin of its weights, one of `NETWORKS`.
        rank: Its mean rank.
        baseline: The baseline's label.
        against: Its mean rank.
        result: `AHEAD` or `BEHIND` if the ranks differ by more than the critical difference, else `TIED`.
    """

    dataset: str
    network: str
    kind: str
    rank: float
    baseline: str
    against: float
    result: str

    @property
    def words(self) -> str:
        """The match in one line."""
        network = f"{self.network} ({self.rank:.2f}, {self.kind})"
        return f"{network} {self.result} {self.baseline} ({self.against:.2f})"


def kind(parameters: Parameters, system: System) -> str:
    """Return the kind of a system: one of `NETWORKS`, `EXTERNAL` or `FREE`."""
    if system.variant == plan.EXTERNAL:
        return EXTERNAL
    if plan.shipped_weights(parameters, system):
        return SHIPPED
    if plan.given_weights(parameters, system):
        return GIVEN
    return TRAINED if plan.is_trained(parameters, system) else FREE


def match(study: Study, dataset: str) -> Match | None:
    """Compare the best network of a test set with the best training-free baseline; None if one of them is missing."""
    groups, ranked = study.groups[dataset], study.boards[dataset].ranking
    if ranked is None:
        return None
    kinds = [kind(study.parameters, group.members[0].system) for group in groups]
    order = sorted(range(len(groups)), key=lambda i: float(ranked.ranks[i]))
    network = next((i for i in order if kinds[i] in NETWORKS), None)
    baseline = next((i for i in order if kinds[i] == FREE), None)
    if network is None or baseline is None:
        return None
    rank, against = float(ranked.ranks[network]), float(ranked.ranks[baseline])
    apart = abs(rank - against) > ranked.critical
    result = (AHEAD if rank < against else BEHIND) if apart else TIED
    return Match(dataset, groups[network].label, kinds[network], rank, groups[baseline].label, against, result)


def opening(matches: Sequence[Match], others: Sequence[str]) -> str:
    """Say on which test sets a learned network is ahead of every training-free baseline.

    Args:
        matches: Those of all test sets that have a network and a baseline.
        others: The test sets that lack one of them, or on which nothing can be ranked.
    """
    if not matches:
        return "No test set has both a learned network and a training-free baseline that can be ranked."
    ahead = [one for one in matches if one.result == AHEAD]
    count = len(matches)
    subject = "A learned network is" if ahead else "No learned network is"
    text = f"{subject} ahead of every training-free baseline on {_extent(matches, len(ahead))}"
    if ahead:
        sets: dict[str, list[str]] = {}
        for one in ahead:
            sets.setdefault(f"{one.network} ({one.kind})", []).append(one.dataset)
        named = [name if count == 1 else f"{name} on {listed(where)}" for name, where in sets.items()]
        text += f": {'; '.join(named)}"
    behind = [one.dataset for one in matches if one.result == BEHIND]
    tied = [one.dataset for one in matches if one.result == TIED]
    text += "."
    if behind:
        text += f" On {listed(behind)} a baseline is ahead of every network."
    if tied:
        text += f" On {listed(tied)} the best network and the best baseline cannot be distinguished."
    if others:
        text += f" Not compared: {listed(others)}, without a network, a baseline or a mean rank."
    return text


def _extent(matches: Sequence[Match], ahead: int) -> str:
    """Return on how many of the test sets, in words."""
    if len(matches) == 1:
        return matches[0].dataset
    if not ahead:
        return f"any of the {len(matches)} test sets"
    return f"all {len(matches)} test sets" if ahead == len(matches) else f"{ahead} of {len(matches)} test sets"


def listed(names: Sequence[str]) -> str:
    """Return names as a list in a sentence."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
