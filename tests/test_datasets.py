"""Sets of pictures: what is read, and one clear error for what is not."""

import gzip
import pickle
import struct
import tracemalloc
import warnings
import zlib

import pytest
import torch

from nca_fast.media.datasets import load_pictures, picture
from nca_fast.media.images import save_image
from nca_fast.media.published_sets import read_cifar, read_idx


def idx(*sizes, magic=b"\0\0\x08\x03", values=None):
    count = 1
    for size in sizes:
        count *= size
    values = bytes(i % 256 for i in range(count)) if values is None else values
    return magic + struct.pack(f">{len(sizes)}I", *sizes) + values


def write_mnist(folder, train=6, test=2, zipped=False):
    for name, count in (("train", train), ("t10k", test)):
        content = idx(count, 28, 28)
        path = folder / f"{name}-images-idx3-ubyte{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(content) if zipped else content)


def test_digits():
    digits = load_pictures("digits", 28, grey=True)
    assert digits.train.shape == (1438, 1, 28, 28) and digits.test.shape == (359, 1, 28, 28)
    assert digits.train.min() == 0 and 0.95 < digits.train.max() <= 1
    again = load_pictures("digits", 28, grey=True)
    assert torch.equal(digits.test, again.test)


def test_faces():
    faces = load_pictures("faces", 40, grey=False)
    assert faces.train.shape == (80, 3, 40, 40) and faces.test.shape == (20, 3, 40, 40)
    assert torch.equal(faces.train[:, 0], faces.train[:, 2])  # they are grey


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist(tmp_path, zipped):
    write_mnist(tmp_path, zipped=zipped)
    mnist = load_pictures(str(tmp_path), 28, grey=True)
    assert mnist.train.shape == (6, 1, 28, 28) and mnist.test.shape == (2, 1, 28, 28)
    values = torch.arange(28 * 28).remainder(256) / 255
    assert torch.equal(mnist.test[0].flatten(), values)


KAGGLE = ("train-images.idx3-ubyte", "t10k-images.idx3-ubyte")
PLAIN = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")
EMNIST = ("emnist-letters-train-images-idx3-ubyte", "emnist-letters-test-images-idx3-ubyte")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        KAGGLE,
        [f"{name}/{name}" for name in PLAIN],
        [f"{name}/{name}" for name in KAGGLE],
        [f"MNIST/raw/{name}" for name in PLAIN],
        [f"archive/{name}/{name}" for name in PLAIN],
        [name.replace("t10k", "test") for name in PLAIN],
        [f"qmnist-{name}" for name in PLAIN],
        EMNIST,
        [f"EMNIST/raw/{name}" for name in EMNIST],
    ],
    ids=lambda names: names[1],
)
def test_mnist_as_people_have_it(tmp_path, names, zipped):
    for name, count in zip(names, (6, 2), strict=True):
        path, content = tmp_path / name, idx(count, 2, 3)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(path.name + ".gz" * zipped).write_bytes(gzip.compress(content) if zipped else content)
        path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1")).write_bytes(b"labels")
    mnist = load_pictures(str(tmp_path), 6, grey=True)
    assert len(mnist.train) == 6 and len(mnist.test) == 2
    lies = names[0].endswith(EMNIST[0])  # EMNIST's pictures are stored on their side
    first = torch.arange(6.0).reshape(1, 1, 2, 3) / 255
    first = first.transpose(2, 3) if lies else first
    wanted = torch.nn.functional.interpolate(first, (6, 6), mode="bilinear", antialias=True)
    assert torch.equal(mnist.test[:1], wanted)


def test_both_gzipped_and_not_and_beside_kaggles_folders(tmp_path):
    """torchvision keeps the archives, and Kaggle's has every file twice: what needs no unpacking is read."""
    write_mnist(tmp_path)
    for name in PLAIN:
        (tmp_path / f"{name}.gz").write_bytes(b"damaged")
    assert len(load_pictures(str(tmp_path), 28, grey=True).train) == 6
    for name, kaggle in zip(PLAIN, KAGGLE, strict=True):
        (tmp_path / name).rename(tmp_path / kaggle)
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_bytes(idx(9, 28, 28))
    assert len(load_pictures(str(tmp_path), 28, grey=True).train) in (6, 9)


def test_several_sets_in_a_folder(tmp_path):
    for folder in ("MNIST", "FashionMNIST"):
        (tmp_path / folder / "raw").mkdir(parents=True)
        write_mnist(tmp_path / folder / "raw")
    with pytest.raises(ValueError, match="must hold one set, but holds 2: .*FashionMNIST.*MNIST.* Name a folder with"):
        load_pictures(str(tmp_path), 28, grey=True)
    assert len(load_pictures(str(tmp_path / "FashionMNIST"), 28, grey=True).train) == 6


def test_a_folder_of_pictures_beside_a_set(tmp_path):
    (tmp_path / "below").mkdir()
    write_mnist(tmp_path / "below")
    for n in range(5):
        save_image(torch.zeros(3, 8, 8), tmp_path / f"{n}.png")
    assert load_pictures(str(tmp_path), 28, grey=True).train.shape == (4, 1, 28, 28)


@pytest.mark.parametrize("folder", ["", "cifar-10-batches-bin", "data/cifar-10-batches-bin"])
def test_cifar(tmp_path, folder):
    root, tmp_path = tmp_path, tmp_path / folder
    tmp_path.mkdir(parents=True, exist_ok=True)
    record = bytes([7]) + bytes([10] * 1024 + [20] * 1024 + [30] * 1024)
    for name in ("data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"):
        (tmp_path / name).write_bytes(record * 3)
    cifar = load_pictures(str(root), 32, grey=False)
    assert cifar.train.shape == (6, 3, 32, 32) and cifar.test.shape == (3, 3, 32, 32)
    assert torch.equal(cifar.train[5, :, 3, 4] * 255, torch.tensor([10.0, 20.0, 30.0]))


def test_folder_of_pictures(tmp_path):
    for n in range(6):
        save_image(torch.full((3, 20, 30), n / 10), tmp_path / f"{n}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    pictures = load_pictures(str(tmp_path), 16, grey=False)
    assert pictures.train.shape == (5, 3, 16, 16) and pictures.test.shape == (1, 3, 16, 16)
    torch.testing.assert_close(pictures.test, torch.full((1, 3, 16, 16), 0.4), rtol=0, atol=0.501 / 255)  # 8 bits


def test_bad_pictures_are_passed_over(tmp_path):
    for n in range(6):
        save_image(torch.full((3, 8, 8), n / 10), tmp_path / f"{n}.png")
    (tmp_path / "2b.jpg").write_bytes(b"no picture")
    (tmp_path / "3b.heic").write_bytes(b"no picture")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        pictures = load_pictures(str(tmp_path), 8, grey=False)
    assert len(pictures.train) == 5 and len(seen) == 2
    assert "passed over: " in str(seen[0].message) and "2b.jpg" in str(seen[0].message)


def test_one_picture_is_its_middle_square(tmp_path):
    image = torch.zeros(3, 10, 30)
    image[:, :, 10:20] = 1
    save_image(image, tmp_path / "a.png")
    assert torch.equal(picture(str(tmp_path / "a.png"), 10, grey=True), torch.ones(1, 1, 10, 10))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"\x89PNG\r\n", "must begin with the magic number of an IDX file of bytes, .* begins with 89 50 4e 47"),
        (idx(2, 2, 2, magic=b"\0\0\x0d\x03"), "00 00 08 and 01 or 03, but begins with 00 00 0d 03"),
        (b"\0\0\x08\x03\0\0", "must hold 3 sizes, but ends after 6 bytes"),
        (idx(2, 3, 4)[:-1], "must have 40 bytes for 2 x 3 x 4 values, but has 39"),
        (idx(2, 3, 4) + b"x", "must have 40 bytes .* but has 41"),
        (idx(2**32 - 1, 2**32 - 1, 2**32 - 1, values=b""), "bytes for 4294967295 x"),
        (b"", "magic number"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_bad_idx_files(tmp_path, content, message, zipped):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(gzip.compress(content) if zipped else content)
    if zipped:
        message = message.replace("but has 41", "but has more").replace("bytes for 4294967295 x", "but has only .*gzip")
    with pytest.raises(ValueError, match=message):
        read_idx(path)


@pytest.mark.parametrize("sizes", [(2, 28, 28), (60000, 28, 28)])
def test_a_gzipped_file_that_unpacks_to_more_than_its_header_says(tmp_path, sizes):
    """No more is unpacked than was asked for: 200 MB lie in this one; worst seen 56 MB, for 47 that are asked for."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    head = packer.compress(b"\0\0\x08\x03" + struct.pack(">3I", *sizes))
    (tmp_path / "a.gz").write_bytes(head + b"".join(packer.compress(bytes(2**20)) for _ in range(200)) + packer.flush())
    tracemalloc.start()
    with pytest.raises(ValueError, match="but has more"):
        read_idx(tmp_path / "a.gz")
    assert tracemalloc.get_traced_memory()[1] < (1e6 if sizes[0] == 2 else 8e7)
    tracemalloc.stop()


def test_damaged_gzip(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(20, 28, 28))[:-30])
    with pytest.raises(ValueError, match="cannot be read.*Download it again"):
        read_idx(path)


@pytest.mark.parametrize("size", [0, 3072, 3074])
def test_cifar_files_of_the_wrong_size(tmp_path, size):
    path = tmp_path / "test_batch.bin"
    path.write_bytes(bytes(size))
    with pytest.raises(ValueError, match=f"must have a multiple of 3073 bytes .* but has {size}"):
        read_cifar(path)


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_pickles_are_refused_unopened(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(Trap()))
    for name in (tmp_path, folder):
        with pytest.raises(ValueError, match="binary version of CIFAR-10, but holds the pickled.*never loaded.*Take"):
            load_pictures(str(name), 32, grey=False)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda folder: write_mnist(folder) or (folder / "t10k-images-idx3-ubyte").unlink(), "but one is missing"),
        (lambda folder: (folder / "test_batch.bin").write_bytes(bytes(3073)), "one of them is missing"),
        (lambda folder: None, "at least 5 pictures, but holds 0.*neither .*train-images-idx3.* or .*data_batch_1.bin"),
        (lambda folder: (folder / "train-images-idx3-ubyte").write_bytes(idx(4)), "one is missing"),
    ],
)
def test_incomplete_folders(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_pictures(str(tmp_path), 28, grey=True)


def test_labels_are_no_pictures(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(9, magic=b"\0\0\x08\x01"))
    with pytest.raises(ValueError, match=r"count x rows x columns, but holds \[9\]"):
        load_pictures(str(tmp_path), 28, grey=True)


def test_unknown_names():
    with pytest.raises(ValueError, match="must be digits, faces or a folder, but there is none called 'letters'.$"):
        load_pictures("letters", 28, grey=True)


def test_a_file_is_no_folder(tmp_path):
    write_mnist(tmp_path)
    with pytest.raises(ValueError, match="ubyte' is a file: name its folder"):
        load_pictures(str(tmp_path / "train-images-idx3-ubyte"), 28, grey=True)
