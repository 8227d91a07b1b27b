"""The DataModules of the 24 tasks. Each class only names a row of the table.

A row that does not exist fails when this module is imported. The docstrings come from the rows.
"""

from pcvpt.data.datamodules.benchmark import BenchmarkDataModule
from pcvpt.data.tasks.table import TASKS


class CUB(BenchmarkDataModule):
    row = TASKS["cub"]


class NABirds(BenchmarkDataModule):
    row = TASKS["nabirds"]


class OxfordFlowers(BenchmarkDataModule):
    row = TASKS["flowers"]


class StanfordDogs(BenchmarkDataModule):
    row = TASKS["dogs"]


class StanfordCars(BenchmarkDataModule):
    row = TASKS["cars"]


class CIFAR100(BenchmarkDataModule):
    row = TASKS["cifar100"]


class Caltech101(BenchmarkDataModule):
    row = TASKS["caltech101"]


class DTD(BenchmarkDataModule):
    row = TASKS["dtd"]


class Flowers102(BenchmarkDataModule):
    row = TASKS["flowers102"]


class Pets(BenchmarkDataModule):
    row = TASKS["pets"]


class SVHN(BenchmarkDataModule):
    row = TASKS["svhn"]


class SUN397(BenchmarkDataModule):
    row = TASKS["sun397"]


class PatchCamelyon(BenchmarkDataModule):
    row = TASKS["patch_camelyon"]


class EuroSAT(BenchmarkDataModule):
    row = TASKS["eurosat"]


class RESISC45(BenchmarkDataModule):
    row = TASKS["resisc45"]


class DiabeticRetinopathy(BenchmarkDataModule):
    row = TASKS["diabetic_retinopathy"]


class ClevrCount(BenchmarkDataModule):
    row = TASKS["clevr_count"]


class ClevrDist(BenchmarkDataModule):
    row = TASKS["clevr_dist"]


class DMLab(BenchmarkDataModule):
    row = TASKS["dmlab"]


class KittiDist(BenchmarkDataModule):
    row = TASKS["kitti_dist"]


class DSpritesLoc(BenchmarkDataModule):
    row = TASKS["dsprites_loc"]


class DSpritesOri(BenchmarkDataModule):
    row = TASKS["dsprites_ori"]


class SmallNORBAzi(BenchmarkDataModule):
    row = TASKS["smallnorb_azi"]


class SmallNORBEle(BenchmarkDataModule):
    row = TASKS["smallnorb_ele"]
