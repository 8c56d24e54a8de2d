#!/usr/bin/env python3
"""What a scheduled pass costs: `run` with one new log object over ledgers of 10, 100, 1,000, 10,000 objects, beside reading all
of them cold.

    python3 benches/scheduled.py [--objects 10,100,1000,10000] [--lines 330] [--news 5]

An object holds a minute of traffic, so that the longest ledger is a week. Of each length: a cold `run` over all of its objects,
then passes with one new object each, then one with nothing new. Writes benches/scheduled.md.
"""

import argparse
import datetime
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from whole import ROOT, TARGET, run, timed

START = datetime.datetime(2026, 11, 10, tzinfo=datetime.timezone.utc)


def data(generate, minutes, lines):
    place = TARGET / f"bench-minutes-{minutes}x{lines}"
    if not (place / "done").exists():
        shutil.rmtree(place, ignore_errors=True)
        # Some 175 lines a session.
        sessions = minutes * lines // 175
        options = {
            "out": place, "seed": 72, "sessions": sessions, "pirates": sessions // 100, "mix": "wide",
            "start": f"{START:%Y-%m-%dT%H:%M:%SZ}", "duration": f"{minutes}m", "views": "4m..20m", "object-rows": lines,
        }
        run([generate, *(f"--{name}={value}" for name, value in options.items())])
        (place / "done").touch()
    return place


def config(place, work):
    return f"""[state]
location = "{work / 'state'}"
[[logs]]
location = "{work / 'logs'}"
lookback = "30d"
[[session]]
scheme = "secure-media-delivery"
[guard]
max_new_revocations = 100000
[geoip]
country = "{place / 'geoip/country.mmdb'}"
asn = "{place / 'geoip/asn.mmdb'}"
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", default="10,100,1000,10000")
    parser.add_argument("--lines", type=int, default=330, help="of an object")
    parser.add_argument("--news", type=int, default=5, help="passes with one new object each")
    arguments = parser.parse_args()
    lengths = [int(length) for length in arguments.objects.split(",")]

    run(["cargo", "build", "--release", "--bin", "streamwarden", "--example", "generate"], cwd=ROOT)
    place = data(TARGET / "release/examples/generate", max(lengths) + 60, arguments.lines)
    objects = sorted((place / "standard").glob("*.gz"), key=lambda file: (file.stat().st_mtime, file.name))
    print(f"{len(objects)} objects", file=sys.stderr)
    lines = [
        f"Measured {datetime.date.today()} on {os.cpu_count()} cores: objects of some {arguments.lines} lines, a minute each; "
        f"medians of {arguments.news} passes.",
        "",
        "| objects in the ledger | cold, seconds | one new, seconds (least to most) | of cold | nothing new, seconds | peak memory, cold and one new |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for length in lengths:
        work = TARGET / "bench-scheduled"
        shutil.rmtree(work, ignore_errors=True)
        (work / "logs").mkdir(parents=True)
        settings = work / "streamwarden.toml"
        settings.write_text(config(place, work))

        def arrive(some):
            for file in some:
                os.link(file, work / "logs" / file.name)

        def one_pass(known):
            now = datetime.datetime.fromtimestamp(objects[known - 1].stat().st_mtime + 60, datetime.timezone.utc)
            command = [str(TARGET / "release/streamwarden"), "run", "--output", "json", "--config", str(settings)]
            measured = timed([*command, "--now", f"{now:%Y-%m-%dT%H:%M:%SZ}"])
            if measured["code"] not in (0, 3):
                sys.exit(f"run ended with {measured['code']}: {measured['output']}")
            return measured

        arrive(objects[:length])
        cold = one_pass(length)
        news = []
        for number in range(arguments.news):
            arrive(objects[length + number:length + number + 1])
            news.append(one_pass(length + number + 1))
            print(length, cold["seconds"], news[-1]["seconds"], news[-1]["output"].strip(), file=sys.stderr)
        nothing = statistics.median(one_pass(length + arguments.news)["seconds"] for _ in range(3))
        seconds = [one["seconds"] for one in news]
        median = statistics.median(seconds)
        lines.append(
            f"| {length:,} | {cold['seconds']:.2f} | {median:.2f} ({min(seconds):.2f} to {max(seconds):.2f}) | {100 * median / cold['seconds']:.0f} % | "
            f"{nothing:.2f} | {cold['memory']:.0f} MB, {max(one['memory'] for one in news):.0f} MB |"
        )
    table = "\n".join(lines) + "\n"
    (ROOT / "benches/scheduled.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
