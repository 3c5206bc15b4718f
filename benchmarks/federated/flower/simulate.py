"""Runs in Flower's environment: rounds in its simulation engine (Ray).

.venv-flower/bin/python -m benchmarks.federated.flower.simulate DEVICES PARAMS ROUNDS JOURNAL
"""

import os
import sys
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from overhead.client import app as client
from overhead.server import rounds


def main() -> None:
    devices, params, count = map(int, sys.argv[1:4])
    server = ServerApp()

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        rounds(grid, devices, params, count, Path(sys.argv[4]))

    cores = len(os.sched_getaffinity(0))
    backend = {
        "init_args": {"num_cpus": cores, "include_dashboard": False},
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
    }
    run_simulation(server, client, devices, backend_config=backend)


if __name__ == "__main__":
    main()
