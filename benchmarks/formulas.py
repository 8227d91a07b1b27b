"""The cost model of docs/cost.md as functions: multiply-accumulates, and bytes held for backward.

Forms of a prompted model, for Deep:

- ``tokens``: prompts in the sequence, every row in every block; the published form.
- ``prefix``: prompts as keys and values, of the last block only the pooled rows.
- ``frozen``: the same in serving, the prompts' keys and values computed beforehand.

Condensed prompts are fewer prompts, in each block as many as it keeps. Shallow has ``tokens`` and,
for a ViT, ``prefix`` (the last block's rows).
``tests/repository/test_benchmarks.py`` holds all of it to what the counters say of real models.

n tokens of an image (class token included) or patches of it (Swin), p prompts, d width, h heads;
MLPs are four times as wide. Weights are frozen: a layer's backward is as large as its forward,
without the product that gives the weights' gradient. Fused attention is two products forward and
four backward. Counts in floats of 4 bytes: what a LayerNorm (its input, mean, deviation), an
attention (queries, keys, values, output, log-sum-exp) and a GELU (its input) hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Form = Literal["tokens", "prefix", "frozen"]
FLOAT = 4


@dataclass(frozen=True)
class Cost:
    """What a form costs for each image, and what a batch pays once.

    Args:
        forward: Multiply-accumulates per image in the forward pass.
        backward: Multiply-accumulates per image in the backward pass, to the prompts and the head.
        held: Bytes per image that are held between the two passes.
        shared_forward: Multiply-accumulates per batch in the forward pass, for the prompts' keys
            and values.
        shared_backward: Multiply-accumulates per batch in the backward pass.
    """

    forward: int = 0
    backward: int = 0
    held: int = 0
    shared_forward: int = 0
    shared_backward: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Cost(*(a + b for a, b in pairs))

    def inference(self, batch: int) -> int:
        """Return the multiply-accumulates of a forward pass."""
        return batch * self.forward + self.shared_forward

    def step(self, batch: int) -> int:
        """Return those of a forward and a backward pass."""
        return self.inference(batch) + batch * self.backward + self.shared_backward


@dataclass(frozen=True)
class ViT:
    """A ViT with a class token that is pooled.

    Args:
        blocks: Number of blocks. In Deep, each has prompts.
        n: Number of tokens, including the class token.
        d: Width.
        h: Number of heads.
        patch: Number of values in a patch, 3 · 16 · 16.
        classes: Number of classes.
    """

    blocks: int
    n: int
    d: int
    h: int
    patch: int
    classes: int

    def deep(self, form: Form, prompts: Sequence[int]) -> Cost:
        """Return the cost with the given number of prompts in each block."""
        first = next((i for i, p in enumerate(prompts) if p), self.blocks)
        total = self._ends(
            form, 1 if form != "tokens" else self.n + prompts[-1], bool(sum(prompts))
        )
        for i, p in enumerate(prompts):
            if form == "tokens":
                block = self._block(self.n + p, self.n + p, 0)
            elif i == self.blocks - 1:
                block = self._last(self.n, p)
            else:
                block = self._block(self.n, self.n, p)
            if form == "frozen":
                block = replace(block, shared_forward=0)
            if i < first:  # nothing before is trained
                block = replace(block, backward=0, held=0, shared_backward=0)
            elif i == first and form != "tokens":
                block = (self._only if i == self.blocks - 1 else self._first)(block, p)
            total += block
        return total

    def shallow(self, form: Form, prompts: int) -> Cost:
        """Return the cost with this number of prompts, which enter the first block only."""
        rows = self.n + prompts
        total = self._ends(form, 1 if form != "tokens" else rows, trained=True)
        for i in range(self.blocks):
            pooled = form != "tokens" and i == self.blocks - 1
            total += self._last(rows, 0) if pooled else self._block(rows, rows, 0)
        return total

    def _block(self, rows: int, n: int, p: int) -> Cost:
        """Return the cost of ``rows`` outputs of a block on ``n`` tokens and ``p`` prompts."""
        d, h = self.d, self.h
        linear = 2 * n * d**2 + rows * 10 * d**2
        attention = rows * (n + p) * d
        held = n * (d + 2) + (rows + 2 * n) * d + rows * (d + h) + rows * (d + 2) + rows * 4 * d
        return Cost(
            forward=linear + 2 * attention,
            backward=linear + 4 * attention,
            held=FLOAT * held,
            shared_forward=2 * p * d**2,
            shared_backward=2 * p * d**2,
        )

    def _last(self, n: int, p: int) -> Cost:
        """Return the cost of the pooled row of the last block.

        Its query is multiplied by the keys' weights and not these by the tokens, and the values'
        weights by the sum of tokens for each head.
        """
        d, h = self.d, self.h
        linear = 12 * d**2
        attention = n * h * d + p * d
        # The tokens as they come and normalised; the query, by head and in the tokens' space;
        # weights; then one row as in other blocks.
        held = n * (2 * d + 2) + (h + 1) * d + h * (n + p) + 5 * d + 2
        return Cost(
            forward=linear + 2 * attention,
            backward=linear + 4 * attention,
            held=FLOAT * held,
            shared_forward=2 * p * d**2,
            shared_backward=2 * p * d**2,
        )

    def _first(self, block: Cost, p: int) -> Cost:
        """Return ``block`` as the first of Deep, below which nothing is trained.

        Its gradient ends at the prompts: none of the tokens' queries, keys and values.
        """
        backward = self.n * 9 * self.d**2 + 4 * self.n * p * self.d
        held = block.held - FLOAT * self.n * (self.d + 2)  # of norm1
        return replace(block, backward=backward, held=held)

    def _only(self, block: Cost, p: int) -> Cost:
        """Return ``block`` as the first with prompts and the last of all."""
        d, h, n = self.d, self.h, self.n
        held = n * d + h * (n + p) + 6 * d + 2
        return replace(block, backward=10 * d**2 + h * n * d + 3 * p * d, held=FLOAT * held)

    def _ends(self, form: Form, rows: int, trained: bool) -> Cost:
        """Return the cost of patch embedding, last norm, head and loss."""
        head = self.classes * self.d
        held = rows * (self.d + 2) + rows * self.d + self.classes + 2
        return Cost(
            forward=(self.n - 1) * self.patch * self.d + head,
            backward=2 * head if trained else head,
            held=FLOAT * held,
        )


@dataclass(frozen=True)
class Stage:
    """Blocks of one width of a Swin.

    Args:
        blocks: Number of blocks.
        n: Number of patches.
        d: Width.
        h: Number of heads.
        window: Number of patches in a window.
    """

    blocks: int
    n: int
    d: int
    h: int
    window: int


@dataclass(frozen=True)
class Swin:
    """A Swin whose image is a whole number of windows in each stage; every block has prompts.

    Args:
        stages: Stages in order. Each after the first begins with a patch merging.
        patch: Number of values in a patch, 3 · 4 · 4.
        classes: Number of classes.
    """

    stages: tuple[Stage, ...]
    patch: int
    classes: int

    def deep(self, form: Form, prompts: Sequence[int]) -> Cost:
        """Return the cost with these numbers of prompts per block; ``tokens`` is as published.

        The release's sequences hold prompts and patches together, so that its backward passes the
        rows of prompts that nothing reads. Ours does not, even in ``tokens``.
        """
        counts = iter(prompts)
        total, before = Cost(), 0
        for index, stage in enumerate(self.stages):
            if index:
                total += self._merging(stage, before if form == "tokens" else 0)
            for i in range(stage.blocks):
                p = next(counts)
                shifted = i % 2 == 1 and stage.n > stage.window
                block = (
                    self._tokens(stage, p, shifted) if form == "tokens" else self._prefix(stage, p)
                )
                if form == "frozen":
                    block = replace(block, shared_forward=0)
                if form != "tokens" and not index and not i:
                    block = self._first(block, stage, p)
                total += block
                before = p
        last = self.stages[-1]
        rows = last.n + (before if form == "tokens" else 0)
        head = self.classes * last.d
        return total + Cost(
            forward=self.stages[0].n * self.patch * self.stages[0].d + head,
            backward=2 * head,
            held=FLOAT * (rows * (last.d + 2) + last.d + self.classes + 2),
        )

    def _tokens(self, stage: Stage, p: int, shifted: bool) -> Cost:
        n, d, h = stage.n, stage.d, stage.h
        windows = n // stage.window
        copied = n + windows * p  # rows of all windows
        linear = 4 * copied * d**2 + 8 * (n + p) * d**2
        attention = copied * (stage.window + p) * d
        held = 2 * (n + p) * (d + 2) + copied * (4 * d + h) + 4 * (n + p) * d
        if shifted:  # the bias of each window, copied for each image
            held += h * copied * (stage.window + p)
        return Cost(linear + 2 * attention, linear + 4 * attention, FLOAT * held)

    def _prefix(self, stage: Stage, p: int) -> Cost:
        n, d, h = stage.n, stage.d, stage.h
        linear = 12 * n * d**2
        attention = n * (stage.window + p) * d
        held = 2 * n * (d + 2) + n * (4 * d + h) + 4 * n * d
        shared = 2 * p * d**2
        return Cost(linear + 2 * attention, linear + 4 * attention, FLOAT * held, shared, shared)

    def _first(self, block: Cost, stage: Stage, p: int) -> Cost:
        """Return ``block`` as the first, below which nothing is trained; see ``ViT``."""
        n, d = stage.n, stage.d
        held = block.held - FLOAT * n * (d + 2)
        return replace(block, backward=9 * n * d**2 + 4 * n * p * d, held=held)

    def _merging(self, stage: Stage, p: int) -> Cost:
        rows = stage.n + p
        macs = rows * 2 * stage.d**2
        return Cost(macs, macs, FLOAT * rows * (2 * stage.d + 2))


VIT_B16 = ViT(blocks=12, n=197, d=768, h=12, patch=768, classes=100)
SWIN_B = Swin(
    (
        Stage(2, 3136, 128, 4, 49),
        Stage(2, 784, 256, 8, 49),
        Stage(18, 196, 512, 16, 49),
        Stage(2, 49, 1024, 32, 49),
    ),
    patch=48,
    classes=100,
)
