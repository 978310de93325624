import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

import cinicpack
from cinicpack.errors import DestinationError, PackError, SourceError
from cinicpack.store.publish import publishing
from cinicpack.store.reader import locate_pack
from cinicpack.store.verify import verify_pack
from tests.convert.sources_here import bytes_of, make_tar, pack, put, tiny
from tests.limits import file_size_limit
from tests.packs import copy_pack, make_writable
from tests.processes import list_descendants, wait_until_gone

# What is there stays, or is replaced as a whole.


def test_an_existing_destination(tree, npy_pack, tmp_path):
    pack(tree, tmp_path / "a", splits=["train"])
    before = bytes_of(tmp_path / "a")
    with pytest.raises(DestinationError, match=r"already exists; choose another name, or pass"):
        pack(tree, tmp_path / "a")
    assert bytes_of(tmp_path / "a") == before
    for container in ("npy", "hdf5", "hdf5", "npy"):
        one = pack(tree, tmp_path / "a", overwrite=True, format=container)
        assert one.format == container
        assert os.listdir(tmp_path) == ["a"]
    assert bytes_of(tmp_path / "a") == bytes_of(npy_pack)


@pytest.mark.parametrize("container", ["npy", "hdf5"])
def test_a_damaged_pack_can_be_overwritten(tree, tmp_path, container):
    pack(tree, tmp_path / "a", format=container)
    before = bytes_of(tmp_path)
    make_writable(tmp_path / "a")
    if container == "npy":
        file = tmp_path / "a" / "pack.json"
        file.write_bytes(file.read_bytes().replace(b'"airplane"', b'"airplana"'))
        with pytest.raises(PackError):
            cinicpack.open_pack(tmp_path / "a")
    else:
        _, _, [region, *_] = locate_pack(tmp_path / "a")
        content = bytearray(region.file.read_bytes())
        content[region.offset] ^= 1
        region.file.write_bytes(content)
        assert verify_pack(tmp_path / "a").problems
    with pytest.raises(DestinationError, match=r"already exists; choose another name"):
        pack(tree, tmp_path / "a", format=container)
    pack(tree, tmp_path / "a", overwrite=True, format=container)
    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize("container", ["npy", "hdf5"])
@pytest.mark.filterwarnings("ignore:.*like CINIC-10:UserWarning")
def test_what_is_no_pack_or_not_only_one_is_never_overwritten(
    tree, npy_pack, hdf5_pack, tmp_path, container
):
    put(tmp_path, {"thesis/chapter.tex": b"years", "notes.txt": b"of work"})
    put(tmp_path / "resources", {"pack.json": b'{"name": "mine"}', "train/cat.txt": b"tabby"})
    put(tmp_path / "tool", {"pack.json": b"{}", "runs/labels.npy": b"results"})
    put(tmp_path / "bare", {"pack.json": b"{}"})
    put(tmp_path / "runs", {"pack.json": b"{", "runs/labels.npy": b"results"})
    (tmp_path / "empty").mkdir()
    with h5py.File(tmp_path / "results.h5", "w") as h5:
        h5["data"] = 1
    with h5py.File(tmp_path / "mine.h5", "w") as h5:
        h5["pack.json"], h5["data"] = np.frombuffer(b"{}", np.uint8), np.arange(9)
    copy_pack(hdf5_pack, tmp_path / "more.h5")
    with h5py.File(tmp_path / "more.h5", "r+") as h5:
        h5["predictions"] = np.arange(9)
    copy_pack(hdf5_pack, tmp_path / "inner.h5")
    with h5py.File(tmp_path / "inner.h5", "r+") as h5:
        h5["train/predictions"] = np.arange(9)
    for name, extra in {
        "beside": "notes.txt",
        "below": "train/a.npy",
        "folder": "runs/labels.npy",
    }.items():
        copy_pack(npy_pack, tmp_path / name)
        put(tmp_path / name, {extra: b"of work"})
    copy_pack(npy_pack, tmp_path / "kept")
    (tmp_path / "kept/checkpoints").mkdir()
    (tmp_path / "link.pack").symlink_to("thesis")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    found = {
        "thesis": "no pack.json in it",
        "link.pack": "no pack.json in it",
        "empty": "no pack.json in it",
        "resources": "a pack.json that is not a pack's",
        "tool": "a pack.json that is not a pack's",
        "bare": "a pack.json that is not a pack's",
        "runs": "a pack.json that is not a pack's",
        "beside": "notes.txt",
        "below": "train/a.npy",
        "folder": "runs/",
        "kept": "checkpoints/",
        "notes.txt": "no HDF5 that can be read as a pack",
        "results.h5": "HDF5 that is not as a pack was written (something was added, or ",
        "loop": "no HDF5 that can be read as a pack",
        "pipe": "no HDF5 that can be read as a pack",
        **dict.fromkeys(("mine.h5", "more.h5", "inner.h5"), "HDF5 that is not as a pack was"),
    }
    assert found.keys() == set(os.listdir(tmp_path))
    before = {name: bytes_of(tmp_path / name) for name in found if name not in ("loop", "pipe")}
    for name, other in found.items():
        if container == "npy" and name.endswith(".h5"):
            continue
        with pytest.raises(DestinationError) as caught:
            pack(tree, tmp_path / name, overwrite=True, format=container)
        expected = f": already exists and is not a pack and nothing else: found {other}"
        assert expected in str(caught.value)
    assert before == {name: bytes_of(tmp_path / name) for name in before}
    assert found.keys() == set(os.listdir(tmp_path))


def test_a_link_stays_and_what_it_leads_to_is_written(tree, npy_pack, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.pack").symlink_to("disk/real.pack")
    for _ in range(2):
        made = pack(tree, tmp_path / "link.pack", overwrite=True)
        assert made.path == tmp_path / "link.pack"
        assert os.readlink(tmp_path / "link.pack") == "disk/real.pack"
        assert bytes_of(tmp_path / "disk/real.pack") == bytes_of(npy_pack)


def test_one_that_is_being_written(tree, tmp_path):
    with publishing(tmp_path / "a", overwrite=False) as new:
        new.mkdir()
        with pytest.raises(DestinationError, match=r"another process is writing it"):
            pack(tree, tmp_path / "a")
        assert sorted(os.listdir(new.parent)) == ["cinicpack.lock", "new"]


# What cannot be read or written.


# Opening or reading one file fails once, in whatever process; Python looks for this at its start.
FAILING_ONCE = """
import errno, os
real = os.{call}
def fail(file, *arguments, **options):
    path = os.readlink(f"/proc/self/fd/{{file}}") if isinstance(file, int) else os.fspath(file)
    if path.endswith("b/1.png"):
        os.{call} = real
        raise OSError(errno.{error}, "a reason")
    return real(file, *arguments, **options)
os.{call} = fail
"""


@pytest.mark.parametrize(
    ("call", "error", "num_workers"),
    [("open", "EMFILE", 0), ("open", "ENOMEM", 1), ("pread", "EIO", 1)],
)
def test_an_image_that_cannot_be_read_for_a_moment_is_not_lost(tmp_path, call, error, num_workers):
    put(tmp_path / "tree", {f"{name}/{n}.png": tiny(n) for name in "ab" for n in range(4)})
    program = FAILING_ONCE.format(call=call, error=error)
    put(tmp_path, {"path/sitecustomize.py": program.encode()})
    command = [sys.executable, "-m", "cinicpack", "pack", "tree", "a.pack", "--skip-bad"]
    result = subprocess.run(
        [*command, "--workers", str(num_workers)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "path"), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert "tree/b/1.png: could not be read (a reason)" in result.stderr
    assert result.returncode == 1
    assert sorted(os.listdir(tmp_path)) == ["path", "tree"]


def test_a_damaged_archive_publishes_nothing(tree, tmp_path):
    whole = make_tar(tree, tmp_path / "a.tar.gz", "", "w:gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"a\.tar\.gz: .*damaged or cut off"):
        pack(tmp_path / "a.tar.gz", tmp_path / "a", num_workers=1)
    assert os.listdir(tmp_path) == ["a.tar.gz"]


def test_where_nothing_can_be_written(tree, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for destination in (tmp_path / "file/a", tmp_path / "no/a", Path("/proc/a"), Path("/")):
        with pytest.raises(DestinationError):
            pack(tree, destination)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("container", ["npy", "hdf5"])
def test_a_limit_of_file_sizes(tree, tmp_path, container):
    pack(tree, tmp_path / "a", splits=["train"])
    before = bytes_of(tmp_path)
    for size in (1_000, 3_000, 5_000):
        with (
            file_size_limit(size),
            pytest.raises(DestinationError, match=r"a: no more can be written in its folder") as e,
        ):
            pack(tree, tmp_path / "a", format=container, overwrite=True)
        assert "File too large" in str(e.value)
        assert bytes_of(tmp_path) == before


# Packs on ever larger disks until it fits; every disk is left empty or with a whole pack.
FULL_DISK = """
import os, subprocess, sys
import cinicpack
source, disk, container = sys.argv[1:]
for size in range(8, 400, 8):
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk]
    if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        sys.exit("cannot mount")
    try:
        cinicpack.pack(source, f"{disk}/a", format=container, progress=False)
    except cinicpack.errors.DestinationError as error:
        assert "No space left on device" in str(error), error
        assert "make room" in str(error), error
        assert os.listdir(disk) == [], os.listdir(disk)
    else:
        assert os.listdir(disk) == ["a"], os.listdir(disk)
        print(size, cinicpack.open_pack(f"{disk}/a").fingerprint)
        break
    subprocess.run(["umount", disk], check=True)
"""


@pytest.mark.parametrize("container", ["npy", "hdf5"])
def test_a_full_disk(tree, npy_pack, tmp_path, container):
    # In a mount namespace of its own, which ends with it.
    command = ["unshare", "-m", sys.executable, "-c", FULL_DISK, tree, tmp_path, container]
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare:" in done.stderr or "cannot mount" in done.stderr:
        pytest.skip("needs to mount a file system")
    assert done.returncode == 0, done.stderr
    size, fingerprint = done.stdout.split()
    assert int(size) > 24
    assert fingerprint == cinicpack.open_pack(npy_pack).fingerprint


# Whole programs.

COMMAND = (sys.executable, "-c", "import sys; from cinicpack.cli import main; sys.exit(main())")


SCRIPT = """
import sys
import cinicpack
print("started")
pack = cinicpack.pack(*sys.argv[1:3], num_workers=2, progress=False, overwrite=True)
print(pack.fingerprint)
"""


def test_a_script_needs_no_guard_around_its_main_part(tree, npy_pack, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    # Modules of these names in the working directory are not what the workers should import.
    (tmp_path / "here").mkdir()
    for name in ("numpy", "tempfile", "cinicpack"):
        (tmp_path / "here" / f"{name}.py").write_text("raise SystemExit('wrong module')")
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", tree, tmp_path / "a"],
        cwd=tmp_path / "here",
        capture_output=True,
        text=True,
        check=False,
    )
    expected = f"started\n{cinicpack.open_pack(npy_pack).fingerprint}\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


@pytest.fixture(scope="module")
def long_tree(tmp_path_factory) -> Path:
    """100,000 images that take seconds to pack: the same few, in folders that are links."""
    root: Path = tmp_path_factory.mktemp("long")
    put(root / "images", {f"{n:03}.png": tiny(n, 16, 16) for n in range(500)})
    (root / "tree").mkdir()
    for n in range(200):
        (root / "tree" / f"{n:03}").symlink_to(root / "images")
    return root / "tree"


def read_start(file: Path) -> bytes:
    """Read some of the first images of an array."""
    with open(file, "rb") as stream:
        return stream.read(128 + 100_000)[128:]


@contextlib.contextmanager
def packing(source: Path, destination: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``cinicpack pack`` in a process group of its own, up to the middle of it."""
    with subprocess.Popen(
        [*COMMAND, "pack", source, destination, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        # Else it would ignore Ctrl-C where these tests run in a shell's background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        try:
            work = destination.with_name(f".{destination.name}.tmp")
            # The first images are among the first that are decoded.
            while not any(any(read_start(file)) for file in work.glob("*/reserved/*/images-*.npy")):
                assert process.poll() is None, process.communicate()
                time.sleep(0.01)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_ctrl_c_leaves_the_old_pack_and_nothing_else(long_tree, npy_pack, tmp_path, workers):
    destination = tmp_path / "a.pack"
    copy_pack(npy_pack, destination)
    with packing(long_tree, destination, "--overwrite", "--workers", workers) as process:
        children = list_descendants(process.pid)
        assert len(children) == (1 + int(workers) if int(workers) else 0)
        os.killpg(process.pid, signal.SIGINT)
        out, errors = process.communicate()
    assert process.returncode == 130
    assert (out, errors) == ("", "cinicpack: interrupted\n")
    assert bytes_of(destination) == bytes_of(npy_pack)
    assert os.listdir(tmp_path) == ["a.pack"]
    wait_until_gone(children)


def test_after_a_kill_the_next_run_sweeps(long_tree, tree, npy_pack, tmp_path):
    destination = tmp_path / "a.pack"
    copy_pack(npy_pack, destination)
    with packing(long_tree, destination, "--overwrite", "--workers", "2") as process:
        children = list_descendants(process.pid)
        process.kill()
        out, errors = process.communicate()
    assert (out, errors) == ("", "")
    # The workers notice and end, without a word.
    wait_until_gone(children)
    assert sorted(os.listdir(tmp_path)) == [".a.pack.tmp", "a.pack"]
    assert bytes_of(destination) == bytes_of(npy_pack)
    pack(tree, destination, overwrite=True, splits=["test"])
    assert os.listdir(tmp_path) == ["a.pack"]
    assert cinicpack.open_pack(destination).splits == ("test",)


def test_a_worker_that_is_killed_is_one_clear_error(long_tree, tmp_path):
    with packing(long_tree, tmp_path / "a", "--workers", "2") as process:
        children = list_descendants(process.pid)
        os.kill(children[-1], signal.SIGKILL)
        out, errors = process.communicate()
    assert process.returncode == 1
    assert out == ""
    assert errors == (
        "cinicpack: error: a worker process ended with status -9 (a negative one is the signal "
        "that killed it, -9 often for want of memory); run again, with fewer workers if need be\n"
    )
    assert os.listdir(tmp_path) == []
    wait_until_gone(children)


def test_of_two_programs_at_once_one_wins(tree, npy_pack, tmp_path):
    programs = [
        subprocess.Popen(
            [*COMMAND, "pack", tree, tmp_path / "a"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    errors = [program.communicate()[1] for program in programs]
    assert sorted(program.returncode for program in programs) == [0, 1]
    assert sorted(map(len, errors))[0] == 0
    [told] = filter(None, errors)
    assert "another process is writing it" in told or "already exists" in told
    assert told.count("\n") == 1
    assert bytes_of(tmp_path / "a") == bytes_of(npy_pack)
    assert os.listdir(tmp_path) == ["a"]
