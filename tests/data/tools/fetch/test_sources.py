"""The rows against the packages that their facts come from."""

import ast
import importlib.util
import inspect
import re
from pathlib import Path, PurePosixPath

import pytest
import torchvision
from packaging.version import Version
from torchvision import datasets

from pcvpt.data.layouts.base import task_folders
from pcvpt.data.tasks.table import TASKS
from pcvpt.data.tools.fetch.sources import SOURCES, WITHOUT_TENSORFLOW

ARCHIVES = {each.filename: each for source in SOURCES.values() for each in source.archives}


def _tfds_folder() -> Path:
    spec = importlib.util.find_spec("tensorflow_datasets")
    if spec is None or spec.origin is None:
        pytest.skip("tensorflow_datasets is not installed")
    return Path(spec.origin).parent


def test_every_task_has_a_source_and_every_source_a_task() -> None:
    assert SOURCES.keys() == TASKS.keys()


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_has_all_that_its_way_of_getting_needs(name: str, tmp_path: Path) -> None:
    source = SOURCES[name]
    assert bool(source.folder) == (source.by != "tfds")
    assert bool(source.steps) == (source.by == "hand" or name == "diabetic_retinopathy")
    assert bool(source.archives) == (source.by == "download")
    for text in (*source.steps, source.note):
        assert set(re.findall(r"{(.*?)}", text)) <= {"root"}
    for archive in source.archives:
        place = PurePosixPath(archive.into)
        assert ".." not in place.parts
        assert not place.is_absolute()
        assert archive.into == "." or place.parts[0] == source.folder
        assert re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{32}", archive.checksum)
        assert re.match(r"https?://", archive.url)
    if source.folder:
        (tmp_path / source.folder).mkdir()
        assert tmp_path / source.folder in task_folders(TASKS[name], tmp_path)


def test_tasks_of_one_data_set_share_its_source() -> None:
    for one, other in [
        ("clevr_count", "clevr_dist"),
        ("dsprites_loc", "dsprites_ori"),
        ("smallnorb_azi", "smallnorb_ele"),
        ("flowers", "flowers102"),
    ]:
        assert SOURCES[one] is SOURCES[other]


def test_addresses_are_those_of_torchvision() -> None:
    assert ARCHIVES["cifar-100-python.tar.gz"].url == datasets.CIFAR100.url
    assert ARCHIVES["cifar-100-python.tar.gz"].checksum == datasets.CIFAR100.tgz_md5
    assert ARCHIVES["dtd-r1.0.1.tar.gz"].url == datasets.DTD._URL
    assert ARCHIVES["CLEVR_v1.0.zip"].url == datasets.CLEVRClassification._URL
    for url, _ in datasets.OxfordIIITPet._RESOURCES:
        assert ARCHIVES[url.rsplit("/", 1)[1]].url == url
    for url, name, _ in datasets.SVHN.split_list.values():
        assert name not in ARCHIVES or ARCHIVES[name].url == url
    for name in datasets.Kitti.resources:
        assert ARCHIVES[name].url == f"{datasets.Kitti.data_url}{name}"
    for name, _ in datasets.Flowers102._file_dict.values():
        assert ARCHIVES[name].url == f"{datasets.Flowers102._download_url_prefix}{name}"
    read = {each[0] for split in datasets.PCAM._FILES.values() for each in split.values()}
    assert set(SOURCES["patch_camelyon"].required) == read


@pytest.mark.skipif(
    Version(torchvision.__version__) < Version("0.29"), reason="older ones name other addresses"
)
def test_addresses_are_those_in_the_code_of_torchvision() -> None:
    eurosat = inspect.getsource(datasets.EuroSAT.download)
    assert f'"{ARCHIVES["EuroSAT.zip"].checksum}"' in eurosat
    assert ARCHIVES["EuroSAT.zip"].url in eurosat
    caltech = inspect.getsource(datasets.Caltech101.download)
    assert ARCHIVES["caltech-101.zip"].url.removesuffix("?download=1") in caltech


def test_sizes_and_sha256_are_those_of_tfds() -> None:
    published: dict[str, tuple[int, set[str]]] = {}
    for pattern in "datasets/*/checksums.tsv", "url_checksums/*.txt":
        for file in _tfds_folder().glob(pattern):
            for line in file.read_text(encoding="utf-8").splitlines():
                if len(fields := line.split("\t")) >= 3 and fields[1].isdecimal():
                    url, size, sha256 = fields[:3]
                    names = published.setdefault(sha256, (int(size), set()))[1]
                    names.add(PurePosixPath(url.split("?")[0]).name)
    elsewhere = {"cifar-100-python.tar.gz", "EuroSAT.zip", "NWPU-RESISC45.zip"}
    for name, archive in ARCHIVES.items():
        if name in elsewhere:
            assert archive.size is None
        else:
            size_there, names = published[archive.checksum]
            assert (size_there, name in names) == (archive.size, True)
    (cars,) = re.findall(r"[0-9a-f]{64}", " ".join(SOURCES["cars"].steps))
    assert published[cars][1] == {"cars_test_annos_withlabels.mat"}


@pytest.mark.parametrize("name", sorted({row.tfds.split(":")[0] for row in TASKS.values()} - {""}))
def test_builders_of_tfds_that_do_without_tensorflow_are_known(name: str) -> None:
    builder = name.split("/")[0]
    module = "cifar" if builder == "cifar100" else builder
    folder = _tfds_folder()
    files = [
        folder / "datasets" / module / f"{module}_dataset_builder.py",
        folder / "image_classification" / f"{module}.py",
    ]
    code = next(file.read_text(encoding="utf-8") for file in files if file.is_file())
    used = any(
        isinstance(node, ast.Name) and node.id == "tf" and isinstance(node.ctx, ast.Load)
        for node in ast.walk(ast.parse(code))
    )
    assert used == (builder not in WITHOUT_TENSORFLOW)
