"""A run under way: what is trained, how far it is, and all that its checkpoint holds."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import OneCycleLR

import cinicpack
from benchmarks.paper.device import count_ranks
from benchmarks.paper.networks import NETWORKS
from benchmarks.paper.plan import Images, Plan
from benchmarks.paper.recipe import make_optimizer, make_schedule
from benchmarks.paper.testing import measure_error

__all__ = ["Training"]


@dataclass
class _Tally:
    """What is counted in an epoch.

    Attributes:
        loss: sum over this rank's images, without gradient; a tensor, since reading it would wait
            for the device.
        right: how many of these were classified correctly, before the step that learns from them.
        images: how many images all ranks have had.
        seconds: of training, checkpoints and validation not counted.
        waited: seconds of these spent in ``next(loader)``.
        cpu_seconds: of the whole process, meanwhile.
    """

    loss: Tensor
    right: Tensor
    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    cpu_seconds: float = 0.0


class Training:
    """A network that learns by a plan.

    Attributes:
        network: it, as it is tested.
        history: an entry for every epoch that is over.
        best: the first epoch with the least error in validation, that error, and its weights.

    Raises `SystemExit` where batches cannot be shared by the ranks.
    """

    def __init__(
        self, plan: Plan, images: Images, device: torch.device, *, resident: bool = False
    ) -> None:
        self.plan, self.images, self.device = plan, images, device
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        ranks = count_ranks()
        _check_shares(plan.recipe.batch_size, len(images.train), ranks)
        torch.manual_seed(plan.seed)
        self.network = NETWORKS[plan.model].make(len(images.train.classes))
        memory = torch.channels_last if plan.channels_last else torch.contiguous_format
        self.network.to(device, memory_format=memory)  # type: ignore[call-overload]
        if ranks > 1 and device.type == "cuda":
            # A batch is normalised as a whole, whoever has its images; on CPUs torch cannot.
            self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)  # type: ignore[no-untyped-call]
        self._model: Callable[[Tensor], Tensor] = self.network
        if ranks > 1:
            self._model = DistributedDataParallel(self.network)
        if plan.compiled:
            mode = "reduce-overhead" if device.type == "cuda" else "default"
            self._model = torch.compile(self._model, mode=mode)
        self._loader = cinicpack.Loader(
            images.train.pack,
            images.train,
            batch_size=plan.recipe.batch_size // ranks,
            augment=plan.recipe.augment,
            channels_last=plan.channels_last,
            seed=plan.seed,
            epoch=0,
            device=device,
            resident=resident,
        )
        self._optimizer = make_optimizer(plan.recipe, self.network)
        self._schedule = make_schedule(plan.recipe, self._optimizer, len(self._loader))
        self._tally = self._start_tally()

    def train_epoch(self, save: Callable[[], None], every: int) -> dict[str, Any]:
        """Train to the end of the epoch, and return its entry in the history.

        Every ``every`` steps, and at the end, ``save`` is called: `state_dict` is then what the
        training can go on from.
        """
        tally, rows = self._tally, len(self.images.train)
        start, cpu_start = time.perf_counter(), time.process_time()
        batches = iter(self._loader)
        tally.waited += time.perf_counter() - start
        steps = tally.images // self.plan.recipe.batch_size
        while tally.images < rows:
            asked = time.perf_counter()
            images, labels = next(batches)
            tally.waited += time.perf_counter() - asked
            self._step(images, labels, min(self.plan.recipe.batch_size, rows - tally.images))
            steps += 1
            if steps % every == 0 and tally.images < rows:
                self._stop_clocks(start, cpu_start)
                save()
                start, cpu_start = time.perf_counter(), time.process_time()
        # An iterator that has not found its end would still be running.
        next(batches, None)
        if not isinstance(self._schedule, OneCycleLR):
            self._schedule.step()
        entry = self._finish_epoch(start, cpu_start)
        save()
        return entry

    def state_dict(self) -> dict[str, Any]:
        """Return all that the run depends on, as torch.load reads it with ``weights_only``."""
        state = {
            "plan": self.plan.as_dict(),
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "loader": self._loader.state_dict(),
            "tally": asdict(self._tally),
            "history": self.history,
            "best": self.best,
            "random": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises `SystemExit` if it is of another plan, and `cinicpack.StateError` if it is of another
        pack.
        """
        if differences := self.plan.compare(state["plan"]):
            raise SystemExit(
                f"the checkpoint is of another plan: {', '.join(differences)}; go on with that "
                "one, or name another folder by --output"
            )
        self._loader.load_state_dict(state["loader"])
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._tally = _Tally(**state["tally"])
        self.history, self.best = state["history"], state["best"]
        # Generators' states are on the CPU, wherever the other tensors were loaded to.
        torch.set_rng_state(state["random"].cpu())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"].cpu(), self.device)

    def close(self) -> None:
        self._loader.close()

    def _step(self, images: Tensor, labels: Tensor, count: int) -> None:
        """Learn from a batch, which has ``count`` images on all ranks together."""
        with torch.autocast(self.device.type, torch.bfloat16, self.plan.precision == "bf16"):
            scores = self._model(images)
        smoothing = self.plan.recipe.label_smoothing
        loss = functional.cross_entropy(
            scores.float(), labels, reduction="sum", label_smoothing=smoothing
        )
        self._optimizer.zero_grad()
        # Gradients are averaged over ranks, so that theirs add up to the mean over the batch.
        (loss * (count_ranks() / count)).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        if isinstance(self._schedule, OneCycleLR):
            self._schedule.step()
        self._tally.loss += loss.detach()
        self._tally.right += (scores.argmax(1) == labels).sum()
        self._tally.images += count

    def _start_tally(self) -> _Tally:
        return _Tally(
            torch.zeros((), device=self.device, dtype=torch.float64),
            torch.zeros((), device=self.device, dtype=torch.int64),
        )

    def _stop_clocks(self, start: float, cpu_start: float) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._tally.seconds += time.perf_counter() - start
        self._tally.cpu_seconds += time.process_time() - cpu_start

    def _finish_epoch(self, start: float, cpu_start: float) -> dict[str, Any]:
        self._stop_clocks(start, cpu_start)
        tally, self._tally = self._tally, self._start_tally()
        if distributed.is_initialized():
            distributed.all_reduce(tally.loss)
            distributed.all_reduce(tally.right)
        entry: dict[str, Any] = {
            "epoch": len(self.history) + 1,
            "loss": round(tally.loss.item() / tally.images, 4),
            "train_error": round(100 - 100 * tally.right.item() / tally.images, 3),
        }
        if self.images.valid is not None:
            entry["valid_error"] = measure_error(
                self.network, self.images.valid, self.plan, self.device
            )
            if self.best is None or entry["valid_error"] < self.best["valid_error"]:
                weights = {name: value.clone() for name, value in self.network.state_dict().items()}
                self.best = {key: entry[key] for key in ("epoch", "valid_error")}
                self.best["weights"] = weights
        entry |= {
            "images_s": round(tally.images / tally.seconds),
            "seconds": round(tally.seconds, 2),
            "waited_s": round(tally.waited, 3),
            "cpu_seconds": round(tally.cpu_seconds, 2),
        }
        self.history.append(entry)
        return entry


def _check_shares(batch_size: int, rows: int, ranks: int) -> None:
    """Refuse batches of which a rank would have none, or one image, which cannot be normalised."""
    rest = rows % batch_size
    if batch_size % ranks or (ranks > 1 and 0 < rest < 2 * ranks):
        raise SystemExit(
            f"expected batches that {ranks} ranks can share, found {rows:,} images in batches of "
            f"{batch_size}, of which the last has {rest}; start another number of ranks, or pass "
            "another --batch-size"
        )
