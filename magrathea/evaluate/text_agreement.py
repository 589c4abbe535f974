"""Whether what dreams write agrees with what happened before in them and with the real game, against recordings."""

from __future__ import annotations

import numpy as np

from magrathea.data.make_env import closed_after, make_env_from_metadata
from magrathea.evaluate.environment_hooks import has_text_checks, text_checks
from magrathea.evaluate.recordings import Subject
from magrathea.evaluate.results import Curves
from magrathea.evaluate.rollouts import Rollouts, choose_starts, context_and_least, roll_out
from magrathea.evaluate.slots import leaf_key, leaf_of
from magrathea.evaluate.statistics import Tally, wilson
from magrathea.layout import Slot
from magrathea.spaces import leaf_spaces_of

HORIZON = 32


def text_agreement(subject: Subject, slot: Slot) -> Curves:
    """Dream on from held-out episodes under their commands, and check what both say after that moment.

    Returns:
        By the name of a check the share of statements that are right in "dreams" and in "reality", with intervals;
        empty where no plug-in of the environment has checks of texts, and where actions are no texts.
    """
    env_id, options = subject.dataset.env_id, subject.options
    actions = subject.recordings[0].episode.action
    is_told = isinstance(actions, np.ndarray) and actions.dtype.kind == "O"
    if not has_text_checks(env_id) or not is_told:
        return {}
    context, least = context_and_least(subject.recordings, subject.world.config.model.window)
    starts = choose_starts(
        subject.recordings, context, HORIZON, options.num_dreams, options.seed, least, apart=HORIZON // 2
    )
    rollouts = roll_out(subject.world, subject.recordings, starts, HORIZON, budget=subject.budget, seed=options.seed)
    tally = _tally(subject, slot, rollouts)
    return {
        name: {source: wilson(tally.figure(f"{source}/{name}")) for source in ("dreams", "reality")}
        for name in (each.removeprefix("reality/") for each in tally.names("reality/"))
    }


def _tally(subject: Subject, slot: Slot, rollouts: Rollouts) -> Tally:
    keys = [key for key, _ in leaf_spaces_of(subject.world.observation_space)]
    dreams = rollouts.dream.observation[keys.index(leaf_key(subject.world, slot))]
    tally = Tally(len(subject.recordings))
    with closed_after(make_env_from_metadata(subject.dataset.metadata)) as env:
        for (index, start), dreamt, valid in zip(rollouts.starts, dreams, rollouts.valid, strict=True):
            episode = subject.recordings[index].episode
            end = start + int(valid.sum())
            commands = [str(command) for command in episode.action[:end]]
            recorded = [str(text) for text in leaf_of(episode.observation, slot)[: end + 1]]
            known = recorded[: start + 1]
            env.reset(seed=episode.seed)
            for source, texts in (("dreams", [*known, *map(str, dreamt[1 : end - start + 1])]), ("reality", recorded)):
                for name, counts in text_checks(subject.dataset.env_id, env, texts, commands).items():
                    right, num = counts[start:].sum(0)
                    tally.add(f"{source}/{name}", [index], [right], [num])
    return tally
