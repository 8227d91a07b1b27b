"""Where the data of the 24 tasks come from: one row for each data set.

Addresses, sizes and SHA-256 are those of TensorFlow Datasets 4.9 (Apache-2.0), MD5 and the
folders' structure those of torchvision (BSD-3-Clause); tests compare the rows with both packages.
A checksum that nobody publishes is None, and said to be so when the data are fetched.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Archive:
    """A file on the web, and what becomes of it.

    Args:
        url: its address.
        filename: under which it is kept.
        size: in bytes.
        sha256: hexadecimal.
        md5: hexadecimal.
        into: folder below the root that it is unpacked into.
        only: members to unpack, files or folders; empty means all.
        inner: archive within it, which is what is unpacked.
        packed: False if the file itself is wanted.
    """

    url: str
    filename: str
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    into: str = "."
    only: tuple[str, ...] = ()
    inner: str = ""
    packed: bool = True


@dataclass(frozen=True)
class Source:
    """How a data set is got.

    Args:
        by: ``download`` unpacks the archives; ``tfds`` has TensorFlow Datasets prepare them;
            ``hand`` can only say what to do.
        folder: below the root, which is made; for ``tfds`` the package names it.
        holds: what must lie in that folder, at the least; for ``tfds`` what the package must be
            given in ``manual/<task>`` below the root, if there are no archives.
        archives: what is fetched.
        steps: what people have to do, with ``{root}`` for the root.
        note: what they should know.
    """

    by: Literal["download", "tfds", "hand"]
    folder: str = ""
    holds: tuple[str, ...] = ()
    archives: tuple[Archive, ...] = ()
    steps: tuple[str, ...] = ()
    note: str = ""


_VGG = "https://www.robots.ox.ac.uk/~vgg/data"
_FLOWERS = Source(
    "download",
    "flowers-102",
    ("jpg", "setid.mat", "imagelabels.mat"),
    (
        Archive(
            f"{_VGG}/flowers/102/102flowers.tgz",
            "102flowers.tgz",
            344862509,
            "2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
            "52808999861908f626f3c1f4e79d11fa",
            into="flowers-102",
        ),
        Archive(
            f"{_VGG}/flowers/102/imagelabels.mat",
            "imagelabels.mat",
            502,
            "4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d",
            "e0620be6f572b9609742df49c70aed4d",
            into="flowers-102",
            packed=False,
        ),
        Archive(
            f"{_VGG}/flowers/102/setid.mat",
            "setid.mat",
            14989,
            "46b8678f91fd95d3c8f4feab80d271a6c834a1dd896fe29fd3e6ad9ce5c8dccd",
            "a5357ecc9cb78c4bef273ce3793fc85c",
            into="flowers-102",
            packed=False,
        ),
    ),
)

_CLEVR = Source(
    "download",
    "clevr",
    ("CLEVR_v1.0/images/train", "CLEVR_v1.0/images/val", "CLEVR_v1.0/scenes"),
    (
        Archive(
            "https://dl.fbaipublicfiles.com/clevr/CLEVR_v1.0.zip",
            "CLEVR_v1.0.zip",
            19021600724,
            "5cd61cf1096ed20944df93c9adb31e74d189b8459a94f54ba00090e5c59936d1",
            "b11922020e72d0cd9154779b2d3d07d2",
            into="clevr",
        ),
    ),
)

_DSPRITES_FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.hdf5"
_DSPRITES = Source(
    "download",
    "dsprites",
    (_DSPRITES_FILE,),
    (
        Archive(
            f"https://github.com/deepmind/dsprites-dataset/blob/master/{_DSPRITES_FILE}?raw=true",
            _DSPRITES_FILE,
            28024106,
            "729fa22e884c9c500e1f17415d580746b4c5894fbbb780a1319bbcfa39a745bb",
            into="dsprites",
            packed=False,
        ),
    ),
)


def _norb(part: str, size: int, sha256: str) -> Archive:
    instances = "46789" if part.startswith("training") else "01235"
    name = f"smallnorb-5x{instances}x9x18x6x2x96x96-{part}.mat.gz"
    return Archive(
        f"https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/{name}",
        name,
        size,
        sha256,
        into="smallnorb",
    )


_NORB_ARCHIVES = (
    _norb(
        "training-dat",
        131896188,
        "5ffd6272a07d32695ee1082a26a41a93a37aab8c28da047f8c34ed348d214873",
    ),
    _norb(
        "training-cat",
        348,
        "2784e542c1922060691090952b6cd6278879a216c90f81476f0f00256d42cdaa",
    ),
    _norb(
        "training-info",
        71052,
        "de7eb932ebe7a4ee16217fead60660d0eb3d23632c2f4d1c51f88c501c17bf32",
    ),
    _norb(
        "testing-dat",
        130799817,
        "cf7104eed3e51174d2f65b66d1e5878b9da233b886f161b0d88f4510ba2c7474",
    ),
    _norb(
        "testing-cat",
        347,
        "ecaf6d5bb8c3bc5eab9cf0258f6d2198dd474e016e374836fc097f2e5ff509ff",
    ),
    _norb(
        "testing-info",
        10428,
        "16adf314226327ee006d1a44db8cfef52773c06c829951d5653a9f6f310248a2",
    ),
)
_NORB = Source(
    "download",
    "smallnorb",
    tuple(each.filename.removesuffix(".gz") for each in _NORB_ARCHIVES),
    _NORB_ARCHIVES,
)


def _pcam(part: str, size: int, sha256: str) -> Archive:
    # No MD5: torchvision's table and the authors' README have those of valid and test exchanged.
    name = f"camelyonpatch_level_2_split_{part}.h5.gz"
    url = f"https://zenodo.org/record/2546921/files/{name}"
    return Archive(url, name, size, sha256, into="pcam")


_PCAM_ARCHIVES = (
    _pcam(
        "train_x", 6421353462, "d619e741468a7ab35c7e4a75e6821b7e7e6c9411705d45708f2a0efc8960656c"
    ),
    _pcam("train_y", 21378, "b74126d2c01b20d3661f9b46765d29cf4e4fba6faba29c8e0d09d406331ab75a"),
    _pcam("valid_x", 805965320, "f82ee1670d027b4ec388048d9eabc2186b77c009655dae76d624c0ecb053ccb2"),
    _pcam("valid_y", 3038, "ce1ae30f08feb468447971cfd0472e7becd0ad96d877c64120c72571439ae48c"),
    _pcam("test_x", 800875929, "79174c2201ad521602a5888be8f36ee10875f37403dd3f2086caf2182ef87245"),
    _pcam("test_y", 3040, "0a522005fccc8bbd04c5a117bfaf81d8da2676f03a29d7499f71d0a0bd6068ef"),
)

_KITTI = "https://s3.eu-central-1.amazonaws.com/avg-kitti"
_DOGS = "http://vision.stanford.edu/aditya86/ImageNetDogs"
_SVHN = "http://ufldl.stanford.edu/housenumbers"

SOURCES = {
    "cub": Source(
        "download",
        "CUB_200_2011",
        ("images", "images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"),
        (
            Archive(
                "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
                "CUB_200_2011.tgz",
                1150585339,
                "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
                "97eceeb196236b17998738112f37df78",
                only=("CUB_200_2011",),
            ),
        ),
    ),
    "nabirds": Source(
        "hand",
        "nabirds",
        ("images", "images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"),
        steps=(
            "Open https://dl.allaboutbirds.org/nabirds, accept the terms of use in the form and "
            "download nabirds.tar.gz (nobody publishes a checksum)",
            "Unpack it (tar -xzf) in {root}, so that {root}/nabirds/images.txt exists",
        ),
    ),
    "flowers": _FLOWERS,
    "dogs": Source(
        "download",
        "stanford-dogs",
        ("Images", "lists/train_list.mat", "lists/test_list.mat"),
        (
            Archive(
                f"{_DOGS}/images.tar",
                "images.tar",
                793579520,
                "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
                into="stanford-dogs",
            ),
            Archive(
                f"{_DOGS}/lists.tar",
                "lists.tar",
                481280,
                "34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c",
                into="stanford-dogs/lists",
            ),
        ),
        note="The images are ImageNet's, whose terms of access apply: non-commercial research.",
    ),
    "cars": Source(
        "hand",
        "stanford_cars",
        (
            "cars_train",
            "cars_test",
            "devkit/cars_train_annos.mat",
            "cars_test_annos_withlabels.mat",
        ),
        steps=(
            "The authors' host is gone. torchvision's documentation names a copy: log in to "
            "Kaggle, open https://www.kaggle.com/datasets/rickyyyyyyy/torchvision-stanford-cars, "
            "read its terms and download it (nobody publishes a checksum of the whole)",
            "Unpack it, so that {root}/stanford_cars holds the folders cars_train (8,144 images), "
            "cars_test (8,041 images) and devkit (with cars_train_annos.mat and cars_meta.mat) "
            "and the file cars_test_annos_withlabels.mat; where a copy has cars_train/cars_train, "
            "move the images up by one folder",
            "If the copy has no cars_test_annos_withlabels.mat (cars_test_annos.mat does not do: "
            "it has no labels), look for it in https://github.com/pytorch/vision/issues/7545; the "
            "authors' own has the SHA-256 "
            "790f75be8ea34eeded134cc559332baf23e30e91367e9ddca97d26ed9b895f05",
        ),
    ),
    "cifar100": Source(
        "download",
        "cifar-100-python",
        ("train", "test", "meta"),
        (
            Archive(
                "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
                "cifar-100-python.tar.gz",
                md5="eb9058c3a382ffc7106e4002c42a8d85",
            ),
        ),
    ),
    "caltech101": Source(
        "download",
        "caltech101",
        ("101_ObjectCategories/accordion",),
        (
            Archive(
                "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip?download=1",
                "caltech-101.zip",
                137414764,
                "331234750fc7f77520e50d9565e8b6907b03565e30320da1401130db08c61f91",
                "3138e1922a9193bfa496528edbbc45d0",
                into="caltech101",
                inner="caltech-101/101_ObjectCategories.tar.gz",
            ),
        ),
    ),
    "dtd": Source(
        "download",
        "dtd",
        ("dtd/images", "dtd/labels"),
        (
            Archive(
                f"{_VGG}/dtd/download/dtd-r1.0.1.tar.gz",
                "dtd-r1.0.1.tar.gz",
                625239812,
                "e42855a52a4950a3b59612834602aa253914755c95b0cff9ead6d07395f8e205",
                "fff73e5086ae6bdbea199a49dfb8a4c1",
                into="dtd",
            ),
        ),
    ),
    "flowers102": _FLOWERS,
    "pets": Source(
        "download",
        "oxford-iiit-pet",
        ("images", "annotations/trainval.txt", "annotations/test.txt"),
        (
            Archive(
                f"{_VGG}/pets/data/images.tar.gz",
                "images.tar.gz",
                791918971,
                "67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
                "5c4f3ee8e5d25df40f4fd59a7f44e54c",
                into="oxford-iiit-pet",
            ),
            Archive(
                f"{_VGG}/pets/data/annotations.tar.gz",
                "annotations.tar.gz",
                19173078,
                "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
                "95a8c909bbe2e81eed6a22bccdf3f68f",
                into="oxford-iiit-pet",
            ),
        ),
    ),
    "svhn": Source(
        "download",
        "svhn",
        ("train_32x32.mat", "test_32x32.mat"),
        (
            Archive(
                f"{_SVHN}/train_32x32.mat",
                "train_32x32.mat",
                182040794,
                "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
                "e26dedcc434d2e4c54c9b2d4a06d8373",
                into="svhn",
                packed=False,
            ),
            Archive(
                f"{_SVHN}/test_32x32.mat",
                "test_32x32.mat",
                64275384,
                "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
                "eb5a983be6a315427106f1b164d9cef3",
                into="svhn",
                packed=False,
            ),
        ),
    ),
    "sun397": Source(
        "download",
        "SUN397",
        ("a/abbey", "ClassName.txt"),
        (
            Archive(
                "https://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
                "SUN397.tar.gz",
                39077296924,
                "f404130965a7ad77bed5ececc71e720ab50f3cc1e1bb257257610d38f3b928ec",
                "8ca2778205c41d23104230ba66911c7a",
            ),
        ),
        note="The authors' host has answered 404 since 2025 "
        "(https://github.com/pytorch/vision/issues/9348), so it may take a copy from elsewhere; "
        "the published checksum tells whether it is the same.",
    ),
    "patch_camelyon": Source(
        "download",
        "pcam",
        tuple(each.filename.removesuffix(".gz") for each in _PCAM_ARCHIVES),
        _PCAM_ARCHIVES,
    ),
    "eurosat": Source(
        "download",
        "eurosat",
        ("2750/AnnualCrop",),
        (
            Archive(
                "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
                "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
                "EuroSAT.zip",
                md5="c8fa014336c82ac7804f0398fcb19387",
                into="eurosat",
            ),
        ),
    ),
    "resisc45": Source(
        "download",
        "resisc45",
        ("NWPU-RESISC45/airplane",),
        (
            Archive(
                "https://hf.co/datasets/isaaccorley/resisc45/resolve/"
                "883edc0eee77b2c84225472f10f126e3ed83fa6e/NWPU-RESISC45.zip",
                "NWPU-RESISC45.zip",
                sha256="beeecd0b63656290ae6d65cf7763185b0c1c4c54a753ef8088d6fba3faaf1f53",
                into="resisc45",
            ),
        ),
        note="The authors offer a RAR archive on OneDrive "
        "(https://1drv.ms/u/s!AmgKYzARBl5ca3HNaHIlzp_IXjs); this is the ZIP copy that TorchGeo "
        "fetches, with the checksum that TorchGeo publishes. To use the authors' own, unpack it "
        "so that {root}/resisc45/NWPU-RESISC45/airplane exists.",
    ),
    "diabetic_retinopathy": Source(
        "tfds",
        holds=("train", "test", "sample", "trainLabels.csv"),
        steps=(
            "Log in to Kaggle, open "
            "https://www.kaggle.com/c/diabetic-retinopathy-detection/data, accept the rules of "
            "the competition and download all files, about 90 GB (nobody publishes checksums): "
            "kaggle competitions download -c diabetic-retinopathy-detection",
            "Join the parts and unpack them: cat train.zip.0* > train.zip, cat test.zip.0* > "
            "test.zip, and unzip both, sample.zip and trainLabels.csv.zip",
            "Put the folders train (35,126 images), test (53,576 images) and sample (10 images) "
            "and the file trainLabels.csv into {root}/manual/diabetic_retinopathy",
            "Install what prepares them: pip install 'pcvpt[tfds]' tensorflow opencv-python",
        ),
    ),
    "clevr_count": _CLEVR,
    "clevr_dist": _CLEVR,
    "dmlab": Source("tfds", note="TFDS fetches and checks dmlab.tar.gz, 3,017,022,789 bytes."),
    "kitti_dist": Source(
        "download",
        "Kitti",
        ("raw/training/image_2", "raw/training/label_2", "raw/devkit/mapping/train_mapping.txt"),
        (
            Archive(
                f"{_KITTI}/data_object_image_2.zip",
                "data_object_image_2.zip",
                12569945557,
                "351c5a2aa0cd9238b50174a3a62b846bc5855da256b82a196431d60ff8d43617",
                into="Kitti/raw",
                only=("training",),  # half of the images: those with labels
            ),
            Archive(
                f"{_KITTI}/data_object_label_2.zip",
                "data_object_label_2.zip",
                5601213,
                "4efc76220d867e1c31bb980bbf8cbc02599f02a9cb4350effa98dbb04aaed880",
                into="Kitti/raw",
            ),
            Archive(
                f"{_KITTI}/devkit_object.zip",
                "devkit_object.zip",
                63794,
                "ce0b76b69c0c5f89690a0d65b7302bbbdb962a0c7e8aba6efc7050d1b04b4cf1",
                into="Kitti/raw/devkit",
            ),
        ),
    ),
    "dsprites_loc": _DSPRITES,
    "dsprites_ori": _DSPRITES,
    "smallnorb_azi": _NORB,
    "smallnorb_ele": _NORB,
}
"""The sources by the name of the task; tasks of the same data set share one."""

WITHOUT_TENSORFLOW = frozenset({"dsprites", "kitti", "patch_camelyon"})
"""TFDS's builders that prepare their data without TensorFlow; the others read files with it."""
