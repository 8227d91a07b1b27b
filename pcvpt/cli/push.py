"""``pcvpt push RUN USER/NAME``: the adapter of a run and its model card, to the hub."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from pcvpt.adapters.hub import check_name, push_folder
from pcvpt.adapters.model_card import write_repository
from pcvpt.cli.yaml_file import read_mapping
from pcvpt.runs.atomic import atomic_folder
from pcvpt.runs.folder import CONFIG, adapter_of, find_run, require_finished


def main(arguments: Sequence[str]) -> int:
    """Run ``pcvpt push``; return the exit status.

    A UsageError is raised if the run is not finished or has several adapters, or the hub refuses.
    """
    parser = argparse.ArgumentParser(
        prog="pcvpt push",
        description="Upload the adapter of a finished run, its description and a model card to the "
        "Hugging Face hub. `hf auth login` stores the token that this needs.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="Folder of a run, or file of an adapter in it.")
    add("name", metavar="USER/NAME", help="Repository, which is made if there is none.")
    add("--private", action="store_true", help="Make a private repository.")
    add("--license", help="Licence, as the hub names it. Default: that of the backbone's weights.")
    add("--overwrite", action="store_true", help="Add a commit to a repository with an adapter.")
    add("--dry_run", type=Path, metavar="DIR", help="Write the files into the new folder DIR only.")
    options = parser.parse_args(arguments or ["--help"])
    check_name(options.name)
    file = adapter_of(options.run)
    run = require_finished(find_run(str(file.parent)))
    model = read_mapping(run / CONFIG)["model"]
    given = options.name, file, model.get("pretrained", True) is True, options.license
    if options.dry_run:
        with atomic_folder(options.dry_run.expanduser()) as folder:
            write_repository(folder, *given)
        print(f"Written, not uploaded: {options.dry_run}")
        return 0
    with TemporaryDirectory() as made:
        write_repository(Path(made), *given)
        commit = push_folder(Path(made), options.name, options.private, options.overwrite)
    print(f"Pushed: hf://{options.name}@{commit}")
    return 0
