"""Export a model for other runtimes, prove the file by its own runtime, and load it again.

A file is an ONNX model or a program of ``torch.export``. Both hold the frozen keys and values of
the prompts and, by default, the normalisation of the pixels. Nothing is written that was not run.
"""

import io
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from pcvpt.adapters.adapter import Adapter, Fault, from_text, to_text
from pcvpt.data import Preprocessing
from pcvpt.errors import UsageError
from pcvpt.models.transformer import PromptedTransformer
from pcvpt.models.weights.files import first_line
from pcvpt.runs.atomic import atomic_file

Kind = Literal["onnx", "exported_program"]
SUFFIXES: dict[Kind, str] = {"onnx": ".onnx", "exported_program": ".pt2"}
TOLERANCE = 1e-4  # of logits in float32, relative to the largest where that is above 1
_LOST = 0.005  # share of images that half precision may lose
_KEY = "pcvpt"


class ExportedModel(NamedTuple):
    """A model from a file of :func:`export_model`.

    Attributes:
        adapter: Description of the adapter: ``class_names``, ``preprocessing``, ``provenance``.
        metadata: What the file says of itself: input, output, accuracy of the file and of the model
            that it was made of, and the images on which they were compared.
        call: Function from a batch of images to that of logits or probabilities, on the CPU.
    """

    adapter: Adapter
    metadata: Mapping[str, str]
    call: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits or probabilities ``(b, classes)``, float32.

        Args:
            images: Images ``(b, 3, h, w)``, cut to the size of the model: uint8 pixels, which are
                normalised where the model does not do it.
        """
        if self.metadata["input"] != "uint8" and self.adapter.preprocessing is not None:
            images = self.adapter.preprocessing.normalized(images)
        return self.call(images)

    def probabilities(self, images: Tensor) -> Tensor:
        """Return the probabilities ``(b, classes)`` of images as the model itself takes them."""
        found = self(images)
        return found if self.metadata["output"] == "probabilities" else found.softmax(1)


class _Deployed(nn.Module):
    """From images to logits or probabilities in float32, whatever the precision of the model."""

    mean: Any  # buffers (3, 1, 1), or None
    std: Any

    def __init__(
        self, model: PromptedTransformer, steps: Preprocessing | None, softmax: bool
    ) -> None:
        super().__init__()
        self.model, self.softmax = model, softmax
        self.dtype = next(model.patch_embed.parameters()).dtype
        for name in ("mean", "std"):
            values = None if steps is None else torch.tensor(getattr(steps, name)).view(3, 1, 1)
            self.register_buffer(name, values)

    @override
    def forward(self, images: Tensor) -> Tensor:
        if self.mean is not None:
            images = (images.float() * (1 / 255) - self.mean) / self.std
        logits: Tensor = self.model(images.to(self.dtype)).float()
        return logits.softmax(1) if self.softmax else logits


def export_model(
    model: PromptedTransformer,
    path: Path,
    kind: Kind,
    batches: Iterable[tuple[Tensor, Tensor | None]],
    *,
    preprocessing: bool = True,
    softmax: bool = False,
    half: bool = False,
    opset: int = 20,
) -> dict[str, str]:
    """Export a model of :func:`pcvpt.load_adapter`, which is frozen; return the file's metadata.

    The file takes batches of any size. It is written only if it predicts what the model predicts.
    A UsageError is raised if it does not, a package is missing, or the model can't be exported.

    Args:
        model: Model with a description of its preprocessing.
        path: File, which is replaced.
        kind: ``onnx`` or ``exported_program``.
        batches: Images of the proof, uint8 ``(b, 3, h, w)`` of the model's size, and their labels
            ``(b,)``. Without labels, accuracy is the agreement with the model.
        preprocessing: Whether the file takes uint8 pixels, which it normalises itself.
        softmax: Whether it returns probabilities instead of logits.
        half: Whether it computes in float16. It is then accepted if at most 0.5 % of the images
            are lost.
        opset: Version of the ONNX operators.
    """
    adapter: Adapter | None = model.adapter
    if adapter is None or adapter.preprocessing is None:
        raise UsageError(f"{path}: the adapter does not tell its preprocessing; train it again")
    steps = adapter.preprocessing
    model.freeze_prompts()
    inside = steps if preprocessing else None
    own = _Deployed(model, inside, softmax).eval()
    other = _Deployed(deepcopy(model).half(), inside, softmax).eval() if half else own
    example = torch.zeros(2, 3, *steps.size, dtype=torch.uint8 if preprocessing else torch.float32)
    data = adapter.provenance.get("data")
    metadata = {
        _KEY: to_text(adapter),
        "class_names": json.dumps(adapter.class_names, ensure_ascii=False),
        "input_size": json.dumps(steps.size),
        "protocol": str(data.get("protocol")) if isinstance(data, dict) else "unknown",
        "preprocessing": str(steps),
        "fingerprint": adapter.fingerprint,
        "input": "uint8" if preprocessing else "float32",
        "output": "probabilities" if softmax else "logits",
        "precision": "float16" if half else "float32",
    }
    write = _to_onnx(other, example, opset) if kind == "onnx" else _to_program(other, example)
    exported = _opened(write(metadata), kind)
    metadata |= _proof(path, own, exported, batches, half)
    content = write(metadata)
    with atomic_file(path) as file:
        file.write(content)
    return metadata


def load_exported(path: str | Path) -> ExportedModel:
    """Load a file of ``pcvpt export``, to be run by its own runtime on the CPU.

    Load only files that you trust: a program of ``torch.export`` is no mere data.

    Raises:
        UsageError: If the file can't be read, or is not of pcvpt.
    """
    path = Path(path).expanduser()
    kinds: dict[str, Kind] = {suffix: kind for kind, suffix in SUFFIXES.items()}
    if path.suffix not in kinds or not path.is_file():
        raise UsageError(f"{path}: no such exported model; give a file {' or '.join(kinds)}")
    try:
        return _opened(path.read_bytes(), kinds[path.suffix])
    except UsageError:
        raise
    except Exception as error:  # the runtimes raise their own
        reason = first_line(error)
        told = f"not a model of `pcvpt export` ({reason}); get it again"
        raise UsageError(f"{path}: {told}") from error


def _require_package(*names: str) -> None:
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise UsageError(f"{', '.join(missing)} is not installed: pip install pcvpt[export]")


def _to_onnx(model: nn.Module, example: Tensor, opset: int) -> Callable[[Mapping[str, str]], bytes]:
    _require_package("onnx", "onnxscript", "onnxruntime")
    from onnx.helper import set_model_props

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["images"],
            output_names=["output"],
            opset_version=opset,
            verbose=False,
        )
    assert program is not None
    proto: Any = program.model_proto

    def write(metadata: Mapping[str, str]) -> bytes:
        set_model_props(proto, dict(metadata))
        if proto.ByteSize() >= 2**31:
            raise UsageError("an ONNX file holds 2 GB; give --half, or --to exported_program")
        content: bytes = proto.SerializeToString()
        return content

    return write


def _to_program(model: nn.Module, example: Tensor) -> Callable[[Mapping[str, str]], bytes]:
    sizes = ({0: torch.export.Dim("batch")},)
    with torch.no_grad():
        program = torch.export.export(model, (example,), dynamic_shapes=sizes, strict=False)

    def write(metadata: Mapping[str, str]) -> bytes:
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.save(program, file, extra_files={_KEY: json.dumps(metadata)})
        return file.getvalue()

    return write


def _opened(content: bytes, kind: Kind) -> ExportedModel:
    if kind == "onnx":
        _require_package("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
        metadata = dict(session.get_modelmeta().custom_metadata_map)

        def call(images: Tensor) -> Tensor:
            (found,) = session.run(None, {"images": images.numpy()})
            return torch.from_numpy(found)

    else:
        extra = {_KEY: ""}
        program: Any = torch.export.load(io.BytesIO(content), extra_files=extra).module()
        metadata = json.loads(extra[_KEY])

        @torch.no_grad()
        def call(images: Tensor) -> Tensor:
            found: Tensor = program(images)
            return found

    if _KEY not in metadata:
        raise Fault("it has no description of pcvpt")
    return ExportedModel(from_text(metadata[_KEY]), metadata, call)


@torch.no_grad()
def _proof(
    path: Path,
    model: _Deployed,
    exported: ExportedModel,
    batches: Iterable[tuple[Tensor, Tensor | None]],
    half: bool,
) -> dict[str, str]:
    """Return what is measured by running both on ``batches``; raise a UsageError if they differ."""
    images = same = right = exported_right = 0
    furthest = 0.0
    steps = exported.adapter.preprocessing
    assert steps is not None
    for batch, labels in batches:
        expected = model(batch if model.mean is not None else steps.normalized(batch))
        found = exported(batch)
        largest = float(expected.abs().max().clamp(min=1))
        furthest = max(furthest, float((found - expected).abs().max()) / largest)
        own, other = expected.argmax(1), found.argmax(1)
        labels = own if labels is None else labels
        images, same = images + len(batch), same + int((own == other).sum())
        right += int((own == labels).sum())
        exported_right += int((other == labels).sum())
    if not images:
        raise UsageError(f"{path}: not written: there are no images to prove it by; give --images")
    lost = right - exported_right
    good = lost <= _LOST * images if half else same == images and furthest <= TOLERANCE
    if not good:
        raise UsageError(
            f"{path}: not written: run by its own runtime on {images:,} images, it predicts "
            f"{images - same:,} differently and {lost:,} fewer rightly, and its output differs by "
            f"{furthest:.1e}; try another --opset, or --to exported_program"
        )
    return {
        "images": str(images),
        "accuracy_torch": f"{100 * right / images:.2f} %",
        "accuracy_exported": f"{100 * exported_right / images:.2f} %",
        "same_class": f"{100 * same / images:.2f} %",
        "largest_difference": f"{furthest:.1e}",
    }
