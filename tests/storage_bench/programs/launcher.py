"""A program that launches ranks: `launcher.py FOLDER PROGRAM NUM_RANKS [CONFIG]`.  Prints how it ended, on one line."""

import json
import sys
from pathlib import Path

from iobench.storage_bench.launching.launch import LaunchError, launch_ranks

folder, program, num_ranks = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
config = json.loads(sys.argv[4]) if len(sys.argv) > 4 else {}
try:
    results = launch_ranks(program, config, num_ranks=num_ranks, folder=folder, timeout_s=60)
    print("results", len(results))
except LaunchError as error:
    print("error", str(error).splitlines()[0])
except KeyboardInterrupt:
    print("interrupted")
