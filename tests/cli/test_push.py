"""`pcvpt push` to a hub on this machine, and `load_adapter` from there."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.file_download
import pytest
import torch
from huggingface_hub import ModelCard, constants

from miniature.hub import TOKEN, Hub
from pcvpt import UsageError, load_adapter, serve
from pcvpt.adapters.adapter import to_text
from pcvpt.adapters.file import read_adapter, write_adapter

from .conftest import Command, Refusal

FILES = {".gitattributes", "README.md", "adapter.safetensors", "adapter_config.json"}
NAME, ADDRESS = "me/clothes", "hf://me/clothes"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that the client takes for the only one, and an empty cache."""
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever, daemon=True)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    for place in constants, huggingface_hub.file_download:  # older clients have a copy there
        monkeypatch.setattr(place, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    thread.start()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()
    thread.join()


@pytest.fixture
def batch() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32)


def _changed(file: Path, **description: Any) -> None:
    """Change the description of an adapter, or with none its bias."""
    adapter, tensors = read_adapter(file)
    if not description:
        tensors["head.bias"] += 1
    write_adapter(file, to_text(replace(adapter, **description)), tensors)


def test_what_was_pushed_is_loaded_and_a_revision_is_pinned(
    command: Command, refusal: Refusal, run: Path, hub: Hub, batch: torch.Tensor
) -> None:
    file = run / "adapter.safetensors"
    ended = command("push", "runs/demo", NAME)
    assert ended.status == 0, ended.output
    first = hub.last(NAME)
    assert f"{ADDRESS}@{first}" in ended.output
    assert set(hub.commits[NAME][first]) == FILES
    assert hub.commits[NAME][first]["adapter.safetensors"] == file.read_bytes()
    before = load_adapter(file)(batch)
    assert torch.equal(load_adapter(ADDRESS)(batch), before)

    _changed(file)
    said = refusal("push", "runs/demo", NAME)
    assert f"{ADDRESS} holds an adapter" in said
    assert "--overwrite" in said
    assert hub.last(NAME) == first
    assert command("push", file, NAME, "--overwrite").status == 0
    assert len(hub.commits[NAME]) == 3  # the first one is the hub's own
    after = load_adapter(file)(batch)
    assert not torch.equal(after, before)
    assert torch.equal(load_adapter(ADDRESS)(batch), after)
    assert torch.equal(load_adapter(ADDRESS, revision=first)(batch), before)
    assert torch.equal(load_adapter(f"{ADDRESS}@{first}")(batch), before)
    mixed = serve([f"{ADDRESS}@{first}", ADDRESS])(batch, task=[0, 1, 0, 1])
    assert torch.allclose(mixed[::2], before[::2], atol=1e-5)
    assert torch.allclose(mixed[1::2], after[1::2], atol=1e-5)


def test_an_offline_client_loads_a_pinned_revision_from_the_cache(
    command: Command, run: Path, hub: Hub, batch: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("push", "runs/demo", NAME)
    expected = load_adapter(ADDRESS)(batch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert torch.equal(load_adapter(ADDRESS, revision=hub.last(NAME))(batch), expected)
    assert hub.asked == []
    with pytest.raises(UsageError, match="hf://me/other"):
        load_adapter("hf://me/other")


def test_the_card_has_the_figures_of_the_run(
    command: Command, run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket.connect", _no_network)
    command("test", "runs/demo", "--trainer.accelerator=cpu")
    results = json.loads((run / "results.json").read_text())
    tested = json.loads((run / "test-finetune-best.json").read_text())["test/accuracy"]
    assert command("push", "runs/demo", NAME, "--dry_run=folder").status == 0
    assert {path.name for path in Path("folder").iterdir()} == FILES - {".gitattributes"}
    card = ModelCard.load("folder/README.md")
    metadata = card.data.to_dict()
    assert metadata["library_name"] == "pcvpt"
    assert metadata["pipeline_tag"] == "image-classification"
    assert metadata["license"] == "apache-2.0"
    assert metadata["datasets"] == ["imagefolder"]
    val, test = card.data.eval_results or []
    assert val.dataset_split == "validation (2 of 7 batches)"
    assert val.metric_value == pytest.approx(results["accuracy_finetuned"] / 100)
    assert test.dataset_split == "test"
    assert test.metric_value == pytest.approx(tested, abs=1e-6)
    assert test.dataset_args == {"protocol": "timm"}
    for text in (
        f"Prompts kept per block: {' '.join(map(str, results['kept']))}, of 20",
        f"| fine-tuned | 36 | {results['accuracy_finetuned']:.2f} % | {100 * tested:.2f} % |",
        f"{results['macs'] / 1e6:,.1f} M multiply-accumulates",
        "Val accuracy is that on 2 of 7 batches of the validation images. The test was run once.",
        "pcvpt.load_adapter('hf://me/clothes')",
    ):
        assert text in card.text
    adapter, _ = read_adapter(run / "adapter.safetensors")
    described = json.loads(Path("folder/adapter_config.json").read_text())
    assert described == json.loads(to_text(adapter))
    assert hub.asked == []


def _no_network(*_: Any) -> None:
    raise AssertionError("the network was asked")


@pytest.mark.parametrize(
    ("backbone", "options", "expected"),
    [
        ("vit_base_patch16_224.augreg_in21k", (), ("timm/{}", "apache-2.0")),
        ("vit_base_patch16_224.augreg_in21k", ("--license=mit",), ("timm/{}", "mit")),
        ("vit_base_patch16_dinov3.lvd1689m", (), ("timm/{}", "other")),
        ("hf-hub:someone/model", (), ("someone/model", "unknown")),
        ("vit_base_patch16_224", ("weights.pth",), (None, "unknown")),
    ],
)
def test_the_card_names_the_base_model_and_its_licence(
    command: Command, run: Path, hub: Hub, backbone: str, options: Any, expected: Any
) -> None:
    _changed(run / "adapter.safetensors", backbone=backbone)
    if options == ("weights.pth",):
        config = (run / "config.yaml").read_text()
        assert "pretrained: true" in config
        (run / "config.yaml").write_text(config.replace("pretrained: true", "pretrained: w.pth"))
        options = ()
    ended = command("push", "runs/demo", NAME, *options)
    assert ended.status == 0, ended.output
    card = ModelCard(hub.commits[NAME][hub.last(NAME)]["README.md"].decode())
    base, licence = expected
    assert card.data.base_model == (base and base.format(backbone))
    assert card.data.license == licence
    assert ("FILE_OF_THE_BACKBONE" in card.text) is (base is None)
    assert "w.pth" not in str(card)


def test_a_card_of_one_of_several_budgets_and_of_a_task(command: Command, run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    moved = ("kept", "form", "accuracy_masked", "accuracy_finetuned", "macs")
    one = {"keep": 0.3, **{name: results.pop(name) for name in moved}}
    other = {**one, "keep": 0.5, "accuracy_finetuned": 99.0, "macs": 10**9}
    data = {**results["data"], "task": "pets", "split": "trainval", "held_out": False}
    del results["validated"]
    results |= {"budgets": [other, one], "data": data}
    (run / "results.json").write_text(json.dumps(results))
    adapter, _ = read_adapter(run / "adapter.safetensors")
    origin = {**adapter.provenance, "budget": "0.3"}
    _changed(run / "adapter.safetensors", provenance=origin)
    (run / "adapter.safetensors").rename(run / "adapter_0.3.safetensors")
    shutil.copy(run / "adapter_0.3.safetensors", run / "adapter_0.5.safetensors")
    file = run / "adapter_0.3.safetensors"
    assert command("push", file, NAME, "--dry_run=folder").status == 0
    card = ModelCard.load("folder/README.md")
    assert card.data.datasets == ["pets"]
    assert not card.data.eval_results  # val was trained on, and there was no test
    for text in ("Oxford-IIIT Pet", "CC BY-SA 4.0", "trained on trainval", "which were trained on"):
        assert text in card.text
    assert "99.00" not in card.text
    assert "1.00 G" not in card.text
    assert f"{one['accuracy_finetuned']:.2f} %" in card.text


def test_a_private_repository_is_private_and_a_public_one_is_not_taken_for_it(
    command: Command, refusal: Refusal, run: Path, hub: Hub
) -> None:
    assert command("push", "runs/demo", NAME, "--private").status == 0
    assert NAME in hub.private
    assert command("push", "runs/demo", "me/open").status == 0
    last = hub.last("me/open")
    assert "public" in refusal("push", "runs/demo", "me/open", "--private", "--overwrite")
    assert hub.last("me/open") == last


@pytest.mark.parametrize("foreign", ["model.bin", "code.py", "sub/adapter.safetensors", "a.pkl"])
def test_a_repository_with_other_files_is_refused_before_a_download(
    refusal: Refusal, run: Path, hub: Hub, foreign: str
) -> None:
    content = (run / "adapter.safetensors").read_bytes()
    hub.commit(NAME, {"adapter.safetensors": content, foreign: b""})
    with pytest.raises(UsageError, match=foreign):
        load_adapter(ADDRESS)
    last = hub.last(NAME)
    assert foreign in refusal("push", "runs/demo", NAME, "--overwrite")
    assert hub.last(NAME) == last
    assert not any("/resolve/" in path or "/preupload/" in path for path in hub.asked)
    assert not Path("cache").exists()


def test_what_a_repository_lacks_is_said_in_one_line(hub: Hub, work: Path) -> None:
    hub.commit(NAME, {"README.md": b""})
    for address, said in {
        "hf://me/none": "hf://me/none: 404",
        f"{ADDRESS}@old": "hf://me/clothes: 404",
        ADDRESS: "hf://me/clothes: 404",
        "hf://clothes": "no name on the hub",
        "hf://me/clothes/more": "no name on the hub",
    }.items():
        with pytest.raises(UsageError, match=said) as error:
            load_adapter(address)
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match=r"a\.safetensors: revision='x'"):
        load_adapter("a.safetensors", revision="x")
    hub.commit(NAME, {"adapter.safetensors": b"damaged"})
    with pytest.raises(UsageError, match="not a readable adapter"):
        load_adapter(ADDRESS)


def test_bad_input_is_refused_before_anything_is_uploaded(
    refusal: Refusal, run: Path, hub: Hub, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = run / "adapter.safetensors"
    assert "OWNER/NAME" in refusal("push", "runs/demo", "clothes")
    assert "no run here" in refusal("push", "gone", NAME)
    assert "no such file" in refusal("push", run / "adapter_0.9.safetensors", NAME)
    Path("folder").mkdir()
    assert "folder exists" in refusal("push", "runs/demo", NAME, "--dry_run=folder")
    shutil.copy(file, run / "adapter_0.5.safetensors")
    assert "several budgets" in refusal("push", "runs/demo", NAME)
    (run / "adapter_0.5.safetensors").unlink()
    _changed(file, fingerprint="other")
    said = refusal("push", "runs/demo", NAME, "--dry_run=other")
    assert "another backbone" in said
    (run / "results.json").rename(run / "away.json")
    assert "not finished" in refusal("push", file, NAME)
    file.unlink()
    assert "not finished" in refusal("push", "runs/demo", NAME)
    assert sorted(path.name for path in work.iterdir()) == ["folder", "runs"]
    assert hub.asked == []


def test_a_hub_that_is_away_or_refuses_leaves_nothing(
    command: Command, refusal: Refusal, run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "license" in refusal("push", "runs/demo", NAME, "--license=none")
    hub.broken = "/commit/"
    assert "hf://me/clothes" in refusal("push", "runs/demo", NAME)
    assert set(hub.commits[NAME][hub.last(NAME)]) == {".gitattributes"}
    hub.broken = None
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "401" in refusal("push", "runs/demo", "me/other")
    assert "me/other" not in hub.commits
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert command("push", "runs/demo", NAME).status == 0  # an empty repository is no obstacle
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "check the name, the network" in refusal("push", "runs/demo", NAME)
    with pytest.raises(UsageError, match="check the name, the network"):
        load_adapter(ADDRESS)


def test_the_command_takes_the_address_and_the_token_from_the_environment(
    run: Path, hub: Hub, work: Path
) -> None:
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(work / "home"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "pcvpt", "push", "runs/demo", NAME]
    environment = {**os.environ, **settings, "HF_TOKEN": TOKEN}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(hub.commits[NAME][hub.last(NAME)]) == FILES
