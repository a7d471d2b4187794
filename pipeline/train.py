"""The stages that train, a group of rows each: the one training loop.

    python -m pipeline.train rooms teacher segnet semantic 0       a single-task network
    python -m pipeline.train rooms baseline segnet uniform 0       a multi-task network on the labels alone
    python -m pipeline.train rooms wide segnet cagrad 0            the same, a row of the table of balancers
    python -m pipeline.train rooms student segnet ours 0           a multi-task network that follows the teachers
    python -m pipeline.train rooms ablation segnet ours-last 0     the same, a row of Table 4

Reads its row in out/<suite>/rows/train/<group>/, which `python -m pipeline.rows rooms` writes.
Writes out/<suite>/<group>/<model>-<name>-s<seed>/: weights.pt (states of the last epoch, of the one with the lowest
training loss, and for a teacher of the one with the lowest loss of its last batch), curve.csv (an epoch a row),
balance.csv (what the balancer saw and did; not for one task), run.yaml (the resolved row), cost.json (time and memory).
Killed at any moment, the same command goes on from the last finished epoch and ends with the same bits.
"""

import sys

from pipeline.loop.epoch import train_epoch
from pipeline.loop.export import write_results
from pipeline.loop.state import Run
from pipeline.runtime import distributed
from pipeline.runtime.errors import run
from pipeline.runtime.row import read, searched


def main(suite, group, model_name, name, seed):
    title = f"{model_name}-{name}-s{seed}"
    row = searched(read("train", suite, group, title))
    if distributed.launched("pipeline.train", suite, group, model_name, name, seed):
        return
    training = Run(row, f"{suite}-{title}")
    print(training.describe())
    training.resume()
    for epoch in range(len(training.results.curve), training.epochs):
        train_epoch(training, epoch)
        training.save()
    write_results(training)
    training.checkpoint.done()


if __name__ == "__main__":
    run(main, *sys.argv[1:])
