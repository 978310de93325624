import gc
import hashlib
import json
import multiprocessing
import os
import pickle
import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed

import cinicpack
from cinicpack import Augment, Loader
from cinicpack.synthetic import write_tree

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_ddp.py"
CHOOSE_DEVICE = runpy.run_path(str(EXAMPLE))["choose_device"]
WORLD_SIZES = (1, 2, 3, 4)

# (images of the train split, options)
CASES: list[tuple[int, dict[str, Any]]] = [
    (90, {"batch_size": 7}),
    (90, {"batch_size": 7, "num_workers": 0, "dtype": "uint8"}),
    (89, {"batch_size": 8, "drop_last": True}),
    (67, {"batch_size": 5, "shuffle": False}),
    (13, {"batch_size": 4}),
    (3, {"batch_size": 2}),
    (1, {"batch_size": 64}),
]
CHAIN: dict[str, Any] = {"batch_size": 3, "seed": 5, "augment": Augment(), "return_index": True}
CHAINED_BATCHES = 2


def make_loader(pack, case, **overrides):
    count, options = CASES[case]
    split = pack["train"].select(indices=range(count))
    return Loader(
        pack, split, augment=Augment(cutout=4), return_index=True, **{**options, **overrides}
    )


def record(batches):
    """For every batch (index, label, digest of the pixels) of its samples."""
    return [
        [
            (row, label, hashlib.sha256(image.numpy().tobytes()).hexdigest())
            for image, label, row in zip(images, labels.tolist(), index.tolist(), strict=True)
        ]
        for images, labels, index in batches
    ]


def measure_mappings(path: Path) -> tuple[int, int]:
    """How many kB of a pack's files this process has mapped in, and has copies of."""
    resident = own = 0
    is_pack = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *values = line.split()
        if not name.endswith(":"):
            is_pack = str(path) in line
        elif is_pack and name == "Rss:":
            resident += int(values[0])
        elif is_pack and name in ("Anonymous:", "Private_Dirty:"):
            own += int(values[0])
    return resident, own


def measure_growth(path: Path) -> float:
    """By how many MB an epoch makes the memory grow that this process shares with no other."""

    def measure_own() -> float:
        text = Path("/proc/self/smaps_rollup").read_text()
        return int(text.split("Anonymous:")[1].split()[0]) / 1e3

    # Collect now, so that nothing else gives memory back in the meantime.
    gc.collect()
    before = measure_own()
    loader = Loader(path, batch_size=8, num_workers=1, augment=Augment(), epoch=0)
    for _ in loader:
        pass
    return measure_own() - before


def work(rank: int, path: Path, large: Path, folder: Path) -> None:
    """What each of four processes does: takes part in groups of one to four."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    pack = cinicpack.open_pack(path)
    # The kernels are loaded first, which takes memory too, and nothing has been used that could be
    # given back while this is measured: groups and their threads come later.
    record(make_loader(pack, 0))
    growth = measure_growth(large) if sys.platform == "linux" else None
    for world_size in WORLD_SIZES[rank:]:
        # As torchrun sets it, above what the loaders are to see.
        os.environ["WORLD_SIZE"] = str(max(WORLD_SIZES) + 1)
        loaders = [make_loader(pack, case) for case in range(len(CASES))]
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{folder}/group-{world_size}",
            rank=rank,
            world_size=world_size,
        )
        result = {
            "epochs": [[record(loader), record(loader)] for loader in loaders],
            "lengths": [len(loader) for loader in loaders],
            "overridden": record(make_loader(pack, 0, epoch=0, rank=1, world_size=3)),
            "seeds": [make_loader(pack, 0, seed=None).seed for _ in range(2)],
        }
        result["chain"], state = take_turn(pack, world_size, folder)
        states: list[Any] = [None] * world_size
        distributed.all_gather_object(states, state)
        result["states"] = states
        if sys.platform == "linux":
            result["memory"], result["growth"] = measure_mappings(path), growth
        (folder / f"{world_size}-{rank}.pickle").write_bytes(pickle.dumps(result))
        distributed.destroy_process_group()


def take_turn(pack, world_size, folder):
    """Go on where one rank less stopped, the last group to the end of the epoch."""
    loader = Loader(pack, "valid", **CHAIN)
    if world_size > 1:
        loader.load_state_dict(json.loads((folder / f"state-{world_size - 1}.json").read_text()))
    iterator = iter(loader)
    last = world_size == max(WORLD_SIZES)
    batches = list(iterator) if last else [next(iterator) for _ in range(CHAINED_BATCHES)]
    state = loader.state_dict()
    if distributed.get_rank() == 0:
        (folder / f"state-{world_size}.json").write_text(json.dumps(state))
    return record(batches), state


@pytest.fixture(scope="module")
def large_pack(tmp_path_factory):
    """A pack of 65 MB: more than a rank may grow by, and with kernels that are loaded already."""
    folder = tmp_path_factory.mktemp("large")
    write_tree(
        folder / "tree",
        33,
        splits=["train"],
        images=lambda split, name, names: np.zeros((len(names), 256, 256, 3), np.uint8),
    )
    with pytest.warns(UserWarning, match="like CINIC-10, but"):
        return cinicpack.pack(folder / "tree", folder / "large.pack", progress=False)


@pytest.fixture(scope="module")
def results(pack, large_pack, tmp_path_factory):
    """What ``work`` found, by world size a list over ranks; all from four processes."""
    folder = tmp_path_factory.mktemp("ranks")
    context = multiprocessing.get_context("forkserver")
    # Importing torch once and not in each process saves ten seconds of CPU.
    context.set_forkserver_preload(["torch", "cinicpack.load.loader"])
    ranks = range(max(WORLD_SIZES))
    processes = [
        context.Process(target=work, args=(rank, pack.path, large_pack.path, folder))
        for rank in ranks
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    for process in processes:
        process.kill()
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)
    return {
        world_size: [
            pickle.loads((folder / f"{world_size}-{rank}.pickle").read_bytes())
            for rank in range(world_size)
        ]
        for world_size in WORLD_SIZES
    }


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_ranks_together_load_what_one_process_loads(results, pack, world_size, case):
    alone = make_loader(pack, case, drop_last=False)
    count, options = CASES[case]
    dropped = count % (options["batch_size"] * world_size) if options.get("drop_last") else 0
    for epoch in range(2):
        expected = [sample for batch in record(alone) for sample in batch]
        ranks = [result["epochs"][case][epoch] for result in results[world_size]]
        assert len({len(batches) for batches in ranks}) == 1
        gathered = [sample for batches in ranks for batch in batches for sample in batch]
        assert sorted(gathered) == sorted(expected[: count - dropped])


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_every_rank_knows_the_number_of_batches(results, world_size):
    for result in results[world_size]:
        assert result["lengths"] == [len(first) for first, _ in result["epochs"]]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps")
def test_ranks_have_no_copies_of_the_pack(results, pack):
    for result in results[max(WORLD_SIZES)]:
        resident, own = result["memory"]
        assert resident * 1024 > pack["train"].images.nbytes
        assert own == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps_rollup")
def test_a_further_rank_needs_memory_for_batches_alone(results):
    """At most 48 MiB of these are kept; how many there are depends on how busy the machine is."""
    for result in results[max(WORLD_SIZES)]:
        assert 5 < result["growth"] < 60


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_global_batches_are_those_of_one_process(results, pack, world_size):
    """With batches of W times the size one process has the same images in every step."""
    case = 3
    batch_size = CASES[case][1]["batch_size"]
    alone = make_loader(pack, case, batch_size=batch_size * world_size)
    for number, expected in enumerate(record(alone)):
        for rank, result in enumerate(results[world_size]):
            assert result["epochs"][case][0][number] == expected[rank::world_size]


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_given_ranks_override_the_group(results, pack, world_size):
    expected = record(make_loader(pack, 0, rank=1, world_size=3))
    assert all(result["overridden"] == expected for result in results[world_size])


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_ranks_have_the_seed_that_the_first_one_drew(results, world_size):
    (first, second), *others = [result["seeds"] for result in results[world_size]]
    assert first != second
    assert all(seeds == [first, second] for seeds in others)


def test_an_epoch_goes_on_in_larger_and_larger_groups(results, pack):
    expected = [sample for batch in record(Loader(pack, "valid", **CHAIN)) for sample in batch]
    position = 0
    for world_size, ranks in results.items():
        steps = zip(*(result["chain"] for result in ranks), strict=True)
        for shares in steps:
            step = [sample for share in shares for sample in share]
            assert set(step) == set(expected[position : position + len(step)])
            position += len(step)
        states = [state for result in ranks for state in result["states"]]
        assert all(state == states[0] for state in states)
        assert states[0]["samples"] == (position if world_size < max(WORLD_SIZES) else 0)
    assert position == len(expected)


def test_the_example_trains_on_two_ranks(pack):
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *(str(EXAMPLE), str(pack.path)),
        *("--epochs", "2", "--batch-size", "16"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLE.parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(re.search(r"cifar10 [\d.]+%, imagenet [\d.]+%$", line) for line in lines)


@pytest.mark.parametrize(("gpus", "ranks", "found"), [(0, 2, "cpu"), (2, 2, "cuda:1")])
def test_the_example_takes_a_gpu_for_each_rank(monkeypatch, gpus, ranks, found):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert CHOOSE_DEVICE(1, ranks) == torch.device(found)


def test_the_example_says_that_there_are_fewer_gpus_than_ranks(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for rank in range(2):
        with pytest.raises(SystemExit, match=r"each of the 2 ranks .* found 1; start 1 \(torchrun"):
            CHOOSE_DEVICE(rank, 2)
