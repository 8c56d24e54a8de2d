#!/usr/bin/env python3
"""The daemon against the test servers for real time: state, logs and rule group at a strict moto.

    python3 benches/soak.py BINARY [--minutes 60] [--every 5s] [--out FOLDER]

Writes a log object of live traffic every few seconds, scrapes /metrics, /healthz and the memory of the process, ends it with
SIGTERM, and says what it saw: memory over time, passes against the schedule, rows against what was written, the slowest answer.
The servers are installed into target/soak-venv: that of the tests may be made anew meanwhile.
"""

import argparse
import base64
import datetime
import gzip
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / "target/soak-venv"
PYTHON = VENV / "bin/python"
HEADER = (
    "#Version: 1.0\n#Fields: date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status cs(Referer) "
    "cs(User-Agent) cs-uri-query cs(Cookie) x-edge-result-type x-edge-request-id\n"
)


def encoded(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


class Traffic:
    """Homes that each watch something, and now and then a session that many networks share."""

    def __init__(self, sessions):
        self.random = random.Random(1)
        self.sessions = [self.session() for _ in range(sessions)]
        self.lines = 0

    def session(self):
        name = "".join(self.random.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=12))
        token = f"{name}.{encoded({'alg': 'HS256'})}.{encoded({'ssn': True, 'exp': 2_000_000_000})}.c2lnbmF0dXJl"
        networks = 30 if self.random.random() < 0.01 else 1
        addresses = [f"198.{self.random.randrange(18, 20)}.{self.random.randrange(256)}.{self.random.randrange(256)}" for _ in range(networks)]
        return {"token": token, "addresses": addresses, "segment": 0, "asset": self.random.randrange(50)}

    def object(self, now, seconds):
        lines = [HEADER]
        for second in range(seconds):
            at = now - datetime.timedelta(seconds=seconds - second)
            for number, session in enumerate(self.sessions):
                if (number + int(at.timestamp())) % 4:
                    continue
                session["segment"] += 1
                for address in session["addresses"] if len(session["addresses"]) > 1 else session["addresses"][:1]:
                    path = f"/{session['token']}/live/{session['asset']}/720p/s{session['segment']}.ts"
                    lines.append(
                        f"{at:%Y-%m-%d}\t{at:%H:%M:%S}\tFRA2\t50000\t{address}\tGET\td1.cloudfront.net\t{path}\t200\t-\tPlayer/{number % 7}"
                        f"\t-\t-\tHit\t{self.lines + len(lines)}\n"
                    )
        # Viewers leave, others come.
        self.sessions[self.random.randrange(len(self.sessions))] = self.session()
        self.lines += len(lines) - 1
        return gzip.compress("".join(lines).encode())


def get(port, path):
    begun = time.monotonic()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        text = answer.read().decode()
    return text, time.monotonic() - begun


def metric(text, name):
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=int, default=5, help="seconds between passes, and between log objects")
    parser.add_argument("--sessions", type=int, default=400)
    parser.add_argument("--port", type=int, default=19_464)
    parser.add_argument("--out", default="/tmp/soak")
    arguments = parser.parse_args()
    out = pathlib.Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)

    if not (VENV / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        packages = ["-r", ROOT / "tests/servers/requirements.txt"]
        subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], check=True)
        (VENV / "done").touch()
    server = subprocess.Popen(
        [PYTHON, ROOT / "tests/servers/strict_moto.py", "--until-stdin-closes"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=(out / "moto.log").open("wb"),
    )
    endpoint = "http://127.0.0.1:" + server.stdout.readline().split()[-1].decode()
    env = os.environ | {
        "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    os.environ.update(env)
    sys.path[:0] = [str(path) for path in (VENV / "lib").glob("python3*/site-packages")]
    import boto3

    s3, waf = (boto3.client(name, region_name="us-east-1") for name in ("s3", "wafv2"))
    for bucket in ("logs", "state"):
        s3.create_bucket(Bucket=bucket)
    visibility = {"SampledRequestsEnabled": False, "CloudWatchMetricsEnabled": False, "MetricName": "soak"}
    group = waf.create_rule_group(Name="soak", Scope="CLOUDFRONT", Capacity=1000, VisibilityConfig=visibility)["Summary"]
    config = out / "streamwarden.toml"
    config.write_text(
        f"[state]\nlocation = 's3://state/'\n[[logs]]\nlocation = 's3://logs/'\n[[session]]\nscheme = 'secure-media-delivery'\n"
        f"[waf]\nname = 'soak'\nid = '{group['Id']}'\n[schedule]\nevery = '{arguments.every}s'\n"
        f"[guard]\nmax_new_revocations = 100000\n[http]\nlisten = '127.0.0.1:{arguments.port}'\n"
    )
    daemon = subprocess.Popen(
        [arguments.binary, "daemon", "--config", config, "--log-format", "json"],
        stderr=(out / "daemon.log").open("wb"), env=env,
    )
    begun = time.monotonic()
    traffic, samples, slowest, number = Traffic(arguments.sessions), [], 0.0, 0
    next_at = begun + 2
    while time.monotonic() < begun + arguments.minutes * 60:
        time.sleep(max(0, next_at - time.monotonic()))
        next_at += arguments.every
        now = datetime.datetime.now(datetime.timezone.utc)
        number += 1
        # The last two minutes only drain.
        if time.monotonic() < begun + arguments.minutes * 60 - 120:
            s3.put_object(Bucket="logs", Key=f"E1SOAK.{now:%Y-%m-%d-%H}.{number:08x}.gz", Body=traffic.object(now, arguments.every))
        if daemon.poll() is not None:
            sys.exit(f"the daemon ended with {daemon.returncode}")
        text, took = get(arguments.port, "/metrics")
        slowest = max(slowest, took, get(arguments.port, "/healthz")[1])
        sample = {
            "minutes": (time.monotonic() - begun) / 60,
            "megabytes": metric(text, "streamwarden_resident_memory_bytes") / 1e6,
            "passes": metric(text, "streamwarden_passes_total"),
            "missed": metric(text, "streamwarden_schedule_missed_total"),
            "rows": metric(text, 'streamwarden_rows_total{kind="read"}'),
            "errors": metric(text, "streamwarden_errors_total"),
            "active": metric(text, "streamwarden_active_revocations"),
            "seconds": metric(text, 'streamwarden_stage_seconds_sum{stage="total"}'),
        }
        samples.append(sample)
        with (out / "samples.jsonl").open("a") as file:
            file.write(json.dumps(sample) + "\n")
    asked = time.monotonic()
    daemon.send_signal(signal.SIGTERM)
    code, ending = daemon.wait(60), time.monotonic() - asked
    seconds = time.monotonic() - begun
    last = samples[-1]
    print(f"{seconds / 60:.1f} minutes, {number} log objects, {traffic.lines} lines written, {last['rows']:.0f} read")
    print(f"{last['passes']:.0f} passes and {last['missed']:.0f} missed of {seconds / arguments.every:.0f} times; {last['errors']:.0f} errors; "
          f"{last['seconds'] / max(1, last['passes']):.2f} s a pass")
    for part in range(6):
        of_part = samples[part * len(samples) // 6:(part + 1) * len(samples) // 6]
        print(f"  to minute {of_part[-1]['minutes']:5.1f}: {min(s['megabytes'] for s in of_part):.0f} to "
              f"{max(s['megabytes'] for s in of_part):.0f} MB, {of_part[-1]['active']:.0f} active, "
              f"{(of_part[-1]['seconds'] - of_part[0]['seconds']) / max(1, of_part[-1]['passes'] - of_part[0]['passes']):.2f} s a pass")
    print(f"slowest answer of /metrics or /healthz: {slowest * 1000:.0f} ms; ended {ending:.1f} s after SIGTERM with {code}")
    server.stdin.close()
    if last["rows"] != traffic.lines or code != 0 or last["errors"]:
        sys.exit("NOT as it should be")


if __name__ == "__main__":
    main()
