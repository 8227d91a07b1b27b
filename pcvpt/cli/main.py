"""The ``pcvpt`` command: which subcommand is meant, and one line for an error.

Subcommands are imported when they are called, so that the command starts at once.
"""

import io
import sys
from pkgutil import resolve_name

from pcvpt.cli.allocator import keep_freed_memory
from pcvpt.cli.failures import describe
from pcvpt.errors import UsageError

_HELP = """usage: pcvpt {fit,validate,test,predict,export,push,report,
              analyze,cost,data,sweep,table,compare} ...

  pcvpt fit --config demo.yaml            train, condense, fine-tune; each start has its run folder
  pcvpt fit --config a.yaml --config b.yaml --condense.keep 0.1
  pcvpt fit --config a.yaml --resume      resume the newest run of that name, if it was interrupted
  pcvpt test RUN                          RUN is the folder of a run, or the folder of its runs
  pcvpt predict RUN --data.predict_images FOLDER --predictions out.csv
  pcvpt export RUN --to onnx              a file for other runtimes, proven on the images of val
  pcvpt predict FILE.onnx IMAGES
  pcvpt analyze {scores,spectrum,layers,attention} RUN    tables and figures of a run
  pcvpt cost --config cars.yaml --condense.keep 0.3    multiply-accumulates and parameters
  pcvpt sweep STUDY.yaml                  all runs of a study: searches, seeds, tasks
  pcvpt table STUDY.yaml                  their table: mean and deviation over seeds
  pcvpt compare RUN RUN ...               the same for any runs
  pcvpt report RUN [RUN ...]              their answer in one table, and the page report.html
  pcvpt push RUN USER/NAME                the adapter and a model card, to the Hugging Face hub
  pcvpt data {list,get,verify,convert,show} ...    images of the 24 tasks

-v shows what Lightning says of itself too; -q shows errors and the last table alone.
A config is a file, or the bare name of a shipped one. `pcvpt fit --config NAME --print_config`
prints the whole configuration, `pcvpt fit --help` every option."""

_RUNS = ("fit", "validate", "test", "predict")
_OTHERS = {
    "analyze": "pcvpt.cli.analyze.main:main",
    "cost": "pcvpt.cli.cost:main",
    "data": "pcvpt.cli.data:main",
    "export": "pcvpt.cli.export:main",
    "sweep": "pcvpt.cli.studies.main:main",
    "table": "pcvpt.cli.studies.main:main_table",
    "compare": "pcvpt.cli.studies.main:main_compare",
    "push": "pcvpt.cli.push:main",
    "report": "pcvpt.cli.report:main",
}


def main(arguments: list[str] | None = None) -> None:
    """Run the command; bad input ends with one line on stderr and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP)
        return
    keep_freed_memory()
    command, *rest = arguments
    try:
        if command in _OTHERS:
            raise SystemExit(resolve_name(_OTHERS[command])(rest))
        if command == "predict" and rest and rest[0].endswith((".onnx", ".pt2")):
            raise SystemExit(resolve_name("pcvpt.cli.export:predict")(rest))
        if command not in _RUNS:
            raise UsageError(f"no command {command!r}; choose {', '.join((*_RUNS, *_OTHERS))}")
        resolve_name("pcvpt.cli.run:main")(command, rest)
    except Exception as error:
        message = describe(error)
        if message is None:
            raise
        print(f"pcvpt: error: {message}", file=sys.stderr)
        raise SystemExit(2) from None
