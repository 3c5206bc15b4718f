"""The thousand devices of ``bench_scale`` for ten minutes: long enough to see memory that does not stay.

python -m benchmarks.soak [--devices 1000] [--seconds 600] [--json PATH]
"""

from benchmarks.bench_scale import main

if __name__ == "__main__":
    main(seconds=600.0)
