"""A small pruned training that a test kills: `python killed_run.py CHECKPOINT RESULT SECONDS_A_BATCH`."""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from onnxprune.training.batches import shuffled_batches, top1
from onnxprune.training.finetune import train
from onnxprune.training.pruner import Pruner
from onnxprune.training.settings import TrainingSettings


def main(checkpoint: str, result: str, seconds: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((160, 6), dtype=np.float32)
    y = (x[:, :3] + 0.5 * x[:, 3:]).argmax(1)
    module = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3))
    pruner = Pruner(module, (torch.from_numpy(x[:2]),), budget={"params": 0.5}, pruning_steps=4, round_to=1)
    of_epoch = shuffled_batches(x, y, batch_size=20)

    def batches(epoch: int):
        for batch in of_epoch(epoch):
            time.sleep(float(seconds))
            yield batch

    def told(record) -> None:
        print(record.epoch, flush=True)

    settings = TrainingSettings(epochs=10, learning_rate=0.02, prune_steps=4, guard=0.1, average=0.9)
    evaluate = top1(x, y)
    train(
        module,
        batches,
        settings=settings,
        evaluate=evaluate,
        pruner=pruner,
        checkpoint=Path(checkpoint),
        resume=True,
        on_epoch=told,
    )
    torch.save({"module": module.state_dict(), "deleted": pruner.snapshot()["deleted"]}, result)


if __name__ == "__main__":
    main(*sys.argv[1:])
