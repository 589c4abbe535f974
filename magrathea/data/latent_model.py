"""Learning actions that nobody recorded: an inverse model through a bottleneck of few codes, as those of LAPO (Schmidt
and Jiang 2024) and Genie (Bruce et al. 2024), whose forward model predicts motion where the past does not tell it.

1. *Targets.* A frame is cells of a few pixels. Each cell of the next frame has a set of offsets that draw it from what
   stands there in this frame, or none, which is a class of its own.
2. *Prior.* A network that sees this frame and the one before predicts them without any code. Where it fails, something
   moved in a way that the past does not tell: what is controlled, when the action changes, not what moves by itself.
3. *Codes.* A network that sees this frame alone predicts them for each code, and the best code learns (a mixture of
   experts, fitted by expectation and maximization under a falling temperature); cells count by the prior's surprise.
   With the frame before it would know actions that are held, and codes would tell changes of action.
4. *Inverse model.* A network that sees both frames learns the codes of the steps in which they are certain, and says
   that of every step. Codes that predict the same are merged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

CELL = 4  # pixels of a side
LEAST_REACH, REACH = 8, 1 / 6  # pixels, and share of the shorter side, up to which offsets are looked at
MOST_OFFSETS = 24
TOLERANCE = 12  # grey levels
SAMPLED = 192  # steps by which offsets are chosen
NUM_CELLS = 64  # of a step, the most surprising ones, that codes are to predict
MOST_SURPRISE = 3.0  # nats of a cell
WIDTH, DEPTH = 48, 4
BATCH = 64
LEARNING_RATE = 2e-3
CERTAIN = 5.0  # nats by which the best code is better than the second, where the inverse model learns it fully
PRIOR_UPDATES, CODE_UPDATES, INVERSE_UPDATES, LABEL_UPDATES = 600, 500, 300, 300
PRIOR_PASSES = 14  # over the steps at most; one that knew them by heart would not be surprised
STILL_WEIGHT = 0.2  # of cells that do not change, in what the prior learns
FIRST_TEMPERATURE = 0.5  # of the mean loss
PRICED = 0.6  # share of the updates in which codes that are used more cost more
MERGED = 0.05  # of what codes explain, below which two of them are merged

Report = Callable[[float], None]  # of a share 0…1 that is done


class Steps:
    """The steps of some episodes as tensors.

    Attributes:
        frames: (F, C, height, width) uint8 of all episodes, one after another; sides are multiples of cells.
        now: (T,) the frame at which each step begins; it leads to the one after.
        before: (T,) the frame before that; the same one, at the first step of an episode.
    """

    def __init__(self, episodes: list[np.ndarray]) -> None:
        """Episodes (T + 1, height, width[, C]) uint8."""
        height, width = (side // CELL * CELL for side in episodes[0].shape[1:3])
        cropped = [each[:, :height, :width].reshape(len(each), height, width, -1) for each in episodes]
        cropped = [torch.from_numpy(each).permute(0, 3, 1, 2) for each in cropped]
        self.frames = torch.cat(cropped).contiguous()
        ends = np.cumsum([len(each) for each in episodes])
        indices = [torch.arange(end - len(each), end - 1) for each, end in zip(episodes, ends, strict=True)]
        self.now = torch.cat(indices)
        self.before = torch.cat([torch.cat([each[:1], each[:-1]]) for each in indices])

    def __len__(self) -> int:
        return len(self.now)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return self.frames.shape[2] // CELL, self.frames.shape[3] // CELL

    @property
    def reach(self) -> int:
        """Pixels of the largest offsets."""
        return max(LEAST_REACH, int(REACH * min(self.frames.shape[2:])))

    def inputs(self, steps: Tensor, sees_before: bool = False, sees_next: bool = False) -> Tensor:
        """What networks see of steps (B,): this frame, how it changed, how it will change, and where: (B, ·, H, W)."""
        frames = self.frames[self.now[steps]].float() / 255 - 0.5
        rows, columns = (torch.linspace(-1, 1, side) for side in frames.shape[2:])
        parts = [frames, torch.stack(torch.meshgrid(rows, columns, indexing="ij")).expand(len(steps), -1, -1, -1)]
        if sees_before:
            parts.append(2 * (frames - self.frames[self.before[steps]].float() / 255 + 0.5))
        if sees_next:
            parts.append(2 * (self.frames[self.now[steps] + 1].float() / 255 - 0.5 - frames))
        return torch.cat(parts, 1)


class CellNet(nn.Module):
    """Residual 3x3 convolutions over the grid of cells: (B, C, height, width) -> (B, WIDTH, rows, columns)."""

    def __init__(self, num_channels: int, depth: int = DEPTH) -> None:
        super().__init__()
        self.embed = nn.Conv2d(num_channels, WIDTH, CELL, CELL)
        self.blocks = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(depth))

    def forward(self, pictures: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = F.relu(self.embed(pictures.to(memory_format=torch.channels_last)))
            for block in self.blocks:
                hidden = hidden + F.relu(block(hidden))
        return hidden.float()


# -- targets ----------------------------------------------------------------------------------------------------------
def drawn(steps: Steps, chosen: Tensor, offsets: list[tuple[int, int]]) -> Tensor:
    """Whether what stands at each offset in this frame draws each cell of the next one: (B, O, rows, columns)."""
    now, following = (steps.frames[steps.now[chosen] + later].to(torch.int16) for later in (0, 1))
    (height, width), (rows, columns), reach, found = now.shape[2:], steps.grid, steps.reach, []
    padded = F.pad(now, (reach, reach, reach, reach), value=-999)
    for row, column in offsets:
        moved = padded[:, :, reach - row : reach - row + height, reach - column : reach - column + width]
        wrong = (moved - following).abs().amax(1) > TOLERANCE
        found.append(~wrong.view(-1, rows, CELL, columns, CELL).any(4).any(2))
    return torch.stack(found, 1)


def choose_offsets(steps: Steps, rng: np.random.Generator) -> list[tuple[int, int]]:
    """No motion, and the offsets that draw most of the cells that change, chosen greedily."""
    reach = range(-steps.reach, steps.reach + 1)
    candidates = [(row, column) for row in reach for column in reach if (row, column) != (0, 0)]
    sample = torch.from_numpy(rng.permutation(len(steps))[:SAMPLED])
    draws = torch.cat([drawn(steps, part, [(0, 0), *candidates]) for part in sample.split(BATCH)])
    draws = draws[:, 1:].movedim(1, 0)[:, ~draws[:, 0]]  # (candidates, cells that change)
    offsets = [(0, 0)]
    left = torch.ones(draws.shape[1], dtype=torch.bool)
    for _ in range(MOST_OFFSETS):
        gains = (draws & left).sum(1)
        best = int(gains.argmax())
        if gains[best] < 5:
            break
        offsets.append(candidates[best])
        left &= ~draws[best]
    return offsets


def targets_of(steps: Steps, offsets: list[tuple[int, int]]) -> Tensor:
    """(T, O + 1, rows, columns) bool: the offsets that draw each cell, and the last class where none does."""
    parts = []
    for chosen in torch.arange(len(steps)).split(2 * BATCH):
        found = drawn(steps, chosen, offsets)
        parts.append(torch.cat([found, ~found.any(1, keepdim=True)], 1))
    return torch.cat(parts)


def set_loss(logits: Tensor, targets: Tensor, dim: int) -> Tensor:
    """Negative logarithm of the probability of a set of classes, at most 12 nats."""
    inside = logits.masked_fill(~targets, -1e4)
    return (torch.logsumexp(logits, dim) - torch.logsumexp(inside, dim)).clamp(max=12)


# -- networks ---------------------------------------------------------------------------------------------------------
class Prior(nn.Module):
    """What happens next, by this frame and the one before, without knowing the action."""

    def __init__(self, num_channels: int, num_classes: int) -> None:
        super().__init__()
        self.trunk = CellNet(2 * num_channels + 2)
        self.head = nn.Conv2d(WIDTH, num_classes, 1)

    def losses(self, steps: Steps, chosen: Tensor, targets: Tensor) -> Tensor:
        """(B, rows, columns) nats."""
        return set_loss(self.head(self.trunk(steps.inputs(chosen, sees_before=True))), targets, 1)


class Codes(nn.Module):
    """What happens next under each code, by this frame alone."""

    def __init__(self, num_channels: int, num_codes: int, num_classes: int) -> None:
        super().__init__()
        self.num_codes = num_codes
        self.trunk = CellNet(num_channels + 2)
        self.head = nn.Linear(WIDTH, num_codes * num_classes)
        with torch.no_grad():
            self.head.weight.mul_(2)  # codes that begin alike stay alike

    def losses(self, steps: Steps, chosen: Tensor, surprises: Surprises) -> Tensor:
        """(B, codes) nats."""
        hidden = self.trunk(steps.inputs(chosen)).flatten(2).transpose(1, 2)
        hidden = hidden.gather(1, surprises.cells[chosen, :, None].expand(-1, -1, WIDTH))
        logits = self.head(hidden).unflatten(2, (self.num_codes, -1))
        losses = set_loss(logits, surprises.targets[chosen, :, None], 3)
        return (losses * surprises.weights[chosen, :, None]).sum(1)


class InverseModel(nn.Module):
    """Which of some codes or actions leads from a frame to the next.

    Attributes:
        group: (codes,) of which action each code is.
    """

    def __init__(self, num_channels: int, num_codes: int) -> None:
        super().__init__()
        self.trunk = CellNet(2 * num_channels + 2)
        self.head = nn.Linear(5 * WIDTH, num_codes)
        self.group = torch.arange(num_codes)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, codes) logits of what `Steps.inputs` shows with the next frame."""
        hidden = self.trunk(pictures)
        return self.head(torch.cat([F.adaptive_avg_pool2d(hidden, 2).flatten(1), hidden.amax((2, 3))], 1))

    @torch.no_grad()
    def codes(self, steps: Steps) -> Tensor:
        """(T,) the likeliest action of every step."""
        parts = torch.arange(len(steps)).split(4 * BATCH)
        return self.group[torch.cat([self(steps.inputs(part, sees_next=True)).argmax(1) for part in parts])]


# -- training ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Surprises:
    """The cells of each step that the prior predicts worst: T steps of S cells.

    Attributes:
        cells: (T, S) numbers of the grid.
        weights: (T, S) nats; none of cells that no motion draws, and few where changes are seldom motion, as where
            things come into view.
        targets: (T, S, classes) bool.
    """

    cells: Tensor
    weights: Tensor
    targets: Tensor


class Training:
    """Draws batches and steps optimizers, with one generator and one report of progress for all networks.

    Args:
        num_updates: of all networks together.
        report: called with the share that is done.
    """

    def __init__(self, num_updates: int, report: Report, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self._num_updates, self._num_done, self._report = num_updates, 0, report

    def fit(self, net: nn.Module, loss_of: Callable[[Tensor, float], Tensor], pool: Tensor, num_updates: int) -> None:
        """Minimize `loss_of` batches of steps (B,) drawn from a pool, and the share of these updates that is done."""
        optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE, weight_decay=0.01)
        for update in range(num_updates):
            done = update / num_updates
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * min(1.0, 1.05 - done)
            loss = loss_of(pool[torch.from_numpy(self.rng.integers(0, len(pool), BATCH))], done)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self._num_done += 1
            self._report(self._num_done / self._num_updates)


def find_surprises(steps: Steps, training: Training) -> Surprises:
    """Fit the prior, and find where it fails."""
    targets = targets_of(steps, choose_offsets(steps, training.rng))
    prior = Prior(steps.frames.shape[1], targets.shape[1])

    def loss(chosen: Tensor, _: float) -> Tensor:
        right = targets[chosen]
        return (prior.losses(steps, chosen, right) * (STILL_WEIGHT + (~right[:, 0]).float())).mean()

    everything = torch.arange(len(steps))
    training.fit(prior, loss, everything, min(PRIOR_UPDATES, 1 + PRIOR_PASSES * len(steps) // BATCH))
    with torch.no_grad():
        nats = torch.cat([prior.losses(steps, part, targets[part]).flatten(1) for part in everything.split(4 * BATCH)])
    changed, is_new = ~targets[:, 0].flatten(1), targets[:, -1].flatten(1)
    share_moved = ((changed & ~is_new).float().sum(0) + 1) / (changed.float().sum(0) + 1)
    nats = nats.clamp(max=MOST_SURPRISE) * ~is_new * share_moved**2
    weights, cells = nats.topk(min(NUM_CELLS, nats.shape[1]), 1)
    chosen = targets.flatten(2).gather(2, cells[:, None].expand(-1, targets.shape[1], -1))
    return Surprises(cells, weights, chosen.transpose(1, 2).contiguous())


def fit_codes(steps: Steps, surprises: Surprises, num_codes: int, training: Training) -> Tensor:
    """The losses (T, codes) of a mixture in nats: each code learns the steps that it predicts best."""
    net = Codes(steps.frames.shape[1], num_codes, surprises.targets.shape[2])
    prices = torch.zeros(num_codes)  # of codes that are used more than others, while the temperature is high

    def loss(chosen: Tensor, done: float) -> Tensor:
        nonlocal prices
        losses = net.losses(steps, chosen, surprises)
        temperature = FIRST_TEMPERATURE * float(losses.detach().mean()) * 0.01 ** min(1.0, done * 1.5)
        shares = ((-losses.detach() - prices) / temperature).softmax(1)
        if done < PRICED:
            prices = prices + 0.2 * temperature * (shares.mean(0) * num_codes - 1).clamp(-1, 1)
        return (shares * losses).sum(1).mean()

    everything = torch.arange(len(steps))
    training.fit(net, loss, everything, CODE_UPDATES)
    with torch.no_grad():
        return torch.cat([net.losses(steps, part, surprises) for part in everything.split(4 * BATCH)])


def merged(codes: Tensor, losses: Tensor) -> list[int]:
    """A group for each code, by the losses (T, codes) in nats and the codes (T,) of steps: two are one where giving the
    steps of both the better one of them costs little of what all codes explain."""
    num_codes = losses.shape[1]
    groups = [[code] for code in range(num_codes)]
    of_code = torch.stack([losses[codes == code].sum(0) for code in range(num_codes)])  # (own code, given code)

    def cost(group: list[int]) -> float:
        return float(of_code[group].sum(0)[group].min())

    explained = float(of_code.sum(0).min()) - sum(map(cost, groups))
    while len(groups) > 1:
        pairs = [(cost(one + two) - cost(one) - cost(two), one, two) for one, two in combinations(groups, 2)]
        price, one, two = min(pairs)
        if price > MERGED * explained:
            break
        groups = [group for group in groups if group not in (one, two)] + [one + two]
    return [next(number for number, group in enumerate(groups) if code in group) for code in range(num_codes)]


def learn_codes(episodes: list[np.ndarray], num_codes: int, report: Report, seed: int = 0) -> InverseModel:
    """An inverse model of at most so many codes, learned from episodes (T + 1, height, width, C) uint8 alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        steps, training = Steps(episodes), Training(PRIOR_UPDATES + CODE_UPDATES + INVERSE_UPDATES, report, seed)
        losses = fit_codes(steps, find_surprises(steps, training), num_codes, training)
        net, codes = InverseModel(steps.frames.shape[1], num_codes), losses.argmin(1)
        ranked = losses.sort(1).values
        certain = ((ranked[:, min(1, num_codes - 1)] - ranked[:, 0]) / CERTAIN).clamp(max=1)

        def loss(chosen: Tensor, _: float) -> Tensor:
            own = F.cross_entropy(net(steps.inputs(chosen, sees_next=True)), codes[chosen], reduction="none")
            return (own * certain[chosen]).sum() / certain[chosen].sum().clamp(min=1)

        training.fit(net, loss, torch.arange(len(steps)), INVERSE_UPDATES)
        net.group = torch.tensor(merged(net.codes(steps), losses))
        return net


def learn_labels(pairs: np.ndarray, actions: np.ndarray, report: Report, seed: int = 0) -> InverseModel:
    """An inverse model of the actions (M,) of single steps, (M, 2, height, width, C) uint8."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        steps, training = Steps(list(pairs)), Training(LABEL_UPDATES, report, seed)
        net, right = InverseModel(steps.frames.shape[1], int(actions.max()) + 1), torch.from_numpy(actions)

        def loss(chosen: Tensor, _: float) -> Tensor:
            return F.cross_entropy(net(steps.inputs(chosen, sees_next=True)), right[chosen])

        training.fit(net, loss, torch.arange(len(steps)), LABEL_UPDATES)
        return net
