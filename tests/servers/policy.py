"""The statements of a role in a CloudFormation template, as JSON, with parameters and references in their place.

    python policy.py TEMPLATE ROLE

`!Ref`, `!Sub`, `!GetAtt` and `!If` become texts: a parameter LogBucket, LogPrefix, StateBucket, StatePrefix or NotifyTopic is
what tests/suite/deploy.rs has, everything else its own name. Of `!If` the first branch is taken.
"""

import json
import re
import sys

import yaml

VALUES = {
    "LogBucket": "log-bucket",
    "LogPrefix": "cdn/",
    "StateBucket": "state-bucket",
    "StatePrefix": "prod",
    "NotifyTopic": "arn:aws:sns:us-east-1:123456789012:notify-topic",
    "NotifyTopicArn": "arn:aws:sns:us-east-1:123456789012:notify-topic",
    "AWS::Partition": "aws",
    "AWS::Region": "us-east-1",
    "AWS::AccountId": "123456789012",
}


class Loader(yaml.SafeLoader):
    pass


def value_of(name):
    return VALUES.get(name, name)


def substituted(loader, node):
    text = node.value if isinstance(node, yaml.ScalarNode) else loader.construct_sequence(node, deep=True)[0]
    return re.sub(r"\$\{([^}!]+)\}", lambda found: value_of(found.group(1)), text)


def other(loader, suffix, node):
    if suffix == "Ref":
        return value_of(node.value)
    if suffix == "Sub":
        return substituted(loader, node)
    if suffix == "If":
        return loader.construct_sequence(node, deep=True)[1]
    if isinstance(node, yaml.ScalarNode):
        return f"{suffix}:{node.value}"
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_mapping(node, deep=True)


Loader.add_multi_constructor("!", other)


def listed(value):
    return value if isinstance(value, list) else [value]


def main():
    template, role = sys.argv[1:]
    with open(template, encoding="utf-8") as file:
        resources = yaml.load(file, Loader)["Resources"]
    statements = []
    for policy in resources[role]["Properties"]["Policies"]:
        for statement in listed(policy["PolicyDocument"]["Statement"]):
            statements.append({**statement, "Action": listed(statement["Action"]), "Resource": listed(statement["Resource"])})
    print(json.dumps(statements))


if __name__ == "__main__":
    main()
