"""Runs an SQL text in DuckDB over local Delta tables and prints the rows of its last statement as JSON.

    duck.py --tables DIR [--table NAME=PATH]... [--params JSON] [--format json] < query.sql

Every Delta table at or below DIR becomes a view named like its folder; --table adds or renames
one; statements before the last may define more (CREATE TEMP TABLE takes parameters, a view does
not). Parameters are bound by name (`$name`); a text such as 2026-01-31T00:00:00Z is bound as a
timestamp with time zone, parameters that the SQL does not name are left out. The session's time
zone is UTC. Output is an array of objects: timestamps as RFC 3339 text with 0, 3 or 6 decimals
(`Z` if the column has a time zone), decimals as numbers, NaN and infinity as null.

Works without network: the PyPI package `duckdb-extension-delta` carries the extension file, signed
by DuckDB, which `LOAD 'path'` takes as it is; auto-install stays off.
"""

import argparse
import datetime
import decimal
import json
import math
import pathlib
import re
import sys

import duckdb
import duckdb_extension_delta

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


def connect():
    connection = duckdb.connect(config={"autoinstall_known_extensions": False, "autoload_known_extensions": False})
    (extension,) = pathlib.Path(duckdb_extension_delta.__file__).parent.glob("extensions/*/delta.duckdb_extension")
    connection.execute(f"LOAD {quoted(extension, chr(39))}")
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def quoted(text, mark):
    return mark + str(text).replace(mark, mark * 2) + mark


def find_tables(folder):
    """Delta tables at or below `folder` by name."""
    tables = {}
    for log in sorted(pathlib.Path(folder).resolve().rglob("_delta_log")):
        if log.parent.name in tables:
            raise SystemExit(f"two tables are named {log.parent.name}: {tables[log.parent.name]} and {log.parent}")
        tables[log.parent.name] = log.parent
    return tables


def parameter(value):
    if isinstance(value, str) and TIMESTAMP.fullmatch(value):
        return datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
    return value


def plain(value):
    """A value of a row as JSON has it."""
    if isinstance(value, datetime.datetime):
        precision = "microseconds" if value.microsecond % 1000 else "milliseconds" if value.microsecond else "seconds"
        if value.tzinfo is None:
            return value.isoformat(timespec=precision)
        return value.astimezone(datetime.timezone.utc).replace(tzinfo=None).isoformat(timespec=precision) + "Z"
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def run(sql, tables, params):
    connection = connect()
    for name, path in tables.items():
        view = f"CREATE VIEW {quoted(name, chr(34))} AS SELECT * FROM delta_scan({quoted(path, chr(39))})"
        connection.execute(view)
    found = connection.extract_statements(sql)
    if not found:
        raise SystemExit("no SQL statement on stdin")
    for statement in found:
        wanted = statement.named_parameters
        missing = sorted(wanted - params.keys())
        if missing:
            raise SystemExit(f"no value for the parameters {missing}")
        result = connection.execute(statement, {name: parameter(params[name]) for name in wanted})
    columns = [column[0] for column in result.description]
    if len(set(columns)) < len(columns):
        raise SystemExit(f"a column name occurs twice: {columns}")
    return [dict(zip(columns, map(plain, row))) for row in result.fetchall()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", required=True, metavar="DIR")
    parser.add_argument("--table", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--params", type=json.loads, default={}, metavar="JSON")
    parser.add_argument("--format", choices=["json"], default="json")
    arguments = parser.parse_args()
    tables = find_tables(arguments.tables)
    tables.update(table.split("=", 1) for table in arguments.table)
    try:
        rows = run(sys.stdin.read(), tables, arguments.params)
    except duckdb.Error as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
    json.dump(rows, sys.stdout, ensure_ascii=False, allow_nan=False)


if __name__ == "__main__":
    main()
