"""Runs in Flower's environment: the models of clients -> the model that its FedAvg makes of them.

.venv-flower/bin/python -m benchmarks.federated.flower.aggregate IN.npz OUT.npy
"""

import sys

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity


def main() -> None:
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # a message wants to know its run
    given = np.load(sys.argv[1])
    replies = [
        Message(
            content=RecordDict(
                {
                    "arrays": ArrayRecord([model]),
                    "metrics": MetricRecord({"num-examples": int(weight)}),
                }
            ),
            dst_node_id=number,
            message_type="train",
        )
        for number, (model, weight) in enumerate(zip(given["models"], given["weights"], strict=True), start=1)
    ]
    arrays, _ = FedAvg().aggregate_train(1, replies)
    if arrays is None:
        raise RuntimeError("FedAvg gave nothing")
    (mean,) = arrays.to_numpy_ndarrays()
    np.save(sys.argv[2], mean)


if __name__ == "__main__":
    main()
