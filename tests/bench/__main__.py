"""`make bench`: how fast a study crosses and how much memory a site needs, beside peers in the same run.

usage: python -m tests.bench [--out FOLDER] [--quick]      needs root for Postfix and Dovecot
Writes figures.md and figures.json into FOLDER (default bench-data).
"""

import argparse
import json
import platform
import shutil
import tempfile
from pathlib import Path

from tests.bench.crossing import Crossing, cross
from tests.bench.peers import peer_seconds
from tests.bench.studies import make_series, make_stroke_set

AIM_MB_PER_S = 15.0
AIM_MEMORY_MB = 500.0
AIM_MEMORY_GROWTH = 1.2
SETS = (40, 200, 2400)
DEAD_RELAY = "stroke set of 40, two embedded relays, the first one dead"


def main() -> None:
    """Run everything and write the tables."""
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--out", type=Path, default=Path("bench-data"))
    cli.add_argument("--quick", action="store_true", help="50 and 200 slices instead of 200 and 2,000; no large sets")
    args = cli.parse_args()
    few, many = (50, 200) if args.quick else (200, 2000)
    args.out.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="raypost-bench-"))
    try:
        print(f"making {few} and {many} slices ...", flush=True)
        study, large = make_series(place / "few", few), make_series(place / "many", many)
        sets = {count: make_stroke_set(place / f"stroke-{count}", count) for count in ((40,) if args.quick else SETS)}
        rows: list[Crossing] = []
        for name, folder, relay in (
            (f"{few} slices, Postfix + Dovecot", study, "real"),
            (f"{few} slices, embedded relay", study, "embedded"),
            (f"{many} slices, Postfix + Dovecot", large, "real"),
            *((f"stroke set of {count}, Postfix + Dovecot", folder, "real") for count, folder in sets.items()),
            ("stroke set of 40, embedded relay", sets[40], "embedded"),
            (DEAD_RELAY, sets[40], "one dead"),
        ):
            print(f"{name} ...", flush=True)
            rows.append(cross(name, folder, relay, place))
            print("  " + rows[-1].sentence(), flush=True)
        peers = {name: peer_seconds(name, study) for name in ("dcmsend to storescp", "dcmsend to Orthanc")}
    finally:
        shutil.rmtree(place, ignore_errors=True)
    figures = {
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}, Python {platform.python_version()}",
        "rows": [one.as_json() for one in rows],
        "peers_s": peers,
        "ratio_to_peers": {name: round(rows[0].filed_s / took_s, 2) for name, took_s in peers.items()},
        "added_by_a_dead_relay_s": round(rows[-1].filed_s - rows[-2].filed_s, 2),
        "memory_growth": round(rows[2].peak_mb / rows[0].peak_mb, 2),
    }
    (args.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    text = markdown(figures, rows)
    (args.out / "figures.md").write_text(text)
    print("\n" + text)


def markdown(figures: dict, rows: list[Crossing]) -> str:
    """Write the tables."""
    lines = [
        f"Measured on {figures['machine']}. Everything on one machine: scanner, two sites, PostgreSQL, relay.",
        "",
        "| what | raw MB | known s | first image s | key series s | all filed s | MB/s | settle wait s | receipt s "
        "| peak MB of a site | transactions a parcel | planned to accepted ms | verified to filed ms |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.name} | {one.raw_mb:.0f} | {one.announce_s:.2f} | {one.first_image_s:.2f} | {one.key_series_s:.2f} "
        f"| {one.filed_s:.2f} | {one.mb_per_s:.1f} | {one.settle_wait_s:.1f} | {one.delivered_s:.2f} "
        f"| {one.peak_mb:.0f} | {one.transactions_a_parcel:.0f} | {one.parcel_packed_to_accepted_ms:.0f} "
        f"| {one.parcel_verified_to_filed_ms:.0f} |"
        for one in rows
    ]
    lines += ["", "| peer in the same run | s | our time is so many times longer |", "|---|---|---|"]
    lines += [
        f"| {name} | {took_s:.2f} | {figures['ratio_to_peers'][name]} |" for name, took_s in figures["peers_s"].items()
    ]
    lines += ["", f"A dead preferred relay adds {figures['added_by_a_dead_relay_s']} s until all is filed."]
    verdicts = [
        (f"{rows[0].mb_per_s:.1f} MB/s, aim {AIM_MB_PER_S:.0f}", rows[0].mb_per_s >= AIM_MB_PER_S),
        (
            f"{max(one.peak_mb for one in rows):.0f} MB at most, aim {AIM_MEMORY_MB:.0f}",
            max(one.peak_mb for one in rows) <= AIM_MEMORY_MB,
        ),
        (
            f"memory of the large study is {figures['memory_growth']} times that of the small one, aim {AIM_MEMORY_GROWTH}",
            figures["memory_growth"] <= AIM_MEMORY_GROWTH,
        ),
    ]
    lines += [""] + [f"- {'reached' if is_met else 'MISSED'}: {what}" for what, is_met in verdicts]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
