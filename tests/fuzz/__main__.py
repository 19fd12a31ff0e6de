"""`make fuzz`: mutated input for every reader of foreign bytes, for some minutes; a find is kept and named.

usage: python -m tests.fuzz [--minutes 2] [--seed N] [--target NAME] [--out FOLDER] [FILE …]
With files they are read by the target instead, to look at a find again. Exit code 1: something was found.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.targets import Target, is_ours, make_targets

LENGTH_MAX_BYTES = 1 << 17
INPUT_MAX_S = 5.0
"""A reader that takes longer for 128 kB can be made to stand still. The opener starts gpg, on a busy machine."""
FINDS_MAX = 20
TELLING = (
    *(b"\0", b"\r\n", b"\n", b"\r", b"--", b"\xff", b"\xc3\xa9", b"-1", b"1e999", b"null", b"true", b"{}", b"[]", b'"'),
    *(b"9" * 30, b"A" * 300, b"../../", b"From: x@y\r\n", b"\r\n\r\n", b"=?utf-8?B?AA==?=", b"[" * 200, b"\\u0000"),
)


def mutate(data: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """Change an input in a few places."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        at = chance.randrange(len(changed) + 1)
        end = min(len(changed), at + chance.choice((1, 2, 8, 64, 1024)))
        match chance.randrange(7):
            case 0 if changed and at < len(changed):
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                del changed[at:end]
            case 2:
                changed[at:at] = changed[at:end] * chance.choice((1, 2, 50))
            case 3:
                changed[at:at] = chance.choice(TELLING)
            case 4:
                changed[at:end] = chance.randbytes(end - at)
            case 5:
                other = chance.choice(others)
                start = chance.randrange(len(other) + 1)
                changed[at:end] = other[start : start + chance.choice((4, 64, 2048))]
            case _:
                changed[at:end] = chance.choice(TELLING)
    return bytes(changed[:LENGTH_MAX_BYTES])


def try_one(target: Target, data: bytes) -> str:
    """Let a target read an input; return what is wrong with how it did, empty when nothing is."""
    begin = time.monotonic()
    try:
        target.read(data)
    except Exception as error:  # noqa: BLE001 (whatever it is: that is what is looked for)
        if not is_ours(error):
            return traceback.format_exc()
    passed_s = time.monotonic() - begin
    return f"it took {passed_s:.1f} s" if passed_s > INPUT_MAX_S else ""


def fuzz(
    targets: list[Target], seed: int, until_s: float, keep: Callable[[Target, bytes, str], None]
) -> dict[str, int]:
    """Try until the time is over; return how many inputs each target read."""
    chance, counts = random.Random(seed), dict.fromkeys((one.name for one in targets), 0)
    everything = [seed for one in targets for seed in one.seeds]
    while time.monotonic() < until_s:
        for target in targets:
            for _ in range(target.share):
                data = mutate(chance.choice(target.seeds), chance, everything)
                counts[target.name] += 1
                if said := try_one(target, data):
                    keep(target, data, said)
    return counts


def main() -> int:
    """Fuzz, or look at finds again."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("files", nargs="*", type=Path)
    cli.add_argument("--minutes", type=float, default=2.0)
    cli.add_argument("--seed", type=int, default=None)
    cli.add_argument("--target", default="")
    cli.add_argument("--out", type=Path, default=Path("fuzz-data"))
    given = cli.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if given.seed is None else given.seed
    place, finds = Path(tempfile.mkdtemp(prefix="raypost-fuzz-")), []
    try:
        targets = [one for one in make_targets(place) if given.target in ("", one.name)]
        if given.files:
            return _again(targets, given.files)

        def keep(target: Target, data: bytes, said: str) -> None:
            finds.append(said)
            given.out.mkdir(parents=True, exist_ok=True)
            file = given.out / f"{target.name}-{seed}-{len(finds)}"
            file.write_bytes(data)
            print(f"FOUND by {target.name}, kept as {file}:\n{said}", flush=True)
            if len(finds) >= FINDS_MAX:
                raise KeyboardInterrupt

        print(f"seed {seed}, {given.minutes:g} minutes: {', '.join(one.name for one in targets)}", flush=True)
        try:
            counts = fuzz(targets, seed, time.monotonic() + 60 * given.minutes, keep)
        except KeyboardInterrupt:
            counts = {}
        print("; ".join(f"{name} {count:,}" for name, count in counts.items()))
        print(f"{len(finds)} finds")
        return 1 if finds else 0
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _again(targets: list[Target], files: list[Path]) -> int:
    is_bad = False
    for file in files:
        for target in targets:
            if file.name.startswith(target.name):
                said = try_one(target, file.read_bytes())
                is_bad = is_bad or bool(said)
                print(f"{file}: {said or 'in order now'}")
    return int(is_bad)


if __name__ == "__main__":
    sys.exit(main())
