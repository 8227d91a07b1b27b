"""The 24 tasks: one row each, and a DataModule that names the row.

Classes, sizes and sub-splits are those of Jia et al., ECCV 2022 (https://arxiv.org/abs/2203.12119),
and of VTAB (Zhai et al., https://arxiv.org/abs/1910.04867); ``seeds/`` has them with their sources.
"""

from typing import ClassVar

from pcvpt.data.datamodules.benchmark import BenchmarkDataModule
from pcvpt.data.tasks.task import Task

_ROWS = (
    Task(
        "cub",
        "CUB-200-2011",
        "fgvc",
        "fgvc",
        num_classes=200,
        train=5394,
        val=600,
        test=5794,
        folders=("CUB_200_2011",),
        licence="non-commercial research and education",
        homepage="https://www.vision.caltech.edu/datasets/cub_200_2011/",
        images="images",
        prompts=10,
    ),
    Task(
        "nabirds",
        "NABirds",
        "fgvc",
        "fgvc",
        num_classes=555,
        train=21536,
        val=2393,
        test=24633,
        folders=("nabirds",),
        licence="non-commercial, terms of use to be accepted",
        homepage="https://dl.allaboutbirds.org/nabirds",
        images="images",
        prompts=50,
    ),
    Task(
        "flowers",
        "Oxford Flowers",
        "fgvc",
        "fgvc",
        num_classes=102,
        train=1020,
        val=1020,
        test=6149,
        folders=("OxfordFlower", "OxfordFlowers", "flowers-102", "oxford_flowers102", "102flowers"),
        licence="none stated",
        homepage="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        prompts=5,
    ),
    Task(
        "dogs",
        "Stanford Dogs",
        "fgvc",
        "fgvc",
        num_classes=120,
        train=10800,
        val=1200,
        test=8580,
        folders=("Stanford-dogs",),
        licence="those of ImageNet: non-commercial research",
        homepage="http://vision.stanford.edu/aditya86/ImageNetDogs/",
        images="Images",
        prompts=100,
    ),
    Task(
        "cars",
        "Stanford Cars",
        "fgvc",
        "fgvc",
        num_classes=196,
        train=7329,
        val=815,
        test=8041,
        folders=("Stanford-cars",),
        licence="those of ImageNet: non-commercial research",
        homepage="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        prompts=200,
    ),
    Task(
        "cifar100",
        "CIFAR-100",
        "vtab",
        "natural",
        num_classes=100,
        train=800,
        val=200,
        test=10000,
        folders=("cifar", "cifar-100-python"),
        licence="none stated",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        tfds="cifar100:3.*",
        rules=("train[:800]", "train[90%:]+200", "test"),
        prompts=10,
    ),
    Task(
        "caltech101",
        "Caltech-101",
        "vtab",
        "natural",
        num_classes=102,
        train=800,
        val=200,
        test=6084,
        folders=(),
        licence="CC BY 4.0",
        homepage="https://data.caltech.edu/records/mzrjq-6wc02",
        tfds="caltech101:3.*",
        rules=("train[:800]", "train[90%:]+200", "test"),
        prompts=10,
    ),
    Task(
        "dtd",
        "Describable Textures",
        "vtab",
        "natural",
        num_classes=47,
        train=800,
        val=200,
        test=1880,
        folders=(),
        licence="for research",
        homepage="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        tfds="dtd:3.*",
        rules=("train[:800]", "validation[:200]", "test"),
        prompts=10,
    ),
    Task(
        "flowers102",
        "Oxford Flowers 102",
        "vtab",
        "natural",
        num_classes=102,
        train=800,
        val=200,
        test=6149,
        folders=("oxford_flowers102", "flowers-102", "oxford_flowers"),
        licence="none stated",
        homepage="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        tfds="oxford_flowers102:2.*",
        rules=("train[:800]", "validation[:200]", "test"),
        prompts=1,
    ),
    Task(
        "pets",
        "Oxford-IIIT Pet",
        "vtab",
        "natural",
        num_classes=37,
        train=800,
        val=200,
        test=3669,
        folders=("oxford_iiit_pet", "oxford_pet", "oxford-iiit-pet"),
        licence="CC BY-SA 4.0",
        homepage="https://www.robots.ox.ac.uk/~vgg/data/pets/",
        tfds="oxford_iiit_pet:3.*",
        rules=("train[:800]", "train[80%:]+200", "test"),
        prompts=1,
    ),
    Task(
        "svhn",
        "Street View House Numbers",
        "vtab",
        "natural",
        num_classes=10,
        train=800,
        val=200,
        test=26032,
        folders=("svhn_cropped",),
        licence="non-commercial",
        homepage="http://ufldl.stanford.edu/housenumbers/",
        tfds="svhn_cropped:3.*",
        rules=("train[:800]", "train[90%:]+200", "test"),
        prompts=50,
    ),
    Task(
        "sun397",
        "SUN397",
        "vtab",
        "natural",
        num_classes=397,
        train=800,
        val=200,
        test=21750,
        folders=(),
        licence="none stated",
        homepage="https://vision.princeton.edu/projects/2010/SUN/",
        tfds="sun397/tfds:4.*",
        rules=("train[:800]", "validation[:200]", "test"),
        prompts=5,
    ),
    Task(
        "patch_camelyon",
        "PatchCamelyon",
        "vtab",
        "specialized",
        num_classes=2,
        train=800,
        val=200,
        test=32768,
        folders=("pcam",),
        licence="CC0",
        homepage="https://github.com/basveeling/pcam",
        tfds="patch_camelyon:2.*",
        rules=("train[:800]", "validation[:200]", "test"),
        prompts=100,
    ),
    Task(
        "eurosat",
        "EuroSAT",
        "vtab",
        "specialized",
        num_classes=10,
        train=800,
        val=200,
        test=5400,
        folders=(),
        licence="MIT",
        homepage="https://github.com/phelber/eurosat",
        tfds="eurosat/rgb:2.*",
        rules=("train[:800]", "train[60%:]+200", "train[80%:]"),
        prompts=100,
    ),
    Task(
        "resisc45",
        "NWPU-RESISC45",
        "vtab",
        "specialized",
        num_classes=45,
        train=800,
        val=200,
        test=6300,
        folders=(),
        licence="none stated",
        homepage="https://gcheng-nwpu.github.io/#Datasets",
        tfds="resisc45:3.*",
        rules=("train[:800]", "train[60%:]+200", "train[80%:]"),
        prompts=10,
    ),
    Task(
        "diabetic_retinopathy",
        "Kaggle Diabetic Retinopathy",
        "vtab",
        "specialized",
        num_classes=5,
        train=800,
        val=200,
        test=42670,
        folders=("diabetic_retinopathy_detection",),
        licence="the competition's rules, to be accepted",
        homepage="https://www.kaggle.com/c/diabetic-retinopathy-detection/data",
        tfds="diabetic_retinopathy_detection/btgraham-300:3.*",
        rules=("train[:800]", "validation[:200]", "test"),
        prompts=1,
    ),
    Task(
        "clevr_count",
        "CLEVR, number of objects",
        "vtab",
        "structured",
        num_classes=8,
        train=800,
        val=200,
        test=15000,
        folders=("clevr",),
        licence="CC BY 4.0",
        homepage="https://cs.stanford.edu/people/jcjohns/clevr/",
        tfds="clevr:3.*",
        rules=("train[:800]", "train[90%:]+200", "validation"),
        sibling="clevr_dist",
        prompts=50,
    ),
    Task(
        "clevr_dist",
        "CLEVR, distance of the nearest object",
        "vtab",
        "structured",
        num_classes=6,
        train=800,
        val=200,
        test=15000,
        folders=("clevr",),
        licence="CC BY 4.0",
        homepage="https://cs.stanford.edu/people/jcjohns/clevr/",
        tfds="clevr:3.*",
        rules=("train[:800]", "train[90%:]+200", "validation"),
        sibling="clevr_count",
        prompts=200,
    ),
    Task(
        "dmlab",
        "DMLab frames",
        "vtab",
        "structured",
        num_classes=6,
        train=800,
        val=200,
        test=22735,
        folders=(),
        licence="none stated",
        homepage="https://github.com/google-research/task_adaptation",
        tfds="dmlab:2.0.1",
        rules=("train[:800]", "validation[:200]", "test"),
        prompts=100,
    ),
    Task(
        "kitti_dist",
        "KITTI, distance of the nearest vehicle",
        "vtab",
        "structured",
        num_classes=4,
        train=800,
        val=200,
        test=711,
        folders=("kitti",),
        licence="CC BY-NC-SA 3.0",
        homepage="https://www.cvlibs.net/datasets/kitti/eval_object.php",
        tfds="kitti:3.2.0",
        rules=("train[:800]", "validation[:200]", "test"),
        prompts=50,
    ),
    Task(
        "dsprites_loc",
        "dSprites, x position",
        "vtab",
        "structured",
        num_classes=16,
        train=800,
        val=200,
        test=73728,
        folders=("dsprites",),
        licence="Apache-2.0",
        homepage="https://github.com/google-deepmind/dsprites-dataset",
        tfds="dsprites:2.*",
        rules=("train[:800]", "train[80%:]+200", "train[90%:]"),
        sibling="dsprites_ori",
        prompts=10,
    ),
    Task(
        "dsprites_ori",
        "dSprites, orientation",
        "vtab",
        "structured",
        num_classes=16,
        train=800,
        val=200,
        test=73728,
        folders=("dsprites",),
        licence="Apache-2.0",
        homepage="https://github.com/google-deepmind/dsprites-dataset",
        tfds="dsprites:2.*",
        rules=("train[:800]", "train[80%:]+200", "train[90%:]"),
        sibling="dsprites_loc",
        prompts=50,
    ),
    Task(
        "smallnorb_azi",
        "Small NORB, azimuth",
        "vtab",
        "structured",
        num_classes=18,
        train=800,
        val=200,
        test=12150,
        folders=("smallnorb",),
        licence="for research",
        homepage="https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/",
        tfds="smallnorb:2.*",
        rules=("train[:800]", "test[:200]", "test[50%:]"),
        sibling="smallnorb_ele",
        prompts=200,
    ),
    Task(
        "smallnorb_ele",
        "Small NORB, elevation",
        "vtab",
        "structured",
        num_classes=9,
        train=800,
        val=200,
        test=12150,
        folders=("smallnorb",),
        licence="for research",
        homepage="https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/",
        tfds="smallnorb:2.*",
        rules=("train[:800]", "test[:200]", "test[50%:]"),
        sibling="smallnorb_azi",
        prompts=200,
    ),
)

TASKS = {row.name: row for row in _ROWS}
"""The rows by name."""


class CUB(BenchmarkDataModule):
    """CUB-200-2011: 200 classes, 5,794 test images."""

    row: ClassVar[Task] = TASKS["cub"]


class NABirds(BenchmarkDataModule):
    """NABirds: 555 classes, 24,633 test images."""

    row: ClassVar[Task] = TASKS["nabirds"]


class OxfordFlowers(BenchmarkDataModule):
    """Oxford Flowers: 102 classes, 6,149 test images."""

    row: ClassVar[Task] = TASKS["flowers"]


class StanfordDogs(BenchmarkDataModule):
    """Stanford Dogs: 120 classes, 8,580 test images."""

    row: ClassVar[Task] = TASKS["dogs"]


class StanfordCars(BenchmarkDataModule):
    """Stanford Cars: 196 classes, 8,041 test images."""

    row: ClassVar[Task] = TASKS["cars"]


class CIFAR100(BenchmarkDataModule):
    """CIFAR-100: 100 classes, 10,000 test images."""

    row: ClassVar[Task] = TASKS["cifar100"]


class Caltech101(BenchmarkDataModule):
    """Caltech-101: 102 classes, 6,084 test images."""

    row: ClassVar[Task] = TASKS["caltech101"]


class DTD(BenchmarkDataModule):
    """Describable Textures: 47 classes, 1,880 test images."""

    row: ClassVar[Task] = TASKS["dtd"]


class Flowers102(BenchmarkDataModule):
    """Oxford Flowers 102: 102 classes, 6,149 test images."""

    row: ClassVar[Task] = TASKS["flowers102"]


class Pets(BenchmarkDataModule):
    """Oxford-IIIT Pet: 37 classes, 3,669 test images."""

    row: ClassVar[Task] = TASKS["pets"]


class SVHN(BenchmarkDataModule):
    """Street View House Numbers: 10 classes, 26,032 test images."""

    row: ClassVar[Task] = TASKS["svhn"]


class SUN397(BenchmarkDataModule):
    """SUN397: 397 classes, 21,750 test images."""

    row: ClassVar[Task] = TASKS["sun397"]


class PatchCamelyon(BenchmarkDataModule):
    """PatchCamelyon: 2 classes, 32,768 test images."""

    row: ClassVar[Task] = TASKS["patch_camelyon"]


class EuroSAT(BenchmarkDataModule):
    """EuroSAT: 10 classes, 5,400 test images."""

    row: ClassVar[Task] = TASKS["eurosat"]


class RESISC45(BenchmarkDataModule):
    """NWPU-RESISC45: 45 classes, 6,300 test images."""

    row: ClassVar[Task] = TASKS["resisc45"]


class DiabeticRetinopathy(BenchmarkDataModule):
    """Kaggle Diabetic Retinopathy: 5 classes, 42,670 test images."""

    row: ClassVar[Task] = TASKS["diabetic_retinopathy"]


class ClevrCount(BenchmarkDataModule):
    """CLEVR, number of objects: 8 classes, 15,000 test images."""

    row: ClassVar[Task] = TASKS["clevr_count"]


class ClevrDist(BenchmarkDataModule):
    """CLEVR, distance of the nearest object: 6 classes, 15,000 test images."""

    row: ClassVar[Task] = TASKS["clevr_dist"]


class DMLab(BenchmarkDataModule):
    """DMLab frames: 6 classes, 22,735 test images."""

    row: ClassVar[Task] = TASKS["dmlab"]


class KittiDist(BenchmarkDataModule):
    """KITTI, distance of the nearest vehicle: 4 classes, 711 test images."""

    row: ClassVar[Task] = TASKS["kitti_dist"]


class DSpritesLoc(BenchmarkDataModule):
    """dSprites, x position: 16 classes, 73,728 test images."""

    row: ClassVar[Task] = TASKS["dsprites_loc"]


class DSpritesOri(BenchmarkDataModule):
    """dSprites, orientation: 16 classes, 73,728 test images."""

    row: ClassVar[Task] = TASKS["dsprites_ori"]


class SmallNORBAzi(BenchmarkDataModule):
    """Small NORB, azimuth: 18 classes, 12,150 test images."""

    row: ClassVar[Task] = TASKS["smallnorb_azi"]


class SmallNORBEle(BenchmarkDataModule):
    """Small NORB, elevation: 9 classes, 12,150 test images."""

    row: ClassVar[Task] = TASKS["smallnorb_ele"]
