#!/usr/bin/env python3
"""Times streamwarden against bare unpacking and against peers, side by side in one run, on the same files.

    python3 benches/whole.py [--gigabytes 1] [--runs 3] [--peers duckdb,polars,chdb,goaccess]

Makes the data (legacy logs in some sixty gzip files a gigabyte; see examples/generate), builds the release binary, and writes
benches/results.md and benches/results.svg. The peers come from PyPI into target/bench-venv; GoAccess is used where it is
installed. The peers answer one simple question (the hundred sessions with most addresses); streamwarden does all its work.
Ratios count: seconds depend on the machine.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PACKAGES = ["duckdb==2.0.0", "polars==2.1.0", "chdb==4.4.0"]
# Of the 33 fields of a legacy log, by position.
ADDRESS, PATH, STATUS = 4, 7, 8

QUESTION = {
    "duckdb": f"""
import duckdb, sys
files = sys.argv[1] + '/*.gz'
duckdb.sql("SET threads = 2")
names = {{f'c{{n:02}}': 'VARCHAR' for n in range(33)}}
rows = duckdb.sql(f'''
    SELECT split_part(substr(c{PATH:02}, 2), '.', 1) AS session, count(DISTINCT c{ADDRESS:02}) AS networks
    FROM read_csv('{{files}}', delim='\\t', header=false, quote='', escape='', comment='#', columns={{names}}, auto_detect=false, null_padding=true)
    WHERE c{STATUS:02} IN ('200', '206') GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 100''').fetchall()
print(len(rows))
""",
    "polars": f"""
import glob, polars, sys
frame = polars.scan_csv(sorted(glob.glob(sys.argv[1] + '/*.gz')), separator='\\t', has_header=False, quote_char=None, comment_prefix='#',
    new_columns=[f'c{{n:02}}' for n in range(33)], schema_overrides=[polars.String] * 33, infer_schema=False)
rows = (frame.filter(polars.col('c{STATUS:02}').is_in(['200', '206']))
    .select(polars.col('c{PATH:02}').str.slice(1).str.split('.').list.first().alias('session'), polars.col('c{ADDRESS:02}').alias('ip'))
    .group_by('session').agg(polars.col('ip').n_unique().alias('networks'))
    .sort(['networks', 'session'], descending=[True, False]).head(100).collect(engine='streaming'))
print(len(rows))
""",
    "chdb": f"""
import chdb, sys
structure = ', '.join(f'c{{n:02}} String' for n in range(33))
print(chdb.query(f'''
    SELECT splitByChar('.', substring(c{PATH:02}, 2))[1] AS session, uniqExact(c{ADDRESS:02}) AS networks
    FROM file('{{sys.argv[1]}}/*.gz', 'TSVRaw', '{{structure}}') WHERE c{STATUS:02} IN ('200', '206')
    GROUP BY session ORDER BY networks DESC, session LIMIT 100
    SETTINGS max_threads = 2, input_format_tsv_skip_first_lines = 2, input_format_allow_errors_num = 1000''', 'CSV'))
""",
}


def run(command, **options):
    print("+", " ".join(map(str, command)), file=sys.stderr)
    return subprocess.run(command, check=True, **options)


def timed(command):
    """Seconds, processor seconds and peak memory in MB of a command, and its output."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "seconds": seconds,
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss / 1024,
        "code": process.returncode,
        "output": output.decode(errors="replace"),
    }


def data(generate, gigabytes):
    """The folder of the logs and its GeoIP files."""
    place = TARGET / f"bench-data-{gigabytes}"
    if not (place / "done").exists():
        shutil.rmtree(place, ignore_errors=True)
        # Some 900 bytes a line, as the token is in the path, and 175 lines a session.
        sessions = int(gigabytes * 6_500)
        # Objects of 16 MB, whatever their number.
        rows = 22_800
        options = {
            "out": place, "seed": 71, "sessions": sessions, "pirates": sessions // 100, "mix": "wide",
            "start": "2026-11-20T18:00:00Z", "duration": "2h", "views": "4m..20m", "object-rows": rows,
        }
        run([generate, *(f"--{name}={value}" for name, value in options.items())])
        (place / "done").touch()
    return place


def config(place, state):
    return f"""now = "2026-11-20T21:00:00Z"
[state]
location = "{state}"
[[logs]]
location = "{place / 'standard'}"
[[session]]
scheme = "secure-media-delivery"
[geoip]
country = "{place / 'geoip/country.mmdb'}"
asn = "{place / 'geoip/asn.mmdb'}"
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peers", default="duckdb,polars,chdb,goaccess")
    arguments = parser.parse_args()
    peers = [peer for peer in arguments.peers.split(",") if peer]

    run(["cargo", "build", "--release", "--bin", "streamwarden", "--example", "generate"], cwd=ROOT)
    built = run(["cargo", "bench", "--bench", "unpack", "--no-run", "--message-format=json"], cwd=ROOT, stdout=subprocess.PIPE)
    unpack = [json.loads(line).get("executable") for line in built.stdout.splitlines()]
    unpack = [path for path in unpack if path and "/unpack-" in path][0]
    place = data(TARGET / "release/examples/generate", arguments.gigabytes)
    logs = place / "standard"
    files = sorted(logs.glob("*.gz"))

    contenders = {"unpack": [unpack, str(logs), "2"]}
    scratch = tempfile.TemporaryDirectory()
    settings = pathlib.Path(scratch.name) / "bench.toml"
    settings.write_text(config(place, scratch.name + "/state"))
    contenders["streamwarden replay"] = [str(TARGET / "release/streamwarden"), "replay", "--config", str(settings), "--output", "json"]
    if set(peers) & set(QUESTION):
        venv = TARGET / "bench-venv"
        if not (venv / "done").exists():
            run([sys.executable, "-m", "venv", venv])
            run([venv / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES])
            (venv / "done").touch()
        for peer in peers:
            if peer in QUESTION:
                contenders[peer] = [str(venv / "bin/python"), "-c", QUESTION[peer], str(logs)]
    if "goaccess" in peers and shutil.which("goaccess"):
        contenders["goaccess"] = ["sh", "-c", f"zcat {logs}/*.gz | goaccess - --log-format=CLOUDFRONT -o /dev/null --no-progress"]

    results = {name: [] for name in contenders}
    for number in range(arguments.runs):
        for name, command in contenders.items():
            if name == "goaccess" and number > 0:
                continue
            measured = timed(command)
            print(f"{name}: {measured['seconds']:.2f} s, exit {measured['code']}", file=sys.stderr)
            results[name].append(measured)
    write(results, files, arguments)


def write(results, files, arguments):
    unpacked = json.loads(results["unpack"][0]["output"])
    median = {name: statistics.median(one["seconds"] for one in runs) for name, runs in results.items()}
    limit = statistics.median(json.loads(one["output"])["seconds"] for one in results["unpack"])
    median["unpack"] = limit
    packed = sum(file.stat().st_size for file in files)
    replayed = json.loads(results["streamwarden replay"][-1]["output"] or "{}")
    lines = [
        f"Measured {datetime.date.today()} on {os.cpu_count()} cores ({platform.machine()}), median of {arguments.runs}: "
        f"{unpacked['bytes'] / 1e9:.2f} GB of legacy logs, {unpacked['lines']:,} lines, in {len(files)} gzip files of "
        f"{packed / 1e6:.0f} MB together; {replayed.get('sessions', 0):,} sessions.",
        "",
        "| what | seconds (least to most) | of bare unpacking | processor seconds | peak memory |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in sorted(median, key=median.get):
        runs = results[name]
        if any(one["code"] not in (0, 3) for one in runs):
            lines.append(f"| {name} | failed | | | |")
            continue
        spread = [one["seconds"] for one in runs]
        lines.append(
            f"| {name} | {median[name]:.2f} ({min(spread):.2f} to {max(spread):.2f}) | {median[name] / limit:.1f} | "
            f"{statistics.median(one['cpu'] for one in runs):.1f} | {max(one['memory'] for one in runs):.0f} MB |"
        )
    table = "\n".join(lines) + "\n"
    (ROOT / "benches/results.md").write_text(table)
    (ROOT / "benches/results.svg").write_text(chart(median))
    print(table)


def chart(median):
    """Bars, the quickest first."""
    names = sorted(median, key=median.get)
    longest = max(median.values())
    bars = []
    for row, name in enumerate(names):
        width = max(1, 460 * median[name] / longest)
        colour = "#0b6e4f" if name.startswith("streamwarden") else "#8a8f98"
        bars.append(
            f'<text x="150" y="{30 * row + 26}" text-anchor="end">{name}</text>'
            f'<rect x="160" y="{30 * row + 12}" width="{width:.0f}" height="20" fill="{colour}"/>'
            f'<text x="{width + 166:.0f}" y="{30 * row + 26}">{median[name]:.2f} s</text>'
        )
    height = 30 * len(names) + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="720" height="{height}" font-family="sans-serif" font-size="13">'
        f'<rect width="720" height="{height}" fill="white"/>' + "".join(bars) + "</svg>\n"
    )


if __name__ == "__main__":
    main()
