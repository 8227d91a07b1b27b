"""What starts at once imports nothing heavy, and what is broken but not needed breaks nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "torchvision", "timm", "lightning", "matplotlib", "fvcore", "scipy"}
FIT = [
    *("fit", "--config", "demo.yaml", "--trainer.accelerator=cpu", "--trainer.logger=false"),
    *("--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"),
    *("--condense.prompt_epochs=1", "--condense.finetune_epochs=1", "--data.num_workers=0"),
]


def _imported(code: str, folder: Path) -> set[str]:
    """Return the top names of all modules that a process which runs ``code`` has imported."""
    code += "\nprint('imported', *{name.split('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", f"import sys\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "code",
    [
        "import pcvpt, pcvpt.data, pcvpt.callbacks; dir(pcvpt), pcvpt.__version__",
        "from pcvpt.cli.main import main; main(['--help'])",
        "from pcvpt.cli.main import main\n"
        "try: main(['data', 'list'])\nexcept SystemExit as end: assert end.code == 0",
    ],
    ids=["import pcvpt", "pcvpt --help", "pcvpt data list"],
)
def test_a_start_imports_nothing_heavy(code: str, tmp_path: Path) -> None:
    assert not _imported(code, tmp_path) & HEAVY


@pytest.mark.slow
def test_a_fit_without_a_board_needs_neither_fvcore_nor_matplotlib(tmp_path: Path) -> None:
    # torchmetrics imports matplotlib wherever it is installed, so that it must seem not to be.
    code = f"""
import importlib.metadata as metadata
whole = metadata.version
def version(name):
    if name in ("matplotlib", "fvcore"):
        raise metadata.PackageNotFoundError(name)
    return whole(name)
metadata.version = version
sys.modules.update(matplotlib=None, fvcore=None)  # to import them raises
import pcvpt
from pcvpt.cli.main import main
main({FIT!r})
"""
    assert "pcvpt" in _imported(code, tmp_path)
    assert list(tmp_path.glob("runs/demo/*/checkpoints/finetune-last.ckpt"))
