"""The DataModules of the 24 tasks. Each class only names a row of the table.

A row that does not exist fails when this module is imported.
"""

from pcvpt.data.datamodules.benchmark import BenchmarkDataModule
from pcvpt.data.tasks.table import TASKS


class CUB(BenchmarkDataModule):
    """CUB-200-2011: 200 classes, 5,794 test images."""

    row = TASKS["cub"]


class NABirds(BenchmarkDataModule):
    """NABirds: 555 classes, 24,633 test images."""

    row = TASKS["nabirds"]


class OxfordFlowers(BenchmarkDataModule):
    """Oxford Flowers: 102 classes, 6,149 test images."""

    row = TASKS["flowers"]


class StanfordDogs(BenchmarkDataModule):
    """Stanford Dogs: 120 classes, 8,580 test images."""

    row = TASKS["dogs"]


class StanfordCars(BenchmarkDataModule):
    """Stanford Cars: 196 classes, 8,041 test images."""

    row = TASKS["cars"]


class CIFAR100(BenchmarkDataModule):
    """CIFAR-100: 100 classes, 10,000 test images."""

    row = TASKS["cifar100"]


class Caltech101(BenchmarkDataModule):
    """Caltech-101: 102 classes, 6,084 test images."""

    row = TASKS["caltech101"]


class DTD(BenchmarkDataModule):
    """Describable Textures: 47 classes, 1,880 test images."""

    row = TASKS["dtd"]


class Flowers102(BenchmarkDataModule):
    """Oxford Flowers 102: 102 classes, 6,149 test images."""

    row = TASKS["flowers102"]


class Pets(BenchmarkDataModule):
    """Oxford-IIIT Pet: 37 classes, 3,669 test images."""

    row = TASKS["pets"]


class SVHN(BenchmarkDataModule):
    """Street View House Numbers: 10 classes, 26,032 test images."""

    row = TASKS["svhn"]


class SUN397(BenchmarkDataModule):
    """SUN397: 397 classes, 21,750 test images."""

    row = TASKS["sun397"]


class PatchCamelyon(BenchmarkDataModule):
    """PatchCamelyon: 2 classes, 32,768 test images."""

    row = TASKS["patch_camelyon"]


class EuroSAT(BenchmarkDataModule):
    """EuroSAT: 10 classes, 5,400 test images."""

    row = TASKS["eurosat"]


class RESISC45(BenchmarkDataModule):
    """NWPU-RESISC45: 45 classes, 6,300 test images."""

    row = TASKS["resisc45"]


class DiabeticRetinopathy(BenchmarkDataModule):
    """Kaggle Diabetic Retinopathy: 5 classes, 42,670 test images."""

    row = TASKS["diabetic_retinopathy"]


class ClevrCount(BenchmarkDataModule):
    """CLEVR, number of objects: 8 classes, 15,000 test images."""

    row = TASKS["clevr_count"]


class ClevrDist(BenchmarkDataModule):
    """CLEVR, distance of the nearest object: 6 classes, 15,000 test images."""

    row = TASKS["clevr_dist"]


class DMLab(BenchmarkDataModule):
    """DMLab frames: 6 classes, 22,735 test images."""

    row = TASKS["dmlab"]


class KittiDist(BenchmarkDataModule):
    """KITTI, distance of the nearest vehicle: 4 classes, 711 test images."""

    row = TASKS["kitti_dist"]


class DSpritesLoc(BenchmarkDataModule):
    """dSprites, x position: 16 classes, 73,728 test images."""

    row = TASKS["dsprites_loc"]


class DSpritesOri(BenchmarkDataModule):
    """dSprites, orientation: 16 classes, 73,728 test images."""

    row = TASKS["dsprites_ori"]


class SmallNORBAzi(BenchmarkDataModule):
    """Small NORB, azimuth: 18 classes, 12,150 test images."""

    row = TASKS["smallnorb_azi"]


class SmallNORBEle(BenchmarkDataModule):
    """Small NORB, elevation: 9 classes, 12,150 test images."""

    row = TASKS["smallnorb_ele"]
