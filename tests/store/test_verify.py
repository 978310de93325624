import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cinicpack
from cinicpack.errors import ArgumentError, PackError
from cinicpack.store.format import ArraySpec
from cinicpack.store.reader import locate_pack
from cinicpack.store.region import Region
from cinicpack.store.verify import hash_regions, verify_pack
from tests.packs import copy_pack


def copy_of(pack: Path, folder: Path) -> Path:
    target = folder / pack.name
    copy_pack(pack, target)
    return target


def flip(file: Path, position: int, mask: int = 1) -> None:
    with open(file, "r+b") as stream:
        stream.seek(position)
        (value,) = stream.read(1)
        stream.seek(position)
        stream.write(bytes([value ^ mask]))


@pytest.mark.parametrize("num_workers", [None, 0, 1, 3])
def test_a_whole_pack_is_whole(any_pack, num_workers):
    _, manifest, _ = locate_pack(any_pack)
    nbytes, problems = verify_pack(any_pack, num_workers=num_workers)
    assert problems == []
    assert (
        nbytes
        == sum(spec.nbytes for spec in manifest.specs())
        == 3 * 12 * (432 + 1 + 9) + sum(12 * info.name_bytes for info in manifest.splits.values())
    )


def test_each_array_that_differs_is_named(any_pack, tmp_path):
    path = copy_of(any_pack, tmp_path)
    _, _, regions = locate_pack(path)
    damaged = [region for region in regions if not region.spec.name.endswith("sources")]
    for region in damaged:
        flip(region.file, region.offset + region.spec.nbytes - 1)
    nbytes, problems = verify_pack(path)
    assert nbytes == sum(region.spec.nbytes for region in regions)
    assert problems == [
        f"{file if path.is_dir() else f'{file}:{spec.name}'}: differs from the manifest within "
        f"bytes {offset}...{offset + spec.nbytes}"
        for spec, file, offset in damaged
    ]


@pytest.mark.parametrize("size", [1, 99, 100, 101, 400, 401, 430])
def test_large_arrays_are_hashed_in_pieces(tmp_path, size):
    file = tmp_path / "data"
    file.write_bytes(bytes(range(256)) * 2)
    region = Region(ArraySpec("a", np.dtype("u1"), (size,)), file, 64)
    content = file.read_bytes()[64 : 64 + size]
    expected = tuple(
        hashlib.sha256(content[start : start + 100]).hexdigest() for start in range(0, size, 100)
    )
    assert hash_regions([region], num_workers=2, piece_bytes=100) == {"a": expected}


def test_blocks_do_not_matter(tmp_path):
    file = tmp_path / "data"
    content = bytes(range(256)) * 9
    file.write_bytes(content)
    region = Region(ArraySpec("a", np.dtype("u1"), (len(content),)), file, 0)
    for block in (1, 100, len(content), 10**6):
        found = hash_regions([region], block_bytes=block)
        assert found == {"a": (hashlib.sha256(content).hexdigest(),)}


@pytest.mark.parametrize("num_workers", [-1, -8])
def test_workers_cannot_be_negative(npy_pack, num_workers):
    with pytest.raises(ArgumentError, match=r"expected num_workers of at least 0, found -"):
        verify_pack(npy_pack, num_workers=num_workers)


def test_what_cannot_be_opened_cannot_be_verified(npy_pack, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no such pack"):
        verify_pack(tmp_path / "no")
    path = copy_of(npy_pack, tmp_path)
    (path / "train/names.npy").unlink()
    with pytest.raises(PackError, match=r"names\.npy: missing"):
        verify_pack(path)


def test_a_pack_that_is_replaced_meanwhile_is_verified_again(tree, npy_pack, tmp_path, monkeypatch):
    path, other = copy_of(npy_pack, tmp_path), tmp_path / "other"
    cinicpack.pack(tree, other, splits="train", progress=False)
    expected = verify_pack(other)
    assert expected != verify_pack(path)
    looks = []
    real_stat = os.stat

    def replace_at_the_second_look(target, *arguments, **options):
        if target == path:
            looks.append(target)
        if target == path and len(looks) == 2:
            path.rename(tmp_path / "former")
            other.rename(path)
        return real_stat(target, *arguments, **options)

    monkeypatch.setattr(os, "stat", replace_at_the_second_look)
    assert verify_pack(path) == expected
    assert (tmp_path / "former").exists()


def problems_of(path: Path) -> list[str]:
    """Say what verifying finds, or why the pack cannot even be opened."""
    try:
        return verify_pack(path, num_workers=1).problems
    except PackError as error:
        return [str(error)]


@pytest.fixture(scope="module", params=["npy_pack", "hdf5_pack"])
def flippable(request, tmp_path_factory) -> Path:
    return copy_of(request.getfixturevalue(request.param), tmp_path_factory.mktemp("flipped"))


@settings(max_examples=200)
@given(data=st.data())
def test_no_flipped_bit_goes_unnoticed(flippable, data):
    files = sorted(file for file in flippable.rglob("*") if file.is_file()) or [flippable]
    file = data.draw(st.sampled_from(files))
    # Headers and footers as often as all the rest.
    size = file.stat().st_size
    near = st.integers(0, min(size, 128) - 1)
    position = data.draw(
        st.one_of(near, near.map(lambda n: size - 1 - n), st.integers(0, size - 1))
    )
    mask = 1 << data.draw(st.integers(0, 7))
    flip(file, position, mask)
    problems = problems_of(flippable)
    flip(file, position, mask)
    assert len(problems) == 1
    assert str(file) in problems[0]
