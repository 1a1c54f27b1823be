"""What strangers and accidents hand to mmfuse: each bad input is refused with one clear message, and nothing of it runs."""

from __future__ import annotations

import re

import pytest

import bad_inputs
import bad_texts
from mmfuse.errors import UserError

CORPUS = [
    bad
    for family in (
        bad_inputs.archives, bad_inputs.images, bad_inputs.weights, bad_inputs.packs,
        bad_texts.parameters, bad_texts.catalogs, bad_texts.labels, bad_texts.tables,
    )
    for bad in family()
]  # fmt: skip


@pytest.mark.parametrize("bad", CORPUS, ids=lambda bad: ascii(bad.name))
def test_a_bad_input_is_refused(bad, tmp_path):
    call = bad.make(tmp_path)
    with pytest.raises(UserError) as caught:
        call()
    said = str(caught.value)
    assert re.search(bad.says, said), said
    assert caught.value.exit_code == 2
    assert caught.value.expected is not None or caught.value.fix is not None, "neither what is expected nor what to do"
    assert len(said) < 10_000
    assert not (tmp_path / "code_was_run").exists()
    assert not list(tmp_path.parent.glob("evil*")) and not list(tmp_path.rglob("evil*"))
    assert not list(tmp_path.rglob("*.part")), "something half-written was left"
