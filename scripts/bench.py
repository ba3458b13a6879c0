"""Time cmon against its baselines, each pair in one process and on the same threads, and hold it to its goals.

    make bench                      # on made-up images and stores
    CMON_DATA=data make bench       # with CIFAR-10's test images and mini_broden.zip, where they serve

Each file of `benchmarks/` says what it times, and against what; the baselines are plain implementations of the
published procedures, in `published/`. Ratios are medians over pairs, one of each in turn, since machines are noisy.
Exits with 1 where a goal is missed.
"""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch
from benchmarks.rows import Row

BENCHMARKS = ("recording", "soft_wpmi", "draws", "counting", "scaling", "embed_report")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=BENCHMARKS, default=BENCHMARKS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where all figures go")
    parser.add_argument("--one", choices=BENCHMARKS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # for the commands that are timed
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        run(arguments.one, arguments.pairs, arguments.json)
        return 0
    machine = f"{cpu()}, {os.cpu_count()} cores, {arguments.threads} threads, torch {torch.__version__}"
    print(f"{machine}; medians of {arguments.pairs} pairs", flush=True)
    found = []
    # Each in a process of its own: what one leaves in memory would count as a peak of the commands that another starts.
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            part = Path(folder) / f"{name}.json"
            words = [sys.executable, __file__, "--pairs", str(arguments.pairs), "--threads", str(arguments.threads)]
            subprocess.run([*words, "--one", name, "--json", str(part)], check=True)
            found += json.loads(part.read_text())
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps({"machine": machine, "rows": found}, indent=2))
    return int(not all(row["met"] for row in found))


def run(name: str, pairs: int, path: Path) -> None:
    """Run one benchmark, print its figures, and put them into a file."""
    found, start = [], time.perf_counter()
    for row in importlib.import_module(f"benchmarks.{name}").rows(pairs):
        found.append({"benchmark": name, **asdict(row), "met": row.met})
        print(line(row), flush=True)
    print(f"    ({name}: {time.perf_counter() - start:.0f} s)", flush=True)
    path.write_text(json.dumps(found))


def line(row: Row) -> str:
    """Write a figure beside its goal."""
    bound = "at most" if row.at_most else "at least"
    seen = {name: value for name, value in row.figures.items() if name in ("cmon_s", "baseline_s")}
    both = f"  ({seen['cmon_s']:.3g} s against {seen['baseline_s']:.3g} s)" if len(seen) == 2 else ""
    verdict = "" if row.met else "  MISSED"
    return f"{row.what}: {row.measured:.4g} {row.unit}, goal {bound} {row.goal:g}{verdict}{both}"


def cpu() -> str:
    """Name the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


if __name__ == "__main__":
    sys.exit(main())
