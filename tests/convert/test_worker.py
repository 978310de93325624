import hashlib
import os
import resource
import signal
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from io import BytesIO
from multiprocessing.connection import Pipe
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cinicpack.convert import worker
from cinicpack.convert.conversion import Converted, Task
from cinicpack.convert.tree import Tree
from cinicpack.convert.worker import Worker, starting_workers
from cinicpack.errors import CinicPackError, SourceError
from tests.png_images import png, random_samples
from tests.processes import is_there, list_descendants, wait_until_gone

PIXELS = {
    "train/cat/n02123045_7.png": random_samples(2, 8, 3, 5, 1),
    "train/dog/cifar10-test-9.png": random_samples(2, 8, 3, 5, 2),
    "dog/small.png": random_samples(2, 8, 1, 2, 3),
    "train/dog/white.png": np.full((40, 40, 3), 255, np.uint16),
    "train/cat/last.png": random_samples(2, 8, 3, 5, 4),
}
PATHS = [*PIXELS]


@pytest.fixture
def root(tmp_path) -> Path:
    for path, pixels in PIXELS.items():
        (tmp_path / "tree" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / path).write_bytes(png(pixels))
    return Path(tmp_path / "tree")


def starting(count: int, root: Path, folder: Path) -> AbstractContextManager[list[Worker]]:
    """Start workers that read the files of a tree."""
    return starting_workers(count, str(root), Tree(root).read, folder)


def check(result: Converted, paths: list[str]) -> None:
    """Compare with what plain NumPy makes of the images."""
    scratch = Path(result.scratch).read_bytes()
    for position, path in enumerate(paths):
        pixels = PIXELS[path].astype(np.uint8)
        height, width, _ = pixels.shape
        offset = int(result.offsets[position])
        planes = np.frombuffer(scratch, np.uint8, pixels.size, offset).reshape(3, height, width)
        np.testing.assert_array_equal(planes, pixels.transpose(2, 0, 1))
        assert result.shapes[position].tolist() == [height, width]
        flat = pixels.reshape(-1, 3).astype(int)
        assert result.sums[position].tolist() == [*flat.sum(0), *(flat**2).sum(0)]
        class_name, name = path.encode().split(b"/")[-2:]
        header = struct.pack("<I", len(class_name)) + class_name
        header += struct.pack("<I", len(name)) + name + struct.pack("<3I", height, width, 3)
        digest = hashlib.sha256(header + pixels.tobytes()).digest()
        assert result.digests[position].tobytes() == digest


@pytest.mark.parametrize("count", [0, 1])
def test_images_of_several_sizes_are_converted(root, tmp_path, count):
    with starting(count, root, tmp_path) as [convert, *_]:
        first = convert(Task(PATHS, None))
        again = convert(Task(PATHS[1:3], [png(PIXELS[path]) for path in PATHS[1:3]]))
    check(first, PATHS)
    check(again, PATHS[1:3])
    assert first.scratch == again.scratch == str(tmp_path / "scratch-0")
    assert first.provenance.tolist()[:3] == [(3, 2123045, 7), (2, 0, 9), (0, 0, 0)]
    assert not first.bad
    assert not first.reduced
    total = sum(pixels.size for pixels in PIXELS.values())
    assert again.offsets.min() == total
    assert os.path.getsize(again.scratch) == total + 45 + 6


@pytest.mark.parametrize("count", [0, 1])
def test_bad_images_have_no_place_and_a_reason(root, tmp_path, count):
    (root / "dog/small.png").write_bytes(b"GIF89a")
    (root / "train/dog/deep.png").write_bytes(png(random_samples(2, 16, 3, 5), 2, 16))
    os.mkfifo(root / "pipe.png")
    paths = ["pipe.png", *PATHS, "train/dog/deep.png"]
    with starting(count, root, tmp_path) as [convert, *_]:
        result = convert(Task(paths, None))
        unread = OSError(27, "expected at most 5 bytes, found 7", "train/a.png")
        other = convert(Task(["train/a.png"], [unread]))
    assert result.bad == [
        (0, "expected a regular file, found a named pipe"),
        (3, "no PNG, JPEG, PPM, BMP, TIFF or WebP file: it starts with b'GIF89a'"),
    ]
    assert (result.offsets < 0).nonzero()[0].tolist() == [0, 3]
    assert result.reduced == [6]
    assert other.bad == [(0, "expected at most 5 bytes, found 7")]


@pytest.mark.parametrize("count", [0, 1])
def test_errors_come_back(root, tmp_path, count):
    with starting(count, root / "gone", tmp_path) as [convert, *_]:
        for _ in range(2):
            with pytest.raises(FileNotFoundError, match=r"gone"):
                convert(Task(PATHS, None))


def server(convert: Worker) -> subprocess.Popen[bytes]:
    return convert._server._process  # type: ignore[attr-defined, no-any-return]


def children(*workers: Worker) -> list[int]:
    """Give the processes of workers, which are all there are."""
    for convert in workers:
        convert(Task([], None))
    return list_descendants(server(workers[0]).pid)


def test_a_process_that_died_is_told_with_its_status(root, tmp_path):
    with starting(2, root, tmp_path) as [convert, other, *_]:
        os.kill(children(convert, other)[0], signal.SIGTERM)
        for _ in range(2):
            with pytest.raises(CinicPackError, match=r"a worker process ended with status -15 "):
                convert(Task(PATHS, None))
        check(other(Task(PATHS, None)), PATHS)


def test_a_program_that_died_is_told_with_its_status(root, tmp_path):
    with starting(1, root, tmp_path) as [convert, *_]:
        [child] = children(convert)
        server(convert).kill()
        server(convert).wait()
        check(convert(Task(PATHS, None)), PATHS)
        os.kill(child, signal.SIGTERM)
        with pytest.raises(CinicPackError, match=r"a worker process ended with status -9 "):
            convert(Task(PATHS, None))


def test_a_process_that_cannot_be_forked_is_an_error(root, tmp_path, monkeypatch):
    # Where Python looks for it at the start of every process.
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "def fork():\n"
        "    raise BlockingIOError(11, 'Resource temporarily unavailable')\n"
        "os.fork = fork\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with starting(2, root, tmp_path) as workers:
        for convert in workers:
            with pytest.raises(
                CinicPackError,
                match=r"could not be started \(.*temporarily unavailable\); run again, with fewer",
            ):
                convert(Task(PATHS, None))


def test_processes_end_with_the_block(root, tmp_path):
    with starting(2, root, tmp_path) as [convert, other, *_]:
        processes = [*children(convert, other), server(convert).pid]
        assert len(processes) == 3
        assert all(map(is_there, processes))
        # Also one that hangs.
        os.kill(processes[1], signal.SIGSTOP)
    wait_until_gone(processes)


def test_processes_end_though_a_fork_of_the_caller_lives(root, tmp_path):
    with starting(2, root, tmp_path) as [convert, other, *_]:
        processes = [*children(convert, other), server(convert).pid]
        connections = [convert._server._connection, convert._connection]  # type: ignore[attr-defined]
        kept = [os.dup(connection.fileno()) for connection in connections]
    wait_until_gone(processes)
    for descriptor in kept:
        os.close(descriptor)


def test_processes_end_while_they_start(root, tmp_path):
    with starting(2, root, tmp_path) as [convert, *_]:
        pid = server(convert).pid
    assert not is_there(pid)
    assert not list(tmp_path.glob("scratch-*"))


def test_processes_end_with_a_caller_that_is_killed(root, tmp_path):
    program = f"""
import sys
from pathlib import Path
from tests.convert.test_worker import children, server, starting
with starting(2, Path({str(root)!r}), Path({str(tmp_path)!r})) as [convert, other, *_]:
    print(server(convert).pid, *children(convert, other), flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as caller:
        assert caller.stdout
        processes = [int(pid) for pid in caller.stdout.readline().split()]
        assert len(processes) == 3
        # One that hangs, too.
        os.kill(processes[1], signal.SIGSTOP)
        caller.kill()
    wait_until_gone(processes)


def test_ctrl_c_is_not_for_the_processes(root, tmp_path):
    with starting(1, root, tmp_path) as [convert, *_]:
        pid = server(convert).pid
        assert {os.getpgid(process) for process in (pid, *children(convert))} == {pid}


@pytest.mark.parametrize("callers", [2, 8])
def test_a_process_may_have_several_callers(root, tmp_path, callers):
    # Tasks and answers larger than what a socket holds, each with a length of its own.
    tasks = [
        Task([f"{number}/{place}.png" for place in range(3_000 + number)], None)
        for number in range(40)
    ]
    tasks = [task._replace(contents=[bytes(100)] * len(task.paths)) for task in tasks]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with (
            starting(1, root, tmp_path) as [convert, *_],
            ThreadPoolExecutor(callers) as threads,
        ):
            results = list(threads.map(convert, tasks))
    finally:
        sys.setswitchinterval(interval)
    assert [len(result.bad) for result in results] == [len(task.paths) for task in tasks]


def test_modules_in_the_working_directory_are_not_the_workers(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("numpy", "subprocess"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('wrong module')")
    with starting(1, root, tmp_path) as [convert, *_]:
        check(convert(Task(PATHS, None)), PATHS)


def test_workers_start_no_threads_for_linear_algebra(root, tmp_path):
    with starting(1, root, tmp_path) as [convert, *_]:
        convert(Task(PATHS, None))
        for pid in (server(convert).pid, *children(convert)):
            assert len(os.listdir(f"/proc/{pid}/task")) == 1


def test_a_scratch_file_that_cannot_be_made_is_an_error(root, tmp_path):
    (tmp_path / "scratch-0").mkdir()
    with starting(1, root, tmp_path) as [convert, *_]:
        for _ in range(2):
            with pytest.raises(OSError, match=r"scratch-0"):
                convert(Task(PATHS, None))


def test_want_of_memory_is_an_error_and_not_the_end(root, tmp_path):
    file = BytesIO()
    Image.new("RGB", (3000, 3000)).save(file, "png")
    with starting(1, root, tmp_path) as [convert, *_]:
        check(convert(Task(PATHS, None)), PATHS)
        [pid] = children(convert)
        used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(pid, resource.RLIMIT_AS, (used + (20 << 20),) * 2)
        with pytest.raises(SourceError, match=r"tree: .*'train/cat/large\.png' \(.*Memory.*fewer"):
            convert(Task(["train/cat/large.png"], [file.getvalue()]))
        check(convert(Task(PATHS, None)), PATHS)


def test_want_of_descriptors_is_an_error_and_makes_no_image_bad(root, tmp_path):
    with starting(1, root, tmp_path) as [convert, *_]:
        check(convert(Task(PATHS, None)), PATHS)
        [pid] = children(convert)
        used = {int(number) for number in os.listdir(f"/proc/{pid}/fd")}
        # One more than it has, which the tree takes.
        _, limit, *_ = sorted({*range(len(used) + 2)} - used)
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
        with pytest.raises(SourceError, match=rf"{PATHS[0]}: could not be read \(Too many open"):
            convert(Task(PATHS, None))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        result = convert(Task(PATHS, None))
        assert not result.bad


@pytest.mark.parametrize("count", [0, 1])
def test_a_file_that_has_gone_is_an_error_and_no_bad_image(root, tmp_path, count):
    with (
        starting(count, root, tmp_path) as [convert, *_],
        pytest.raises(SourceError, match=r"no/such\.png: could not be read \(No such file"),
    ):
        convert(Task([*PATHS, "no/such.png"], None))


def test_the_callers_path_is_the_workers(root, tmp_path, monkeypatch):
    # As os.PathLike and as the empty string that means the working directory.
    monkeypatch.setattr(sys, "path", ["", tmp_path, *sys.path])
    with starting(1, root, tmp_path) as [convert, *_]:
        check(convert(Task(PATHS, None)), PATHS)


@pytest.mark.parametrize("when", ["before a task", "in a task", "before the answer"])
def test_a_worker_whose_caller_is_gone_ends_without_a_word(root, tmp_path, when):
    control, to_server = Pipe()
    ours, to_worker = Pipe()
    descriptors = [to_server.fileno(), to_worker.fileno()]
    arguments = (descriptors, [str(tmp_path / "scratch")])
    program = f"from {worker.__name__} import serve; serve(*{arguments!r})"
    with subprocess.Popen(
        [sys.executable, "-c", program], pass_fds=descriptors, stderr=subprocess.PIPE, text=True
    ) as process:
        to_server.close()
        to_worker.close()
        control.send((str(root), Tree(root).read))
        if when == "in a task":
            os.write(ours.fileno(), struct.pack("!i", 1_000_000) + bytes(1_000))
        if when == "before the answer":
            ours.send(Task(PATHS * 2_000, None))
        ours.close()
        control.send(0)
        assert control.recv() == 0
        control.close()
        _, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
