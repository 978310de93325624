import hashlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cinicpack
from cinicpack.errors import CinicPackError, PackError
from cinicpack.store.reader import locate_pack
from cinicpack.store.region import Region
from cinicpack.store.summary import describe_pack, format_summary
from cinicpack.store.verify import verify_pack
from tests.store.manifests import read_content, write_content
from tests.store.test_verify import copy_of


class Editor:
    """Changes what is in a pack, with a manifest whose digests are right."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = read_content(path)
        self.regions: dict[str, Region] = {
            region.spec.name: region for region in locate_pack(path)[2]
        }
        self._bytes = None if path.is_dir() else path.read_bytes()

    def read(self, name: str) -> np.ndarray:
        """Return a copy of an array."""
        spec, file, offset = self.regions[name]
        with open(file, "rb") as stream:
            stream.seek(offset)
            return np.frombuffer(bytearray(stream.read(spec.nbytes)), spec.dtype).reshape(
                spec.shape
            )

    def write(self, name: str, array: np.ndarray) -> None:
        """Change an array and its digest."""
        region = self.regions[name]
        with open(region.file, "r+b") as stream:
            stream.seek(region.offset)
            stream.write(array.tobytes())
        self.content["arrays"][name] = [hashlib.sha256(array.tobytes()).hexdigest()]

    def save(self, content: dict[str, Any] | None = None) -> None:
        """Write the manifest."""
        spans = [(at, at + spec.nbytes) for spec, _, at in self.regions.values()]
        write_content(self.path, self.content if content is None else content, spans)

    def restore(self) -> None:
        """Put the former manifest back."""
        if self._bytes is None:
            self.save()
        else:
            self.path.write_bytes(self._bytes)


@pytest.fixture
def editor(any_pack, tmp_path) -> Editor:
    return Editor(copy_of(any_pack, tmp_path))


def swap_labels(editor: Editor) -> str:
    labels = editor.read("train/labels")
    editor.write("train/labels", labels[::-1])
    return r"expected the fingerprint \w{64} of train, found \w{64}; pack again"


def use_a_label_of_no_class(editor: Editor) -> str:
    labels = editor.read("train/labels")
    labels[4] = 255
    editor.write("train/labels", labels)
    return r"labels.*: expected labels below 2, found 255 in row 4; restore the file or pack again"


def put_name(name: bytes) -> Callable[[Editor], str]:
    def put(editor: Editor) -> str:
        names = editor.read("valid/names")
        raw = names.view(np.uint8).reshape(len(names), -1)
        raw[3] = np.frombuffer(name.ljust(raw.shape[1], b"\0"), np.uint8)
        editor.write("valid/names", names)
        return r"names.*: expected names that files can have, found b.* in row 3; pack again"

    return put


def repeat_a_name(editor: Editor) -> str:
    names = editor.read("test/names")
    names[1] = names[0]
    sources = editor.read("test/sources")
    sources[1] = sources[0]
    editor.write("test/names", names)
    editor.write("test/sources", sources)
    return r"names.*: expected every name once in a class, found b.* 2 times with label 0; pack ag"


def shorten_names(editor: Editor) -> str:
    names = np.array([b"%d.png" % row for row in range(12)], editor.read("test/names").dtype)
    editor.write("test/names", names)
    editor.write("test/sources", np.zeros_like(editor.read("test/sources")))
    return r"names.*: expected a name of \d+ bytes, found only shorter; pack again"


def change_a_source(field: str) -> Callable[[Editor], str]:
    def change(editor: Editor) -> str:
        sources = editor.read("test/sources")
        sources[field][2] ^= 4
        editor.write("test/sources", sources)
        return r"sources.*: expected \(.*\), which the name b.* tells, found \(.*\) in row 2; pack"

    return change


def change_pixels(editor: Editor) -> str:
    images = editor.read("train/images-00000")
    images[1, 0, 3, 3] ^= 1
    editor.write("train/images-00000", images)
    return r"expected the fingerprint"


def move_an_image_to_another_group(editor: Editor) -> str:
    groups = editor.content["splits"]["train"]["groups"]
    groups[0][2] += 1
    groups[1][2] -= 1
    return r"the count and sums that the manifest has for class '.*', origin \d of train, found ot"


def change_a_sum(place: int) -> Callable[[Editor], str]:
    def change(editor: Editor) -> str:
        # Other sums that pixels can have.
        editor.content["splits"]["train"]["groups"][0][place] += 2
        return r"the count and sums that the manifest has for class 'airplane', origin \d of train"

    return change


def change_a_fingerprint(editor: Editor) -> str:
    splits = editor.content["splits"]
    splits["test"]["fingerprint"] = "0" * 64
    digest = hashlib.sha256()
    for name in sorted(splits):
        digest.update(len(name).to_bytes(4, "little") + name.encode())
        digest.update(bytes.fromhex(splits[name]["fingerprint"]))
    editor.content["fingerprint"] = digest.hexdigest()
    return r"expected the fingerprint 0{64} of test, found \w{64}; pack again"


def change_the_mean(editor: Editor) -> str:
    editor.content["normalization"]["mean"][1] += 1e-6
    return r"expected mean and std .*, those of train, found .*; pack again"


def call_it_published(editor: Editor) -> str:
    editor.content["normalization"]["origin"] = "published"
    return r"expected mean and std .*, those of published, found .*; pack again"


@pytest.mark.parametrize(
    "change",
    [
        swap_labels,
        use_a_label_of_no_class,
        *map(put_name, (b"", b".", b"..", b"a/b.png", b"/", b"a\0b", b"\0a")),
        repeat_a_name,
        shorten_names,
        *map(change_a_source, ("origin", "synset", "number")),
        change_pixels,
        move_an_image_to_another_group,
        *map(change_a_sum, (3, 5, 6, 8)),
        change_a_fingerprint,
        change_the_mean,
        call_it_published,
    ],
)
def test_what_cannot_be_is_found_though_all_digests_are_right(editor, change):
    message = change(editor)
    editor.save()
    problems = verify_pack(editor.path, num_workers=2).problems
    assert problems
    assert str(editor.path) in problems[0]
    assert any(re.search(message, problem) for problem in problems), problems


@pytest.mark.parametrize("change", [use_a_label_of_no_class, change_the_mean, call_it_published])
def test_what_is_small_is_found_at_opening(editor, change):
    message = change(editor)
    editor.save()
    with pytest.raises(PackError, match=message):
        cinicpack.open_pack(editor.path)


def test_what_follows_from_damage_is_not_told(editor):
    for name in ("valid/labels", "valid/names"):
        region = editor.regions[name]
        with open(region.file, "r+b") as stream:
            stream.seek(region.offset)
            stream.write(bytes(region.spec.nbytes))
    problems = verify_pack(editor.path).problems
    assert len(problems) == 2
    assert all("differs from the manifest within bytes" in problem for problem in problems)


@pytest.mark.parametrize("size", [(1, 1), (300, 300)])
def test_images_of_any_size_are_summed_exactly(tmp_path, size):
    # The sums of squares of the second need more than 32 bits.
    from PIL import Image

    for number in range(3):
        folder = tmp_path / "tree" / f"class {number}"
        folder.mkdir(parents=True)
        pixels = np.full((*size, 3), 255 - number, np.uint8)
        Image.fromarray(pixels).save(folder / "a.png")
    cinicpack.pack(tmp_path / "tree", tmp_path / "a", progress=False)
    assert verify_pack(tmp_path / "a").problems == []


# Whatever is put into a manifest, a pack opens and can be used, or is refused.

huge = st.sampled_from([2**31, 2**32, 2**63, 2**64, 10**18, 10**400, -1, -(10**400)])
numbers = st.one_of(st.integers(-3, 300), huge, st.floats(), st.sampled_from([True, math.nan]))
texts = st.one_of(
    st.text(st.characters(), max_size=5),
    st.text(st.characters(categories=("Cs", "Cc")), max_size=3),
    st.sampled_from(["train", "published", "../x", "x" * 300, "x" * 10**6, "f" * 64, "a\0b", "\n"]),
)
values = st.recursive(
    st.one_of(st.none(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=5,
)


def mutate(data: st.DataObject, content: Any) -> None:
    """Change a member of a JSON object or list, or one within it."""
    while True:
        keys = [*content] if isinstance(content, dict) else [*range(len(content))]
        key = data.draw(st.sampled_from(keys))
        if isinstance(content[key], dict | list) and content[key] and data.draw(st.booleans()):
            content = content[key]
            continue
        change = data.draw(st.sampled_from(["set", "set", "set", "drop", "rename"]))
        if change == "set":
            content[key] = data.draw(values)
        elif change == "drop":
            del content[key]
        elif isinstance(content, dict):
            content[data.draw(texts)] = content.pop(key)
        else:
            content.append(content[key])
        return


@pytest.fixture(scope="module", params=["npy_pack", "hdf5_pack"])
def mutable(request, tmp_path_factory) -> Editor:
    pack = request.getfixturevalue(request.param)
    return Editor(copy_of(pack, tmp_path_factory.mktemp("mutated")))


def use(path: Path) -> None:
    """Do with a pack what users do."""
    pack = cinicpack.open_pack(path)
    assert format_summary(describe_pack(pack))
    assert repr(pack)
    for name in pack.splits:
        split = pack[name]
        assert [pack.classes[label] for label in split.labels]
        assert split.images[-1].shape == pack.image_shape
        assert split.select(classes=pack.classes[split.labels[0]]).fingerprint
        assert len(split.addresses()) == len(split)
    verify_pack(path, num_workers=1)


def refusal_of(path: Path) -> str | None:
    """Say why a pack is refused, if it is."""
    try:
        use(path)
    except CinicPackError as error:
        return str(error)
    return None


@settings(max_examples=150)
@given(data=st.data())
def test_a_changed_manifest_opens_or_is_refused(mutable, data):
    content = json.loads(json.dumps(mutable.content))
    for _ in range(data.draw(st.integers(1, 2))):
        if content:
            mutate(data, content)
    mutable.save(content)
    try:
        refusal = refusal_of(mutable.path)
    finally:
        mutable.restore()
    assert refusal is None or str(mutable.path) in refusal
    assert refusal is None or len(refusal) < 2_000
