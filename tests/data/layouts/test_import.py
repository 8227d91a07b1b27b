import subprocess
import sys


def test_the_command_and_the_search_for_layouts_import_no_heavy_library() -> None:
    heavy = "torch", "lightning", "timm", "scipy", "h5py", "array_record", "tensorflow_datasets"
    code = (
        "import sys, pathlib, pcvpt.cli.data, pcvpt.data.layouts as layouts\n"
        "from pcvpt.data.tasks.table import TASKS\n"
        "for task in TASKS.values(): layouts.find_all(task, pathlib.Path('nowhere'))\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
