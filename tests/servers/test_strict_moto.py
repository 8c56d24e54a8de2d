"""Proves, call by call, that strict_moto.py is as strict as the AWS documentation says.

    python tests/servers/test_strict_moto.py

Each test starts from a fresh rule group on one shared server. Section numbers are those of the
project's digest of the AWS pages (aws-facts.md), as in waf_rules.py.
"""

import copy
import itertools
import json
import os
import pathlib
import subprocess
import sys
import threading
import unittest
import urllib.error
import urllib.request

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

HERE = pathlib.Path(__file__).parent
VISIBILITY = {"SampledRequestsEnabled": False, "CloudWatchMetricsEnabled": False, "MetricName": "streamwarden"}
NONE = [{"Priority": 0, "Type": "NONE"}]
LOWERCASE = [{"Priority": 0, "Type": "LOWERCASE"}]
URI = {"UriPath": {}}


def present(**members):
    """The members that are not None, to leave one out of a request."""
    return {name: value for name, value in members.items() if value is not None}


def byte_match(text=b"/abc/", position="STARTS_WITH", field=URI, transformations=NONE):
    return {
        "ByteMatchStatement": present(
            SearchString=text,
            FieldToMatch=field,
            TextTransformations=transformations,
            PositionalConstraint=position,
        )
    }


def regex_match(pattern, field=URI, transformations=NONE):
    return {
        "RegexMatchStatement": {
            "RegexString": pattern,
            "FieldToMatch": field,
            "TextTransformations": transformations,
        }
    }


def either(*statements):
    return {"OrStatement": {"Statements": list(statements)}}


def rule(statement=None, name="rule", priority=0, **members):
    whole = {
        "Name": name,
        "Priority": priority,
        "Statement": statement or byte_match(),
        "Action": {"Block": {}},
        "VisibilityConfig": VISIBILITY,
    }
    return present(**{**whole, **members})


def rules(*statements):
    return [rule(statement, f"rule-{number}", number) for number, statement in enumerate(statements)]


class StrictMotoTest(unittest.TestCase):
    numbers = itertools.count()

    @classmethod
    def setUpClass(cls):
        # A server that is already there may be given, to see which checks plain moto fails.
        cls.url = os.environ.get("STRICT_MOTO_URL")
        if not cls.url:
            cls.server = subprocess.Popen(
                [sys.executable, HERE / "strict_moto.py", "--until-stdin-closes"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            cls.url = f"http://127.0.0.1:{cls.server.stdout.readline().split()[-1]}"
        cls.waf = cls.client("wafv2", "us-east-1")
        cls.s3 = cls.client("s3", "eu-west-1")

    @classmethod
    def tearDownClass(cls):
        if "STRICT_MOTO_URL" not in os.environ:
            cls.server.stdin.close()
            assert cls.server.wait(timeout=10) == 0
            cls.server.stdout.close()

    @classmethod
    def client(cls, service, region):
        return boto3.client(
            service,
            region_name=region,
            endpoint_url=cls.url,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            # Bad requests must reach the server, and its first answer is wanted.
            config=Config(parameter_validation=False, retries={"total_max_attempts": 1}),
        )

    def setUp(self):
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/moto-api/reset", method="POST")).close()

    def control(self, method, what, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/streamwarden-test/{what}", data, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def create(self, name="group", capacity=100, **members):
        """Creates a group and returns the members that name it in later calls."""
        members = {"Rules": [], "VisibilityConfig": VISIBILITY, "Scope": "CLOUDFRONT", **members}
        summary = self.waf.create_rule_group(**present(Name=name, Capacity=capacity, **members))["Summary"]
        return {"Name": name, "Scope": members["Scope"], "Id": summary["Id"]}, summary["LockToken"], summary["ARN"]

    def update(self, group, token, **members):
        members = {"VisibilityConfig": VISIBILITY, **members}
        return self.waf.update_rule_group(**group, LockToken=token, **members)["NextLockToken"]

    def capacity(self, *statements):
        return self.waf.check_capacity(Scope="CLOUDFRONT", Rules=rules(*statements))["Capacity"]

    def refused(self, code, call, *args, **kwargs):
        """Asserts that the call fails with the code; returns the error's members."""
        with self.assertRaises(ClientError) as caught:
            call(*args, **kwargs)
        response = caught.exception.response
        self.assertEqual(response["Error"]["Code"], code, response["Error"].get("Message"))
        return response

    def refused_parameter(self, field, call, *args, **kwargs):
        response = self.refused("WAFInvalidParameterException", call, *args, **kwargs)
        self.assertEqual(response["Field"], field)
        self.assertEqual(
            response["message"],
            f"Error reason: {response['Reason']}, field: {field}, parameter: {response['Parameter']}",
        )
        return response

    def refused_rule(self, field, statement):
        """The statement is refused wherever rules are taken."""
        group, token, _ = self.create(f"group-{next(self.numbers)}")
        given = rules(statement)
        self.refused_parameter(field, self.waf.check_capacity, Scope="CLOUDFRONT", Rules=given)
        self.refused_parameter(field, self.update, group, token, Rules=given)
        return self.refused_parameter(field, self.create, "other", Rules=given)

    def invalid(self, place, call, *args, **kwargs):
        """Asserts a breach of the API model at the place."""
        response = self.refused("ValidationException", call, *args, **kwargs)
        self.assertIn(f"at '{place}' failed to satisfy constraint", response["Error"]["Message"])

    def invalid_rule(self, place, given):
        self.invalid(f"rules.1.member{place}", self.waf.check_capacity, Scope="CLOUDFRONT", Rules=[given])

    # 4.3 capacity

    def test_units_of_each_statement(self):
        for position, units in [("STARTS_WITH", 2), ("EXACTLY", 2), ("ENDS_WITH", 2), ("CONTAINS", 10)]:
            self.assertEqual(self.capacity(byte_match(position=position)), units)
        self.assertEqual(self.capacity(byte_match(b"abc", "CONTAINS_WORD")), 10)
        self.assertEqual(self.capacity(regex_match("^/(?:a|b)/")), 3)
        self.assertEqual(self.capacity({"GeoMatchStatement": {"CountryCodes": ["DE"]}}), 1)
        self.assertEqual(self.capacity({"AsnMatchStatement": {"AsnList": [64496]}}), 1)
        self.assertEqual(self.capacity({"LabelMatchStatement": {"Scope": "LABEL", "Key": "a:b"}}), 1)
        size = {"FieldToMatch": URI, "ComparisonOperator": "GT", "Size": 9, "TextTransformations": NONE}
        self.assertEqual(self.capacity({"SizeConstraintStatement": size}), 1)
        self.assertEqual(self.capacity({"RateBasedStatement": {"Limit": 100, "AggregateKeyType": "IP"}}), 2)
        self.assertEqual(self.capacity(byte_match(field={"AllQueryArguments": {}})), 12)

    def test_units_of_references(self):
        ips = self.waf.create_ip_set(
            Name="ips", Scope="CLOUDFRONT", IPAddressVersion="IPV4", Addresses=["192.0.2.0/24"]
        )["Summary"]
        self.assertEqual(self.capacity({"IPSetReferenceStatement": {"ARN": ips["ARN"]}}), 1)
        patterns = self.waf.create_regex_pattern_set(
            Name="patterns", Scope="CLOUDFRONT", RegularExpressionList=[{"RegexString": "a"}]
        )["Summary"]
        by_set = {"ARN": patterns["ARN"], "FieldToMatch": URI, "TextTransformations": NONE}
        self.assertEqual(self.capacity({"RegexPatternSetReferenceStatement": by_set}), 25)
        # 4.6: referenced sets must exist, and in the same scope (4.1)
        missing = {"IPSetReferenceStatement": {"ARN": ips["ARN"][:-1] + "x"}}
        self.refused("WAFNonexistentItemException", self.capacity, missing)
        regional = {"Scope": "REGIONAL", "Rules": rules({"IPSetReferenceStatement": {"ARN": ips["ARN"]}})}
        self.refused("WAFNonexistentItemException", self.waf.check_capacity, **regional)

    def test_logic_sums_its_children(self):
        self.assertEqual(self.capacity(either(byte_match(), regex_match("a"))), 5)
        self.assertEqual(self.capacity({"NotStatement": {"Statement": byte_match()}}), 2)
        nested = {"AndStatement": {"Statements": [either(byte_match(), byte_match()), regex_match("a")]}}
        self.assertEqual(self.capacity(nested, byte_match()), 9)

    def test_transformation_is_charged_once_per_component(self):
        many = [byte_match(transformations=LOWERCASE) for _ in range(100)]
        self.assertEqual(self.capacity(*many), 210)
        header = {"SingleHeader": {"Name": "host"}}
        self.assertEqual(self.capacity(many[0], byte_match(field=header, transformations=LOWERCASE)), 24)
        two = LOWERCASE + [{"Priority": 1, "Type": "URL_DECODE"}]
        self.assertEqual(self.capacity(byte_match(transformations=two)), 22)

    def test_capacity_is_enforced(self):
        six = rules(byte_match(), byte_match(), byte_match())
        response = self.refused_parameter("RULE_GROUP", self.create, capacity=5, Rules=six)
        self.assertEqual(response["Parameter"], "6")
        self.assertEqual(response["Reason"], "You exceeded the capacity limit for a rule group or web ACL.")
        group, token, arn = self.create(capacity=5)
        response = self.refused_parameter("RULE_GROUP", self.update, group, token, Rules=six)
        self.assertEqual(response["Parameter"], "6")
        token = self.update(group, token, Rules=six[:2])  # the refused update took nothing
        # Capacity cannot change: update has no such member, AWS ignores unknown ones.
        self.assertEqual(self.waf.get_rule_group(ARN=arn)["RuleGroup"]["Capacity"], 5)
        self.refused_parameter("RULE_GROUP", self.create, "huge", capacity=5001)
        self.create("largest", capacity=5000)

    # 4.6 update, lock tokens, reading

    def test_rules_come_back_as_sent(self):
        bodies = {"gone": {"ContentType": "TEXT_PLAIN", "Content": "gone"}}
        block = {"Block": {"CustomResponse": {"ResponseCode": 403, "CustomResponseBodyKey": "gone"}}}
        sent = rules(byte_match(b"\x00\xff/"), either(byte_match(), regex_match("a")))
        sent[1].update(Action=block, RuleLabels=[{"Name": "streamwarden:shared"}])
        group, token, _ = self.create(Rules=sent, CustomResponseBodies=bodies, Description="Shared sessions")
        read = self.waf.get_rule_group(**group)
        self.assertEqual(read["RuleGroup"]["Rules"], sent)  # and no null members
        self.assertEqual(read["RuleGroup"]["CustomResponseBodies"], bodies)
        self.assertEqual(read["RuleGroup"]["Description"], "Shared sessions")
        self.assertEqual(read["LockToken"], token)

    def test_update_empties_the_group(self):
        for empty in ({"Rules": []}, {}):
            group, token, arn = self.create(f"group{len(empty)}", Rules=rules(byte_match()))
            self.update(group, token, **empty)
            self.assertEqual(self.waf.get_rule_group(ARN=arn)["RuleGroup"]["Rules"], [])

    def test_update_replaces_all_settings(self):
        bodies = {"gone": {"ContentType": "TEXT_PLAIN", "Content": "gone"}}
        group, token, _ = self.create(CustomResponseBodies=bodies, Description="Shared sessions")
        self.update(group, token, VisibilityConfig={**VISIBILITY, "MetricName": "other"})
        read = self.waf.get_rule_group(**group)["RuleGroup"]
        self.assertNotIn("CustomResponseBodies", read)
        self.assertFalse(read.get("Description"))
        self.assertEqual(read["VisibilityConfig"]["MetricName"], "other")

    def test_stale_lock_token(self):
        group, old, _ = self.create(Rules=rules(byte_match()))
        new = self.update(group, old, Rules=rules(regex_match("a")))
        self.assertNotEqual(old, new)
        self.refused("WAFOptimisticLockException", self.update, group, old, Rules=[])
        self.refused("WAFOptimisticLockException", self.waf.delete_rule_group, **group, LockToken=old)
        self.assertEqual(len(self.waf.get_rule_group(**group)["RuleGroup"]["Rules"]), 1)
        self.waf.delete_rule_group(**group, LockToken=new)
        self.refused("WAFNonexistentItemException", self.waf.get_rule_group, **group)

    def test_one_of_concurrent_updates_wins(self):
        group, token, _ = self.create()
        outcomes = []

        def attempt():
            try:
                outcomes.append(self.update(group, token, Rules=rules(byte_match())))
            except ClientError as error:
                outcomes.append(error.response["Error"]["Code"])

        threads = [threading.Thread(target=attempt) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        self.assertEqual(outcomes.count("WAFOptimisticLockException"), 7, outcomes)

    def test_get_by_arn(self):
        _, token, arn = self.create()
        self.assertRegex(arn, "^arn:aws:wafv2:us-east-1:[0-9]{12}:global/rulegroup/group/")
        self.assertEqual(self.waf.get_rule_group(ARN=arn)["LockToken"], token)

    def test_duplicates(self):
        self.create()
        self.refused("WAFDuplicateItemException", self.create)
        twice = [rule(name="same", priority=0), rule(name="same", priority=1)]
        self.refused("WAFDuplicateItemException", self.create, "other", Rules=twice)
        twice = [rule(name="one", priority=7), rule(name="two", priority=7)]
        self.assertEqual(self.refused_parameter("RULE", self.create, "other", Rules=twice)["Parameter"], "7")

    def test_group_in_use_stays(self):
        group, token, arn = self.create()
        refer = rule({"RuleGroupReferenceStatement": {"ARN": arn}}, Action=None, OverrideAction={"None": {}})
        acl = {"Name": "acl", "Scope": "CLOUDFRONT"}
        created = self.waf.create_web_acl(
            **acl, DefaultAction={"Allow": {}}, VisibilityConfig=VISIBILITY, Rules=[refer]
        )["Summary"]
        self.refused("WAFAssociatedItemException", self.waf.delete_rule_group, **group, LockToken=token)
        self.waf.delete_web_acl(**acl, Id=created["Id"], LockToken=created["LockToken"])
        self.waf.delete_rule_group(**group, LockToken=token)

    def test_number_of_groups(self):
        for number in range(100):
            self.create(f"group-{number}", capacity=1)
        self.refused("WAFLimitsExceededException", self.create, "one-more")

    # 4.1 scope

    def test_cloudfront_scope_is_served_by_us_east_1_only(self):
        group, token, arn = self.create()
        elsewhere = self.client("wafv2", "eu-west-1")
        calls = [
            (elsewhere.get_rule_group, group),
            (elsewhere.list_rule_groups, {"Scope": "CLOUDFRONT"}),
            (elsewhere.check_capacity, {"Scope": "CLOUDFRONT", "Rules": rules(byte_match())}),
            (elsewhere.delete_rule_group, {**group, "LockToken": token}),
            (elsewhere.update_rule_group, {**group, "LockToken": token, "VisibilityConfig": VISIBILITY}),
            (
                elsewhere.create_rule_group,
                {"Name": "x", "Scope": "CLOUDFRONT", "Capacity": 1, "VisibilityConfig": VISIBILITY},
            ),
        ]
        for call, members in calls:
            response = self.refused_parameter("SCOPE_VALUE", call, **members)
            self.assertEqual(response["Reason"], "The scope is not valid.")
        self.refused_parameter("RESOURCE_ARN", elsewhere.get_rule_group, ARN=arn)

    def test_regional_groups_are_apart(self):
        self.create()
        group, token, arn = self.create(Scope="REGIONAL")
        self.assertEqual(self.waf.get_rule_group(ARN=arn)["RuleGroup"]["Id"], group["Id"])
        self.assertEqual(len(self.waf.list_rule_groups(Scope="CLOUDFRONT")["RuleGroups"]), 1)

    # 4.7 names

    def test_names(self):
        for name in ("", "a" * 129, "a b", "a.b", "ä"):
            self.invalid("name", self.create, name)
            self.invalid_rule(".name", rule(name=name))
        self.create("A-z_0" + "a" * 123)

    def test_metric_names(self):
        for name in ("a.b", "a" * 129, "All", "Default_Action"):
            visibility = {**VISIBILITY, "MetricName": name}
            self.refused_parameter("METRIC_NAME", self.create, VisibilityConfig=visibility)
            given = [rule(VisibilityConfig=visibility)]
            self.refused_parameter("METRIC_NAME", self.create, Rules=given)
        self.invalid("visibilityConfig.metricName", self.create, VisibilityConfig={**VISIBILITY, "MetricName": "a b"})

    def test_descriptions(self):
        for text in ("", "ab", "a" * 257, "with (parentheses)", "a;b;c", "100 %", " lead", "trail "):
            self.invalid("description", self.create, Description=text)
            group, token, _ = self.create("group-" + str(abs(hash(text))))
            self.invalid("description", self.update, group, token, Description=text)
        self.create(Description="Shared playback sessions, owner: streamwarden")

    def test_required_members(self):
        self.invalid("visibilityConfig", self.create, VisibilityConfig=None)
        self.invalid("capacity", self.create, capacity=None)
        self.invalid("capacity", self.create, capacity=0)
        for member in ("Name", "Priority", "Statement", "VisibilityConfig"):
            given = {key: value for key, value in rule().items() if key != member}
            self.invalid_rule("." + member[0].lower() + member[1:], given)
        for member in VISIBILITY:
            given = rule(VisibilityConfig={key: value for key, value in VISIBILITY.items() if key != member})
            self.invalid_rule(".visibilityConfig." + member[0].lower() + member[1:], given)
        group, token, _ = self.create()
        self.invalid("lockToken", self.waf.update_rule_group, **group, VisibilityConfig=VISIBILITY)
        self.invalid("lockToken", self.update, group, "not-a-token")
        self.invalid("scope", self.waf.list_rule_groups, Scope="cloudfront")

    def test_priorities(self):
        self.invalid_rule(".priority", rule(priority=-1))
        for wrong in (1.5, True, "1"):
            refused = self.send_raw("CheckCapacity", {"Scope": "CLOUDFRONT", "Rules": [self.raw(priority=wrong)]})
            self.assertEqual(refused["__type"], "SerializationException")
        self.create(Rules=[rule(name="a", priority=2**31 - 1), rule(name="b", priority=5)])

    def raw(self, **members):
        """A rule as it is on the wire."""
        given = copy.deepcopy(rule(**members))
        given["Statement"]["ByteMatchStatement"]["SearchString"] = "L2FiYy8="
        return given

    def send_raw(self, operation, body):
        """Sends what no client library would; returns the answer's JSON whatever its status."""
        headers = {
            "X-Amz-Target": f"AWSWAF_20190729.{operation}",
            "Content-Type": "application/x-amz-json-1.1",
            "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/wafv2/aws4_request, "
            "SignedHeaders=host, Signature=0",
        }
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url, data, headers)) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return json.load(error)

    def test_every_failure_is_json(self):
        self.assertEqual(self.send_raw("NoSuchOperation", {})["__type"], "UnknownOperationException")
        self.assertEqual(self.send_raw("CheckCapacity", b"{")["__type"], "SerializationException")
        # An operation that moto does not have.
        self.assertIn(
            "__type", self.send_raw("DescribeManagedProductsByVendor", {"VendorName": "AWS", "Scope": "CLOUDFRONT"})
        )
        # A request that moto fails on.
        self.assertEqual(
            self.send_raw("ListTagsForResource", {"ResourceARN": "a" * 20})["__type"], "WAFInternalErrorException"
        )
        not_base64 = self.raw()
        not_base64["Statement"]["ByteMatchStatement"]["SearchString"] = "/abc/"
        answer = self.send_raw("CheckCapacity", {"Scope": "CLOUDFRONT", "Rules": [not_base64]})
        self.assertEqual(answer["__type"], "SerializationException")
        # Unknown members are ignored, at the top and within a rule.
        answer = self.send_raw(
            "CreateRuleGroup",
            {
                "Name": "x",
                "Scope": "CLOUDFRONT",
                "Capacity": 9,
                "VisibilityConfig": VISIBILITY,
                "Rules": [{**self.raw(), "NewMember": 1, "CaptchaConfig": None}],
                "NewMember": 1,
            },
        )
        self.assertIn("Summary", answer)

    # 4.5 statements

    def test_exactly_one_action(self):
        for action in ({}, {"Block": {}, "Count": {}}):
            self.refused_parameter("RULE_ACTION", self.create, Rules=[rule(Action=action)])
        self.refused_parameter("RULE", self.create, Rules=[rule(Action=None)])
        self.refused_parameter("RULE", self.create, Rules=[rule(OverrideAction={"None": {}})])

    def test_exactly_one_member(self):
        self.refused_rule("STATEMENT", {**byte_match(), **regex_match("a")})
        group, token, _ = self.create("empty")
        empty = rule()
        empty["Statement"] = {}
        self.refused_parameter("STATEMENT", self.update, group, token, Rules=[empty])

    def test_field_has_exactly_one_member(self):
        self.refused_rule("FIELD_TO_MATCH", byte_match(field={}))
        self.refused_rule("FIELD_TO_MATCH", byte_match(field={"UriPath": {}, "QueryString": {}}))

    def test_or_needs_two_children(self):
        response = self.refused_rule("OR_STATEMENT", either(byte_match()))
        self.assertTrue(response["Reason"].startswith("You haven't met a minimum requirement"))

    def test_and_needs_two_children(self):
        self.refused_rule("AND_STATEMENT", {"NotStatement": {"Statement": {"AndStatement": {"Statements": []}}}})

    def test_no_groups_in_groups(self):
        self.refused_rule("RULE", {"RuleGroupReferenceStatement": {"ARN": "arn:aws:wafv2:us-east-1:1:global/x"}})

    def test_rate_limits_are_not_nested(self):
        rate = {"RateBasedStatement": {"Limit": 100, "AggregateKeyType": "IP"}}
        self.refused_rule("RATE_BASED_STATEMENT", {"NotStatement": {"Statement": rate}})

    def test_search_strings(self):
        self.create("longest", Rules=rules(byte_match(b"a" * 200)))
        self.refused_rule("BYTE_MATCH_STATEMENT", byte_match(b"a" * 201))

    def test_search_string_is_not_empty(self):
        self.refused_rule("BYTE_MATCH_STATEMENT", byte_match(b""))

    def test_contains_word_takes_word_characters(self):
        self.refused_rule("BYTE_MATCH_STATEMENT", byte_match(b"a-b", "CONTAINS_WORD"))

    def test_transformations(self):
        place = ".statement.byteMatchStatement.textTransformations"
        self.invalid_rule(place, rule(byte_match(transformations=[])))
        self.invalid_rule(place, rule(byte_match(transformations=None)))
        self.invalid_rule(
            place + ".1.member.type", rule(byte_match(transformations=[{"Priority": 0, "Type": "UPPER"}]))
        )
        eleven = [{"Priority": number, "Type": "LOWERCASE"} for number in range(11)]
        self.refused("WAFLimitsExceededException", self.capacity, byte_match(transformations=eleven))
        self.refused_rule("TEXT_TRANSFORMATION", byte_match(transformations=LOWERCASE + NONE))

    def test_query_argument_and_header_names(self):
        def argument(length):
            return byte_match(field={"SingleQueryArgument": {"Name": "a" * length}})

        self.assertEqual(self.capacity(argument(30)), 2)
        self.refused_rule("SINGLE_QUERY_ARGUMENT", argument(31))
        self.assertEqual(self.capacity(byte_match(field={"SingleHeader": {"Name": "a" * 64}})), 2)
        self.invalid_rule(
            ".statement.byteMatchStatement.fieldToMatch.singleHeader.name",
            rule(byte_match(field={"SingleHeader": {"Name": "a" * 65}})),
        )

    def test_oversize_handling(self):
        for kind in ("Cookies", "Headers"):
            field = {kind: {"MatchPattern": {"All": {}}, "MatchScope": "VALUE"}}
            self.refused("WAFConfigurationWarningException", self.capacity, byte_match(field=field))
            field[kind]["OversizeHandling"] = "CONTINUE"
            self.assertEqual(self.capacity(byte_match(field=field)), 2)
            field[kind]["MatchPattern"] = {}
            self.refused("WAFInvalidParameterException", self.capacity, byte_match(field=field))
        field = {"Cookies": {"MatchPattern": {"IncludedCookies": ["a" * 61]}, "MatchScope": "VALUE"}}
        self.refused("ValidationException", self.capacity, byte_match(field=field))

    def test_counted_quotas(self):
        countries = {"GeoMatchStatement": {"CountryCodes": [f"{a}{b}" for a in "ABCDEFGH" for b in "ABCDEFGH"][:51]}}
        self.refused("ValidationException", self.capacity, countries)  # not all of them are countries
        rate = {"RateBasedStatement": {"Limit": 100, "AggregateKeyType": "IP"}}
        self.assertEqual(self.capacity(*[rate] * 4), 8)
        self.refused("WAFLimitsExceededException", self.capacity, *[rate] * 5)
        arn = self.waf.create_ip_set(Name="ips", Scope="CLOUDFRONT", IPAddressVersion="IPV4", Addresses=[])["Summary"][
            "ARN"
        ]
        refer = {"IPSetReferenceStatement": {"ARN": arn}}
        self.assertEqual(self.capacity(*[refer] * 50), 50)
        self.refused("WAFLimitsExceededException", self.capacity, *[refer] * 51)
        eleven = [{"RegexString": "a"}] * 11
        many = {"Name": "patterns", "Scope": "CLOUDFRONT", "RegularExpressionList": eleven}
        self.refused("WAFLimitsExceededException", self.waf.create_regex_pattern_set, **many)

    def test_custom_responses(self):
        def blocked(**response):
            return [rule(Action={"Block": {"CustomResponse": response}})]

        self.invalid(
            "rules.1.member.action.block.customResponse.responseCode", self.create, Rules=blocked(ResponseCode=99)
        )
        missing = blocked(ResponseCode=403, CustomResponseBodyKey="gone")
        self.refused_parameter("CUSTOM_RESPONSE", self.create, Rules=missing)
        large = {"gone": {"ContentType": "TEXT_PLAIN", "Content": "a" * 4097}}
        self.refused("WAFLimitsExceededException", self.create, CustomResponseBodies=large)
        self.invalid_rule(".ruleLabels.1.member.name", rule(RuleLabels=[{"Name": "a b"}]))

    # 4.4 regex dialect

    def test_regex_dialect(self):
        good = [
            r"^/(?:abc|de\.f)[/.]",
            r"(?i)token=[^&]+?(?:&|$)",
            r"(?i:a)\bx{2,3}?\(\+\\1[(+)]",
            r"[]a(]\Q(a)\E(?# note )[[:alpha:](]",
            "a" * 200,
        ]
        for pattern in good:
            with self.subTest(pattern):
                self.assertEqual(self.capacity(regex_match(pattern)), 3)
        bad = [
            "a" * 201,
            r"(a|b)",
            r"(?<name>a)",
            r"(?P<name>a)",
            r"(?'name'a)",
            r"(?:a)\1",
            r"(a)\1",
            r"(a)\g{1}",
            r"(?<n>a)\k<n>",
            r"a\Cb",
            r"a\R",
            r"a\Kb",
            r"(?>a)",
            r"a++",
            r"a*+",
            r"a?+",
            r"a{1,2}+",
            r"(?R)",
            r"a(?:b(?R))?",
            r"(?(?=a)b)",
            r"(*UTF8)a",
            r"a(*FAIL)",
            r"(?C1)a",
            r"(?=a)",
            r"(?<!a)b",
            r"(?:a",
            r"a{2,1}",
            r"[z-a]",
            r"*a",
        ]
        for pattern in bad:
            with self.subTest(pattern):
                self.refused_parameter("STATEMENT", self.capacity, regex_match(pattern))
        self.invalid_rule(".statement.regexMatchStatement.regexString", rule(regex_match("a" * 513)))
        one = {"Name": "patterns", "Scope": "CLOUDFRONT", "RegularExpressionList": [{"RegexString": "(a)"}]}
        self.refused_parameter("REGEX_PATTERN_SET", self.waf.create_regex_pattern_set, **one)

    # The control surface

    def test_calls_are_recorded(self):
        self.control("DELETE", "calls")
        self.create()
        self.refused("WAFDuplicateItemException", self.create)
        self.s3.create_bucket(Bucket="logs", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        self.s3.put_object(Bucket="logs", Key="a b/ü.gz", Body=b"x")
        self.s3.list_objects_v2(Bucket="logs", Prefix="a b/")
        self.s3.get_object(Bucket="logs", Key="a b/ü.gz")
        self.refused("NoSuchKey", self.s3.get_object, Bucket="logs", Key="none")
        self.client("dynamodb", "eu-west-1").list_tables()
        self.client("sns", "eu-west-1").create_topic(Name="findings")
        expected = [
            {"service": "wafv2", "operation": "CreateRuleGroup", "status": 200},
            {"service": "wafv2", "operation": "CreateRuleGroup", "status": 400},
            {"service": "s3", "operation": "CreateBucket", "status": 200, "bucket": "logs"},
            {"service": "s3", "operation": "PutObject", "status": 200, "bucket": "logs", "key": "a b/ü.gz"},
            {"service": "s3", "operation": "ListObjectsV2", "status": 200, "bucket": "logs", "prefix": "a b/"},
            {"service": "s3", "operation": "GetObject", "status": 200, "bucket": "logs", "key": "a b/ü.gz"},
            {"service": "s3", "operation": "GetObject", "status": 404, "bucket": "logs", "key": "none"},
            {"service": "dynamodb", "operation": "ListTables", "status": 200},
            {"service": "sns", "operation": "CreateTopic", "status": 200},
        ]
        self.assertEqual(self.control("GET", "calls"), expected)
        self.control("DELETE", "calls")
        self.assertEqual(self.control("GET", "calls"), [])

    def test_faults(self):
        group, token, _ = self.create()
        self.s3.create_bucket(Bucket="logs", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        topics = self.client("sns", "eu-west-1")
        self.control("DELETE", "calls")
        self.control(
            "POST",
            "faults",
            [
                {"operation": "UpdateRuleGroup", "times": 1, "error": "ThrottlingException", "status": 400},
                {"operation": "UpdateRuleGroup", "times": 1, "error": "WAFInternalErrorException", "status": 500},
                {"operation": "PutObject", "times": 1, "error": "SlowDown", "status": 503},
                {"operation": "HeadObject", "times": 1, "error": "Forbidden", "status": 403},
                {"operation": "ListTopics", "times": 1, "error": "AuthorizationError", "status": 403},
            ],
        )
        throttled = self.refused("ThrottlingException", self.update, group, token, Rules=rules(byte_match()))
        self.assertEqual(throttled["Error"]["Message"], "Rate exceeded")
        self.refused("WAFInternalErrorException", self.update, group, token, Rules=[])
        self.refused("SlowDown", self.s3.put_object, Bucket="logs", Key="k", Body=b"x" * 100_000)
        self.refused("403", self.s3.head_object, Bucket="logs", Key="k")
        self.refused("AuthorizationError", topics.list_topics)
        # The faults never reached moto and are used up.
        self.assertNotIn("Contents", self.s3.list_objects_v2(Bucket="logs"))
        self.update(group, token, Rules=rules(byte_match()))
        self.s3.put_object(Bucket="logs", Key="k", Body=b"x")
        statuses = [call["status"] for call in self.control("GET", "calls")]
        self.assertEqual(statuses, [400, 500, 503, 403, 403, 200, 200, 200])

    def test_listings_are_whole_and_in_order(self):
        self.s3.create_bucket(Bucket="listed", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        names = [f"{folder}/{number:03}" for folder in ("a", "b-c", "b") for number in range(25)]
        for name in reversed(names):
            self.s3.put_object(Bucket="listed", Key=name, Body=b"x")
        self.s3.delete_object(Bucket="listed", Key=names.pop(30))
        for prefix, after, most in itertools.product(("", "b", "b/", "c"), ("", "b/012", "b/0125", "z"), (1, 10, 1000)):
            pages = self.s3.get_paginator("list_objects_v2").paginate(
                Bucket="listed", Prefix=prefix, StartAfter=after, PaginationConfig={"PageSize": most}
            )
            found = [[item["Key"] for item in page.get("Contents", [])] for page in pages]
            self.assertEqual(sum(found, []), [name for name in names if name.startswith(prefix) and name > after])
            self.assertTrue(all(len(page) == most for page in found[:-1]), found)
        folders = self.s3.list_objects_v2(Bucket="listed", Delimiter="/")["CommonPrefixes"]
        self.assertEqual(folders, [{"Prefix": "a/"}, {"Prefix": "b-c/"}, {"Prefix": "b/"}])

    def test_control_refuses_nonsense(self):
        for method, what, body in (("GET", "nothing", None), ("POST", "faults", [{"operation": "GetObject"}])):
            with self.assertRaises(urllib.error.HTTPError) as caught:
                self.control(method, what, body)
            caught.exception.close()


if __name__ == "__main__":
    unittest.main()
