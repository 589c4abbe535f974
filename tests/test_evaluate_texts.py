"""Bits of texts: the n-gram is a distribution, the chain rule is one, and tables hold what was measured."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from text_environments import record_rooms, train_rooms

from magrathea.cli.main import main
from magrathea.evaluate.ngram import NGram
from magrathea.evaluate.results import Figure
from magrathea.evaluate.texts import TextResult, text_table
from magrathea.layout import Slot
from magrathea.model.pointer import Copies, PointerCopy

TEXTS = [((9, 8), (1, 2, 3, 0)), ((9, 7), (1, 2, 4, 0)), ((7,), (5, 0))] * 3


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_an_n_gram_gives_probabilities_that_add_up_to_one(order: int) -> None:
    gram = NGram(order, 10).fit(TEXTS)
    for before in ((), (9, 8), (9, 8, 1, 2), (6, 6), (1, 2)):
        shares = [gram.probability(before, token) for token in range(10)]
        assert min(shares) > 0 and math.isclose(sum(shares), 1, rel_tol=1e-9)


def test_an_n_gram_knows_what_it_has_read() -> None:
    gram, single = NGram(5, 10).fit(TEXTS), NGram(1, 10).fit(TEXTS)
    assert gram.bits((9, 8), (1, 2, 3, 0)) < 2 < single.bits((9, 8), (1, 2, 3, 0))
    assert gram.bits((9, 8), (1, 2, 3, 0)) < gram.bits((9, 8), (1, 2, 4, 0)) < gram.bits((9, 8), (4, 4, 4, 4))


def test_drawing_and_copying_are_one_distribution() -> None:
    weights = torch.rand(5, 7).softmax(-1)
    copies = Copies(torch.randn(5), weights, torch.randint(11, (5, 7)))
    torch.testing.assert_close(copies.mix(torch.randn(5, 11)).exp().sum(-1), torch.ones(5), atol=1e-5, rtol=0)


def test_a_pointer_copies_no_more_than_there_is() -> None:
    pointer = PointerCopy(Slot(name="observation", role="observation", vocab_size=9, grid=(1, 4)), 2, 12)
    recent = torch.tensor([[[1, 2, 3, 0], [-1, -1, -1, -1]], [[9, 9, 9, 9], [-1, -1, -1, -1]]])
    copies = pointer(torch.randn(2, 4, 12), recent)
    assert torch.allclose(copies.weights[0, :, 4:], torch.zeros(4, 4)) and (copies.gate[1] < -1000).all()
    assert (copies.weights[0].argmax(-1) == torch.arange(4)).float().mean() >= 0.5  # at first its own place


def test_the_table_says_how_much_of_dreams_agrees_with_the_game() -> None:
    real, none = Figure(1.0, 0.9, 1.0, episodes=3, count=38), Figure()
    result = TextResult("observation", agreement={"exits that exist": {"dreams": none, "reality": real}})
    assert text_table(result).splitlines()[-1] == "| exits that exist | none said | 100.0% (90.0% … 100.0%) of 38 |"


@pytest.mark.slow
def test_the_command_prints_tables_of_a_world_of_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_rooms("text", tmp_path / "data")
    train_rooms(tmp_path / "data", tmp_path / "world")
    arguments = [
        str(tmp_path / "world"),
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "report"),
        "--pattern",
        "roof",
    ]
    assert main(["eval", "text", *arguments]) in (None, 0)
    printed = capsys.readouterr().out
    assert "| 5-gram of words |" in printed and "| left to right | 16 |" in printed
    (found,) = json.loads((tmp_path / "report" / "text.json").read_text())
    bits = found["bits_per_byte"]
    assert all(0 < value < 8 for value in bits.values())
    assert bits["world"] < bits["copying the last text, or a 1-gram"]
    confident = found["exact"]["by confidence"]
    assert set(confident) == {"1", "2", "4", "8", "16"} | {max(confident, key=int)}
    assert np.isclose(confident[max(confident, key=int)]["all"], 1, atol=0.3)
    assert set(found["num_filled"]) == {"all", "new", "seen before", "/roof/", "/roof/ new", "/roof/ seen before"}
