"""A Storage SCP in a process of its own, so that its memory can be watched: prints its port, ends with its input.

usage: dicom_listener.py SPOOL
"""

import pathlib
import sys

from raypost.dicom.scp import StorageSCP, StorageSCPOptions

options = StorageSCPOptions(
    pathlib.Path(sys.argv[1]),
    lambda: frozenset({"RAYPOST"}),
    {"ATTACKER": frozenset()},
    instance_size_max_bytes=4 << 20,
    idle_timeout_s=20,
)
scp = StorageSCP(
    options, lambda received: 0, lambda end: None, lambda refusal: print("refused", refusal.reason, flush=True)
)
print(scp.start(), flush=True)
sys.stdin.read()
scp.stop()
