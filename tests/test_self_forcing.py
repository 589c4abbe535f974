"""Self-forcing: which steps of the context the model samples, and that nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Generator

from magrathea import masks
from magrathea.data import Dataset
from magrathea.memory import memory_class
from magrathea.model.joint import JointModel
from magrathea.model.transformer import MaskedTransformer
from magrathea.progress import Stages
from magrathea.train.batches import Batch, SizedBatch, draw_batch
from magrathea.train.cache import TokenCache, encode_dataset
from magrathea.train.self_forcing import sample_context
from magrathea.train.trainer import update_loss
from magrathea.world import World

CONFIG = SizedBatch(num_segments=24, num_steps=6, corrupt_prob=0, self_forcing_prob=0.7)


@pytest.fixture(scope="module")
def cache(debug_world: World, debug_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> TokenCache:
    folder: Path = tmp_path_factory.mktemp("tokens")
    encoded = encode_dataset(debug_dataset, debug_dataset.split()[0], debug_world, Stages(quiet=True))
    return TokenCache.build(encoded, debug_world, folder)


@pytest.fixture(scope="module")
def batch(cache: TokenCache) -> Batch:
    return draw_batch(cache, CONFIG, Generator().manual_seed(3))


@pytest.fixture(scope="module")
def untrained(debug_world: World) -> MaskedTransformer:
    """A model with random weights, whose samples are all wrong somewhere and depend on the past."""
    torch.manual_seed(0)
    model = MaskedTransformer(debug_world.layout, debug_world.config.model, memory_class("window"))
    for weights in model.parameters():
        weights.data += 0.3 * torch.randn_like(weights)
    return model


def test_only_observations_of_the_chosen_steps_are_sampled(untrained: MaskedTransformer, batch: Batch) -> None:
    layout, result = untrained.layout, sample_context(untrained, batch)
    assert batch.sample_seeds is not None
    chosen = batch.sample_seeds > 0
    assert chosen.any() and not chosen.any(1).all()
    changed = result.past_tokens != batch.past_tokens
    assert not changed[:, 0].any() and not changed[:, 1:][~chosen].any()
    assert not changed[..., ~masks.forward_dynamics(layout)].any() and not changed[..., masks.judge(layout)].any()
    present = (batch.tokens != layout.absent_tokens).all(-1)
    assert changed[:, 1:].any(-1)[chosen & present].float().mean() > 0.9
    assert not changed[:, 1:][chosen & ~present].any() and (chosen & ~present).any()
    assert torch.equal(result.tokens, batch.tokens) and torch.equal(result.hole_mask, batch.hole_mask)


def test_a_trained_model_samples_the_recorded_steps(debug_world: World, batch: Batch) -> None:
    sampled = sample_context(debug_world.model, batch, num_rounds=3).past_tokens
    assert (sampled == batch.past_tokens).float().mean() > 0.99


def test_later_rounds_are_conditioned_on_earlier_samples(untrained: MaskedTransformer, batch: Batch) -> None:
    once, twice = (sample_context(untrained, batch, rounds).past_tokens for rounds in (1, 2))
    assert batch.sample_seeds is not None
    first_sampled = (
        (batch.sample_seeds > 0).int().argmax(1)
    )  # the first sampled step has a recorded context in every round
    segments = torch.arange(len(first_sampled))
    assert torch.equal(once[segments, 1 + first_sampled], twice[segments, 1 + first_sampled]) and not torch.equal(
        once, twice
    )


def test_samples_do_not_depend_on_other_segments(untrained: MaskedTransformer, batch: Batch) -> None:
    whole = sample_context(untrained, batch).past_tokens
    assert torch.equal(whole, sample_context(untrained, batch).past_tokens)
    for rank in range(2):
        part = sample_context(untrained, batch.shard(rank, 2, torch.device("cpu"))).past_tokens
        assert torch.equal(part, whole[rank::2])


def test_no_gradient_flows_through_the_sampled_context(untrained: MaskedTransformer, batch: Batch) -> None:
    """The gradient equals that of a context of constant tokens."""
    sampled = sample_context(untrained, batch)
    assert not any(weights.grad is not None for weights in untrained.parameters())
    gradients = []
    for each in (sampled, replace(sampled, past_tokens=sampled.past_tokens.clone(), sample_seeds=None)):
        untrained.zero_grad()
        update_loss(JointModel.of(untrained), [(0, each)]).backward()
        gradients.append([None if weights.grad is None else weights.grad.clone() for weights in untrained.parameters()])
    assert all((a is None) == (b is None) and (a is None or torch.equal(a, b)) for a, b in zip(*gradients, strict=True))
    untrained.zero_grad(set_to_none=True)


def test_steps_without_a_known_action_are_not_sampled(cache: TokenCache) -> None:
    batch = draw_batch(cache, replace(CONFIG, self_forcing_prob=1.0), Generator().manual_seed(0))
    hidden = batch.hole_mask[..., cache.layout.span("action")].any(-1)
    assert batch.sample_seeds is not None and hidden.any() and not batch.sample_seeds[hidden].any()
    assert draw_batch(cache, replace(CONFIG, self_forcing_prob=0.0), Generator().manual_seed(0)).sample_seeds is None
