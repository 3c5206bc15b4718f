"""FedAvg that writes down when each round began and ended."""

import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Timed(FedAvg):
    """A line of JSON after each round: its seconds, the longest training in it, the clients that answered."""

    def __init__(self, devices: int, journal: Path) -> None:
        super().__init__(
            fraction_train=1.0,
            fraction_evaluate=0.0,
            min_train_nodes=devices,
            min_available_nodes=devices,
        )
        self._journal, self._began = journal, 0.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._began = time.perf_counter()
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        kept = list(replies)
        result = super().aggregate_train(server_round, kept)
        trained = [float(one.content["metrics"]["train_s"]) for one in kept if one.has_content()]
        line = {
            "round": server_round,
            "seconds": time.perf_counter() - self._began,
            "train_s": max(trained, default=0.0),
            "clients": len(trained),
        }
        with self._journal.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return result


def rounds(grid: Grid, devices: int, params: int, count: int, journal: Path) -> None:
    """So many rounds of a model of zeros."""
    initial = ArrayRecord([np.zeros(params, np.float32)])
    Timed(devices, journal).start(grid, initial, num_rounds=count, timeout=300.0)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """As ``flwr run`` configures it."""
    config = context.run_config
    rounds(
        grid, int(config["devices"]), int(config["params"]), int(config["rounds"]), Path(config["journal"])
    )
