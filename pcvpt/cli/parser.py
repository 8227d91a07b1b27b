"""The one parser of configurations: every command that takes one, and the table of keys, use it."""

import inspect
from importlib.metadata import version
from typing import Any, Literal

import lightning.pytorch as pl
from jsonargparse import ActionConfigFile, Namespace, set_loader  # type: ignore[attr-defined]
from lightning.pytorch.cli import LightningArgumentParser
from yaml import YAMLError

from pcvpt.callbacks import PromptCondensation
from pcvpt.cli.yaml_file import load
from pcvpt.data import ImageDataModule
from pcvpt.data.splits import Classes
from pcvpt.training.module import PromptTuner

MatmulPrecision = Literal["highest", "high", "medium"]
TOP = "Number of the most probable classes that `predict` writes of each image."
PROBABILITIES = "Write the probabilities of all classes."
_NOT_OPTIONS = {  # arguments of the Trainer's methods
    *("model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"),
    "verbose",  # -v is an option of every command
}
_YAML = "pcvpt"  # the name under which jsonargparse knows our reader of YAML


def build_parser(command: str = "fit", classes: Classes | None = None) -> LightningArgumentParser:
    """Return the parser of the options of ``pcvpt COMMAND``: fit, validate, test or predict.

    The head has ``classes``, by default those of the data.
    """
    set_loader(_YAML, load, (YAMLError,))
    parser = LightningArgumentParser(
        prog=f"pcvpt {command}",
        description=(inspect.getdoc(getattr(pl.Trainer, command)) or "").split("\n\n")[0],
        parser_mode=_YAML,
        dump_header=[f"lightning.pytorch=={version('lightning')}"],
        exit_on_error=False,
    )
    add = parser.add_argument
    text = "Configuration file, or bare name of a shipped one; later ones overrule earlier ones."
    add("-c", "--config", action=ActionConfigFile, help=text)
    text = "Seed of all random numbers; true for a random seed."
    add("--seed_everything", type=bool | int, default=True, help=text)
    text = "Precision of float32 products: highest is float32; high and medium take TF32 on a GPU."
    add("--matmul_precision", type=MatmulPrecision, default="highest", help=text)
    parser.add_lightning_class_args(pl.Trainer, "trainer")
    # Lightning's default is every device, by which batch and learning rate would grow, and a trial
    # on val before the first epoch. Here, data and options are checked before a run anyway.
    parser.set_defaults({"trainer.devices": 1, "trainer.num_sanity_val_steps": 0})
    parser.add_lightning_class_args(PromptTuner, "model")
    # Not required here: `pcvpt cost` runs without data. The others refuse a missing section.
    parser.add_lightning_class_args(ImageDataModule, "data", subclass_mode=True, required=False)
    parser.add_lightning_class_args(PromptCondensation, "condense")
    add("--output_dir", type=str, default="runs", help="Folder of all runs.")
    text = "Run name. Default: names of the config files joined by `_`."
    add("--name", type=str | None, default=None, help=text)
    text = "File that `predict` writes, CSV or .parquet."
    add("--predictions", type=str, default="predictions.csv", help=text)
    if command == "predict":
        add("--top", type=int, default=1, help=TOP)
        add("--probabilities", action="store_true", help=PROBABILITIES)
    text = "Resume the newest run of this name; start a new one if there is none."
    add("--resume", action="store_true", help=text)
    add("--retest", action="store_true", help="Test a checkpoint once more that was tested before.")
    parser.link_arguments(
        "data",
        "model.num_classes",
        lambda data: data.num_classes if classes is None else len(classes.names),
        apply_on="instantiate",
    )
    parser.add_method_arguments(pl.Trainer, command, skip={*_NOT_OPTIONS})
    return parser


def data_of(section: Namespace) -> ImageDataModule:
    """Return the DataModule that the section ``data`` of a configuration describes."""
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(ImageDataModule, "data", subclass_mode=True)
    parts = Namespace(data=section)  # type: ignore[no-untyped-call]
    data: ImageDataModule = parser.instantiate(parts).data
    return data


def arguments_of(command: str, config: Any) -> dict[str, Any]:
    """Return what ``config`` says of the arguments of the Trainer's method ``command``."""
    names = inspect.signature(getattr(pl.Trainer, command)).parameters.keys() - _NOT_OPTIONS
    return {name: config[name] for name in names if name in config}
