"""A batch of many tasks: each image gets what the model of its own task says of it."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import pcvpt
from miniature.backbones import build, images, logits, masked, shake, timm_model
from pcvpt import UsageError, load_adapter, save_adapter

FAMILIES = ["class_token", "dinov3", "swin"]
OTHERS = ["average_pooling", "clip", "siglip", "eva02", "eva_post_norm", "beit", "beit_shared_bias"]
KEEPS = ([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], [[0, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]])


@pytest.fixture
def tasks(tmp_path: Path) -> Any:
    """Return a function that writes adapters of one backbone; returns their files and weights."""

    def write(backbone: str = "class_token", *modes: str, **options: Any) -> tuple[Any, Path]:
        weights = tmp_path / f"{backbone}.pth"
        torch.save(timm_model(backbone).state_dict(), weights)
        files = []
        for number, mode in enumerate(modes):
            model = build(backbone, pretrained=weights, mode="deep", **options)
            for _ in range(number):  # other weights for each task
                shake(model.prompts)
                shake(model.get_classifier())
            if mode == "prefix":
                model.use_keys_values()
            if mode.startswith("merged"):
                form: Any = "token" if mode == "merged tokens" else "key_value"
                merged = pcvpt.merge_prompts(model, [(images(model),)], 0.5, form=form)
                model.prompts.apply_merge(merged)
            elif mode != "all":
                masked(model, torch.tensor(KEEPS[number % 2], dtype=torch.bool))
            if number == 1:  # fewer classes
                model.reset_classifier(3)
                shake(model.get_classifier())
            files.append(save_adapter(model, tmp_path / f"{number}.safetensors"))
        return files, weights

    return write


@pytest.mark.parametrize(
    "backbone",
    [*FAMILIES, *(pytest.param(n, marks=pytest.mark.slow) for n in (*OTHERS, "swin_padded"))],
)
def test_each_image_gets_the_logits_of_its_own_task(tasks: Any, backbone: str) -> None:
    modes = ("condensed", "condensed", "prefix", "merged", "merged tokens", "all")
    files, weights = tasks(backbone, *modes)
    served = pcvpt.serve(files, pretrained=weights)
    task = [3, 0, 5, 1, 4, 2, 0, 1]
    alone = [load_adapter(file, weights) for file in files]
    batch = images(alone[0], len(task))
    found = served(batch, task=task)
    assert found.shape == (8, 5)
    for row, number in enumerate(task):
        expected = logits(alone[number], batch[row : row + 1])[0]
        classes = len(expected)
        assert (found[row, :classes] - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert bool((found[row, classes:] == float("-inf")).all())
    assert not torch.allclose(found[1], served(batch, [4] * 8)[1], atol=1e-3)


def test_a_batch_of_one_task_and_an_empty_one(tasks: Any) -> None:
    files, weights = tasks("class_token", "condensed", "condensed")
    served = pcvpt.serve(files, pretrained=weights)
    alone = load_adapter(files[1], weights).freeze_prompts()
    batch = images(alone)
    assert torch.equal(served(batch, torch.tensor([1, 1, 1])), logits(alone, batch))
    assert len(served(batch[:0], [])) == 0
    assert served.adapter(1).fingerprint == served.adapter(0).fingerprint


def test_seeds_of_a_task_are_an_ensemble(tasks: Any) -> None:
    files, weights = tasks("class_token", "condensed", "prefix", "merged", "all")
    served = pcvpt.serve([files[0], [files[0], files[2], files[3]]], pretrained=weights)
    alone = [load_adapter(file, weights) for file in files]
    batch = images(alone[0], 4)
    expected = torch.stack([logits(alone[i], batch).softmax(1) for i in (0, 2, 3)]).mean(0)
    found = served(batch, [1, 0, 1, 1])
    rows = [0, 2, 3]
    torch.testing.assert_close(found[rows].exp(), expected[rows], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1], logits(alone[0], batch)[1], rtol=1e-5, atol=1e-5)


def test_tasks_come_and_go_while_others_predict(tasks: Any) -> None:
    files, weights = tasks("class_token", "condensed", "condensed", "all")
    served = pcvpt.serve(files[:2], pretrained=weights)
    batch, wrong = images(served.backbone, 4), []
    expected = served(batch, [0, 1, 1, 0])
    stop = threading.Event()

    def predict() -> None:
        while not stop.is_set():
            if not torch.equal(served(batch, [0, 1, 1, 0]), expected):
                wrong.append(1)

    threads = [threading.Thread(target=predict) for _ in range(2)]
    for thread in threads:
        thread.start()
    numbers = []
    for _ in range(20):
        numbers.append(served.add(files[2]))
        served(batch, [numbers[-1], 0, 1, numbers[-1]])
        served.remove(numbers[-1])
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert numbers == list(range(2, 22))
    with pytest.raises(UsageError, match="no task 21"):
        served(batch, [0, 21, 0, 1])


def test_a_served_backbone_follows_to_another_precision(tasks: Any) -> None:
    files, weights = tasks("class_token", "condensed", "merged")
    served = pcvpt.serve(files, pretrained=weights).double()
    batch = images(served.backbone).double()
    found = served(batch, [0, 1, 0])
    assert found.dtype == torch.float64
    expected = logits(load_adapter(files[0], weights).double(), batch)
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("mode", ["shallow", "linear"])
def test_a_form_without_keys_and_values_is_refused(tasks: Any, tmp_path: Path, mode: str) -> None:
    files, weights = tasks("class_token", "condensed")
    other = save_adapter(build(mode=mode, pretrained=weights), tmp_path / "other.safetensors")
    for given in ([other], [*files, other], [[*files, other]]):
        with pytest.raises(UsageError, match=rf"other\.safetensors: .*mode '{mode}'"):
            pcvpt.serve(given, pretrained=weights)


def test_pooled_prompts_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    torch.save(timm_model("swin_pooled").state_dict(), weights)
    model = build("swin_pooled", pretrained=weights)
    path = save_adapter(model, tmp_path / "pooled.safetensors")
    with pytest.raises(UsageError, match="pool_prompts"):
        pcvpt.serve([path], pretrained=weights)


def test_bad_input_is_named(tasks: Any, tmp_path: Path) -> None:
    files, weights = tasks("class_token", "condensed", "condensed")
    served = pcvpt.serve(files[:1], pretrained=weights)
    batch = images(served.backbone)
    for task, message in [
        ([0, 0], "one number for each"),
        (0, "one number"),
        ([0, 7, 0], "task 7"),
    ]:
        with pytest.raises(UsageError, match=message):
            served(batch, task)
    model = build(img_size=48, pretrained=weights)
    size = save_adapter(model, tmp_path / "size.safetensors")
    shake(model)
    other = save_adapter(model, tmp_path / "weights.safetensors")
    for file, message in [(size, "timm_kwargs is"), (other, "fingerprint is")]:
        with pytest.raises(UsageError, match=f"{file.name}: trained on another.*{message}"):
            served.add(file)
    with pytest.raises(UsageError, match=r"1\.safetensors: has other classes"):
        served.add(files)
    with pytest.raises(UsageError, match="at least one"):
        served.add([])
    with pytest.raises(UsageError, match="at least one"):
        pcvpt.serve([])
    assert list(served.tasks) == ["0"]  # nothing was half added
