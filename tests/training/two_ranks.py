"""What two processes that train together do: `python two_ranks.py RANK RANKS FOLDER`; one alone is rank 0 of 1.

Of each batch of eight every rank gets its part, so that both ways the same eight samples make a step.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from onnxprune.prune.weights import SingleWeights
from onnxprune.training.batches import shuffled_batches
from onnxprune.training.finetune import train
from onnxprune.training.pruner import Pruner
from onnxprune.training.settings import TrainingSettings

BATCH = 8
RNG = np.random.default_rng(0)
X = RNG.standard_normal((64, 3, 6, 6), dtype=np.float32)
Y = (X.mean((2, 3)) + 0.3 * X[:, ::-1, 0, 0]).argmax(1)


class Net(nn.Module):
    """Sizes that two ranks can't share evenly, tied channels, a tied matrix."""

    def __init__(self, norm: bool = False):
        super().__init__()
        self.stem = nn.Conv2d(3, 9, 3, padding=1)
        self.norm = nn.BatchNorm2d(9) if norm else nn.Identity()
        self.deep = nn.Conv2d(9, 9, 3, padding=1, groups=9)
        self.wide = nn.Conv2d(9, 11, 1)
        self.back = nn.Conv2d(11, 9, 1)
        self.inner = nn.Linear(9, 9, bias=False)
        self.outer = nn.Linear(9, 9)
        self.outer.weight = self.inner.weight
        self.head = nn.Linear(9, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.back(torch.relu(self.wide(torch.relu(self.deep(x)))))
        x = x.mean((2, 3))
        return self.head(torch.relu(self.outer(torch.relu(self.inner(x)))))


def build(norm: bool = False) -> Net:
    torch.manual_seed(0)
    return Net(norm)


def batches(rank: int, ranks: int):
    return shuffled_batches(X, Y, batch_size=BATCH, seed=0, share=(rank, ranks))


def pruner_of(module: nn.Module, rank: int, ranks: int, **settings) -> Pruner:
    def calibration():
        return list(batches(rank, ranks)(99))

    settings = {"budget": {"params": 0.6}, "total_steps": 12, "pruning_steps": 3, "round_to": 1, **settings}
    return Pruner(module, (torch.from_numpy(X[:2]),), calibration=calibration, **settings)


def loop(module: nn.Module, called: nn.Module, pruner: Pruner, rank: int, ranks: int) -> None:
    """Two epochs of a loop of one's own; `called` is what runs, the module itself or what wraps it."""
    optimizer = torch.optim.AdamW(module.parameters(), 0.01)
    module.train()
    for epoch in range(2):
        for x, y in batches(rank, ranks)(epoch):
            loss = nn.functional.cross_entropy(called(x), y) + pruner.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            pruner.step(optimizer)
    for parameter in module.parameters():
        own = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        for entry in optimizer.state[parameter].values():
            if entry.shape == parameter.shape:
                own_entry = entry.to_local() if isinstance(entry, DTensor) else entry
                assert not own_entry[own == 0].any(), "momentum where a weight is masked"


#: Pruners that look at everything there is to look at.
PRUNERS = {
    "taylor": {},
    "fisher": {"criterion": "fisher"},
    "activation": {"criterion": "activation", "adjust": "bias"},
    "omp": {"criterion": "omp", "adjust": "least_squares"},
    "obd": {"criterion": "obd"},
    "error_rate": {"criterion": "error_rate"},
    "structure": {"criterion": "structure", "penalty": 1e-3, "penalty_kind": "group"},
    "weights": {
        "budget": {"params": 0.8},
        "weights": SingleWeights(share=0.4, criterion="sensitivity"),
        "penalty": 1e-4,
    },
}


def result_of(module: nn.Module, pruner: Pruner, folder: Path, rank: int, name: str) -> None:
    """What each rank has in the end."""
    state = module.state_dict()
    weights = {key: value.full_tensor() if isinstance(value, DTensor) else value for key, value in state.items()}
    torch.save({"weights": weights, "masks": dict(pruner.masks.held)}, folder / f"{name}-{rank}.pt")


def own_loop(rank: int, ranks: int, folder: Path, sharded: bool) -> None:
    folder.mkdir(exist_ok=True)
    channels = None
    for name, settings in PRUNERS.items():
        module = build()
        if sharded and ranks > 1:
            mesh = init_device_mesh("cpu", (ranks,))
            fully_shard(module.wide, mesh=mesh)
            fully_shard(module, mesh=mesh)
        pruner = pruner_of(module, rank, ranks, channels=channels, **settings)
        channels = pruner.channels
        called = DistributedDataParallel(module) if ranks > 1 and not sharded else module
        loop(module, called, pruner, rank, ranks)
        result_of(module, pruner, folder, rank, name)
        if name == "taylor":
            pruner.export(folder / "pruned.onnx")


def ready_loop(rank: int, ranks: int, folder: Path, norm: bool) -> None:
    """`train`, whose metric each rank measures on its part; rank 1 starts with weights of its own."""
    folder.mkdir(exist_ok=True)
    module = build(norm)
    if rank:
        nn.init.zeros_(module.head.weight)
    pruner = pruner_of(module, rank, ranks, total_steps=None, adjust="batchnorm" if norm else "none")
    x, y = torch.from_numpy(X[rank::ranks]), torch.from_numpy(Y[rank::ranks])

    def evaluate(network):
        logits = network(x)
        return (logits.argmax(1) == y).double().mean().item(), nn.functional.cross_entropy(logits, y).item()

    settings = TrainingSettings(epochs=5, learning_rate=0.01, prune_steps=3, guard=0.2, average=0.5, accumulate=2)
    checkpoint = folder / "run.safetensors"
    for resume in (False, True):  # the second time all is there, and only read
        history = train(
            module,
            batches(rank, ranks),
            settings=settings,
            evaluate=evaluate,
            pruner=pruner,
            checkpoint=checkpoint,
            resume=resume,
        )
    result_of(module, pruner, folder, rank, "ready")
    metrics = [record.validation_metric for record in history.epochs]
    torch.save({"metrics": metrics, "decisions": [s.decision for s in history.steps]}, folder / f"history-{rank}.pt")


def main(rank: int, ranks: int, folder: Path) -> None:
    torch.set_num_threads(1)
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder.resolve()}/store", rank=rank, world_size=ranks)
    for kind in ("whole", "sharded") if ranks > 1 else ("whole",):
        own_loop(rank, ranks, folder / kind, kind == "sharded")
    ready_loop(rank, ranks, folder / "ready", norm=False)
    ready_loop(rank, ranks, folder / "batchnorm", norm=True)
    if ranks > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
