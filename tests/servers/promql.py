"""Parses the expression of every alert in a file of Prometheus rules.

    python promql.py RULES

Fails with the alerts whose expression is none.
"""

import sys

import promql_parser
import yaml


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        rules = [rule for group in yaml.safe_load(file)["groups"] for rule in group["rules"]]
    wrong = []
    for rule in rules:
        try:
            promql_parser.parse(rule["expr"])
        except ValueError as error:
            wrong.append(f"{rule['alert']}: {error}: {rule['expr']}")
    if wrong or not rules:
        sys.exit("\n".join(wrong) or "no rules")


if __name__ == "__main__":
    main()
