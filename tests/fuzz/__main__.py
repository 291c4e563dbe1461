"""`python -m tests.fuzz FORMAT --minutes N`: open damaged files of a format, or of all, and keep what breaks."""

import argparse
import sys

from .run import fuzz, keep
from .seeds import SEEDS


def main() -> int:
    """Exit code 1 if something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("format", choices=[*SEEDS, "all"], help="the file format, or all of them in turn")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long, for each format (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the random choices; another one makes other files")
    args = parser.parse_args()
    found = 0
    for format in SEEDS if args.format == "all" else [args.format]:
        report = fuzz(format, 60 * args.minutes, args.seed)
        for finding in report.findings:
            print(f"{keep(format, finding)}: {finding.words}", file=sys.stderr)
        print(report, flush=True)
        found += len(report.findings)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
