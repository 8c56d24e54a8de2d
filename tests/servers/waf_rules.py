"""What AWS WAFv2 demands of a request and what its rules cost, as pure functions.

Two layers, as at AWS:

- `check_shape` enforces the API model (required members, types, lengths, patterns, enumerations),
  read from botocore's copy of it. AWS answers a breach with `ValidationException`.
- `check_rules` and its neighbours enforce what the developer guide says beyond the model. AWS
  answers with `WAFInvalidParameterException` (Field, Parameter, Reason).

"facts" below is the project's digest of the AWS pages, section 4 of aws-facts.md. Reason texts are
AWS's own where a public report quotes one (named beside it); where AWS's choice of exception is
not known the text says "guess".
"""

import base64
import binascii
import collections
import functools
import json
import re

import botocore.session
import pcre2
from moto.core.exceptions import JsonRESTError

# facts 4.2, page "AWS WAF quotas"
GROUP_CAPACITY_LIMIT = 5000
GROUPS_PER_ACCOUNT = 100
SEARCH_STRING_BYTES = 200
REGEX_CHARACTERS = 200
REGEX_PATTERNS_PER_SET = 10
TRANSFORMATIONS_PER_STATEMENT = 10
REFERENCES_PER_GROUP = 50
RATE_RULES_PER_GROUP = 4
GEO_CODES_PER_RULE = 50
RESPONSE_BODY_BYTES = 4 * 1024
RESPONSE_BODIES_BYTES = 50 * 1024
RESPONSE_HEADERS = 10

# Quoted in hashicorp/terraform-provider-aws issue 29321 and umotif-public/terraform-aws-waf-webaclv2 issue 23.
EXACTLY_ONE = "You have used none or multiple values for a field that requires exactly one value."
# Quoted in hashicorp/terraform-provider-aws issue 34320.
MINIMUM = (
    "You haven't met a minimum requirement for a threshold setting. Examples include a rule group "
    "capacity setting that's too low and an OR statement with only one nested statement."
)
# Quoted in trussworks/terraform-aws-wafv2 issue 87.
CAPACITY = "You exceeded the capacity limit for a rule group or web ACL."
# Quoted in aws-solutions/aws-waf-security-automations issue 300.
SCOPE = "The scope is not valid."
# Quoted in aws-samples/dcv-web-portal issue 10.
FORMAT = "The parameter contains formatting that is not valid."
# Quoted in aws/aws-cli issue 5015.
REFERENCE = "A reference in your rule statement is not valid."
# Quoted in globaldatanet/aws-firewall-factory issue 189.
ARN = "The ARN isn't valid. A valid ARN begins with arn: and includes other information separated by colons or slashes."


class WafError(JsonRESTError):
    """An error in the shape of AWS's JSON 1.1 protocol; `members` are the exception's own fields."""

    def __init__(self, error_type, message, status=400, **members):
        super().__init__(error_type, message)
        self.code = status
        self.description = json.dumps({"__type": error_type, "message": message, **members})


class InvalidParameter(WafError):
    """`WAFInvalidParameterException` with its three fields (facts 4.6)."""

    def __init__(self, field, parameter, reason):
        super().__init__(
            "WAFInvalidParameterException",
            f"Error reason: {reason}, field: {field}, parameter: {parameter}",
            Field=field,
            Parameter=str(parameter),
            Reason=reason,
        )


class DuplicateItem(WafError):
    """`WAFDuplicateItemException`; plain moto says `WafV2DuplicateItem`, which no SDK knows."""

    def __init__(self):
        super().__init__(
            "WAFDuplicateItemException",
            "AWS WAF couldn't perform the operation because some resource in your request is a duplicate of an existing one.",
        )


class LimitsExceeded(WafError):
    """`WAFLimitsExceededException`: seen for patterns of a set (alphagov/govuk-infrastructure pull
    request 4530), a guess for the other counted quotas."""

    def __init__(self, source):
        text = "AWS WAF couldn't perform the operation because you exceeded your resource limit."
        super().__init__("WAFLimitsExceededException", text, Message=text, SourceType=source)


# ---------------------------------------------------------------- the API model


@functools.cache
def service_model():
    return botocore.session.get_session().get_service_model("wafv2")


def check_shape(operation, body):
    """Returns `body` without nulls and members that the model does not know, as AWS reads it.

    Raises `ValidationException` naming every breach, like AWS's framework
    (text quoted in awsdocs/aws-cloudformation-user-guide pull request 589).
    """
    errors = []
    checked = _checked(body, service_model().operation_model(operation).input_shape, "", errors)
    if errors:
        plural = "error" if len(errors) == 1 else "errors"
        raise WafError("ValidationException", f"{len(errors)} validation {plural} detected: {'; '.join(errors)}")
    return checked


_JSON_TYPES = {
    "structure": dict,
    "map": dict,
    "list": list,
    "string": str,
    "blob": str,
    "boolean": bool,
    "integer": int,
    "long": int,
}


def _checked(value, shape, path, errors):
    kind = shape.type_name
    wanted = _JSON_TYPES.get(kind, object)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise WafError("SerializationException", f"{path or 'the request'} is not of the type {kind}")

    def fail(constraint):
        shown = "null" if value is None else f"'{value}'"
        errors.append(f"Value {shown} at '{path}' failed to satisfy constraint: Member must {constraint}")

    limits = shape.metadata
    size = value
    if kind == "blob":
        try:
            size = len(base64.b64decode(value, validate=True))
        except binascii.Error:
            raise WafError("SerializationException", f"{path} is not base64") from None
    elif kind in ("string", "list", "map"):
        size = len(value)
    if kind in ("blob", "string", "list", "map", "integer", "long"):
        what = "have value" if kind in ("integer", "long") else "have length"
        if size < limits.get("min", size):
            fail(f"{what} greater than or equal to {limits['min']}")
        if size > limits.get("max", size):
            fail(f"{what} less than or equal to {limits['max']}")
    if kind == "string":
        if limits.get("enum") and value not in limits["enum"]:
            fail(f"satisfy enum value set: [{', '.join(limits['enum'])}]")
        pattern = limits.get("pattern")
        # Python has no \p classes; only tags use them.
        if pattern and r"\p" not in pattern and not re.fullmatch(pattern, value, re.ASCII):
            fail(f"satisfy regular expression pattern: {pattern}")
    if kind == "list":
        return [_checked(item, shape.member, f"{path}.{index}.member", errors) for index, item in enumerate(value, 1)]
    if kind == "map":
        return {
            _checked(key, shape.key, path, errors): _checked(item, shape.value, f"{path}.{key}", errors)
            for key, item in value.items()
        }
    if kind == "structure":
        result = {}
        for name, member in shape.members.items():
            inner = f"{path}.{name[0].lower()}{name[1:]}".lstrip(".")
            if value.get(name) is not None:
                result[name] = _checked(value[name], member, inner, errors)
            # A missing OversizeHandling has an exception of its own, see check_field.
            elif name in shape.required_members and name != "OversizeHandling":
                errors.append(f"Value null at '{inner}' failed to satisfy constraint: Member must not be null")
        return result
    return value


# ---------------------------------------------------------------- rules


def check_scope(scope, region):
    """CLOUDFRONT resources are served by us-east-1 only (facts 4.1)."""
    if scope == "CLOUDFRONT" and region != "us-east-1":
        raise InvalidParameter("SCOPE_VALUE", scope, SCOPE)


def check_metric(visibility):
    """The developer guide's narrow form; the API model's pattern is wider (facts 4.7)."""
    name = visibility["MetricName"]
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", name) or name in ("All", "Default_Action"):
        raise InvalidParameter("METRIC_NAME", name, FORMAT)


def check_response_bodies(bodies):
    """4 KB each and 50 KB in total (facts 4.2); the exception is a guess."""
    sizes = [len(body["Content"].encode()) for body in bodies.values()]
    if any(size > RESPONSE_BODY_BYTES for size in sizes) or sum(sizes) > RESPONSE_BODIES_BYTES:
        raise LimitsExceeded("CUSTOM_RESPONSE_BODY")


def check_rules(rules, exists, bodies=None):
    """Checks all rules of a group. `exists(arn)` tells whether a set of the same scope is there;
    `bodies` are the group's custom response bodies, `None` where the call carries none."""
    names = [rule["Name"] for rule in rules]
    if len(set(names)) < len(names):
        raise DuplicateItem()  # facts 4.6: refused, exception a guess
    priorities = collections.Counter(rule["Priority"] for rule in rules)
    for priority, times in priorities.items():
        if times > 1:
            raise InvalidParameter("RULE", priority, FORMAT)  # facts 4.6: refused, exception a guess
    for rule in rules:
        check_metric(rule["VisibilityConfig"])
        check_action(rule, bodies)
        check_statement(rule["Statement"], exists, top=True)
    every = [found for rule in rules for found in statements(rule["Statement"])]
    kinds = [kind for kind, _ in every]
    references = kinds.count("IPSetReferenceStatement") + kinds.count("RegexPatternSetReferenceStatement")
    if references > REFERENCES_PER_GROUP:
        raise LimitsExceeded("REFERENCE_STATEMENT")
    if kinds.count("RateBasedStatement") > RATE_RULES_PER_GROUP:
        raise LimitsExceeded("RATE_BASED_STATEMENT")


def check_action(rule, bodies):
    """Exactly one action and, as no statement of a rule group refers to another group, no override
    (facts 4.5; quoted in umotif-public/terraform-aws-waf-webaclv2 pull request 85)."""
    if "OverrideAction" in rule or "Action" not in rule:
        raise InvalidParameter("RULE", "Rule", EXACTLY_ONE)
    action = rule["Action"]
    if len(action) != 1:
        raise InvalidParameter("RULE_ACTION", "RuleAction", EXACTLY_ONE)
    response = action.get("Block", {}).get("CustomResponse", {})
    key = response.get("CustomResponseBodyKey")
    if key is not None and bodies is not None and key not in bodies:
        raise InvalidParameter("CUSTOM_RESPONSE", key, REFERENCE)  # field and reason are a guess
    if len(response.get("ResponseHeaders", [])) > RESPONSE_HEADERS:
        raise LimitsExceeded("CUSTOM_RESPONSE")


def check_statement(statement, exists, top=False):
    """Checks one statement and all below it (facts 4.2 to 4.5)."""
    if len(statement) != 1:
        raise InvalidParameter("STATEMENT", "Statement", EXACTLY_ONE)
    ((kind, body),) = statement.items()
    if kind in ("AndStatement", "OrStatement"):
        if len(body["Statements"]) < 2:
            raise InvalidParameter(kind.replace("Statement", "_STATEMENT").upper(), kind, MINIMUM)
    elif kind == "RateBasedStatement" and not top:
        raise InvalidParameter("RATE_BASED_STATEMENT", kind, REFERENCE)
    elif kind in ("RuleGroupReferenceStatement", "ManagedRuleGroupStatement"):
        # Never inside a rule group (facts 4.5); the field is a guess.
        raise InvalidParameter("RULE", "Statement", REFERENCE)
    elif kind in ("IPSetReferenceStatement", "RegexPatternSetReferenceStatement") and not exists(body["ARN"]):
        raise WafError(
            "WAFNonexistentItemException", "AWS WAF couldn't perform the operation because your resource doesn't exist."
        )
    elif kind == "ByteMatchStatement":
        check_search_string(body)
    elif kind == "RegexMatchStatement":
        check_regex(body["RegexString"])
    elif kind == "GeoMatchStatement" and len(body.get("CountryCodes", [])) > GEO_CODES_PER_RULE:
        raise LimitsExceeded("GEO_MATCH_STATEMENT")
    if "FieldToMatch" in body:
        check_field(body["FieldToMatch"])
        check_transformations(body["TextTransformations"])
    for child in children(kind, body):
        check_statement(child, exists)


def check_search_string(body):
    """At most 200 bytes (API reference); an empty one is refused here, a guess on the safe side.
    CONTAINS_WORD takes word characters only (facts 4.5)."""
    text = base64.b64decode(body["SearchString"])
    if not 1 <= len(text) <= SEARCH_STRING_BYTES:
        raise InvalidParameter("BYTE_MATCH_STATEMENT", "SearchString", MINIMUM if not text else FORMAT)
    if body["PositionalConstraint"] == "CONTAINS_WORD" and not re.fullmatch(rb"[A-Za-z0-9_]+", text):
        raise InvalidParameter("BYTE_MATCH_STATEMENT", "SearchString", FORMAT)


def check_field(field):
    """Exactly one component; header, cookie and body inspection must say what to do with an
    oversized one, else `WAFConfigurationWarningException` (facts 4.5, API reference)."""
    if len(field) != 1:
        raise InvalidParameter("FIELD_TO_MATCH", "FieldToMatch", EXACTLY_ONE)
    ((kind, body),) = field.items()
    if kind == "SingleQueryArgument" and len(body["Name"]) > 30:
        raise InvalidParameter("SINGLE_QUERY_ARGUMENT", body["Name"], FORMAT)
    if kind in ("Headers", "Cookies"):
        if len(body["MatchPattern"]) != 1:
            names = {"Headers": "HEADER_MATCH_PATTERN", "Cookies": "COOKIE_MATCH_PATTERN"}
            raise InvalidParameter(names[kind], "MatchPattern", EXACTLY_ONE)
    if kind in ("Headers", "Cookies", "HeaderOrder", "Body", "JsonBody") and "OversizeHandling" not in body:
        raise WafError(
            "WAFConfigurationWarningException",
            "The operation failed because you are inspecting the web request body, headers, or cookies without "
            "specifying how to handle oversize components.",
        )


def check_transformations(transformations):
    """One to ten with distinct priorities (facts 4.2, 4.5); the model refuses an empty list."""
    if len(transformations) > TRANSFORMATIONS_PER_STATEMENT:
        raise LimitsExceeded("TEXT_TRANSFORMATION")
    priorities = [each["Priority"] for each in transformations]
    if len(set(priorities)) < len(priorities):
        raise InvalidParameter("TEXT_TRANSFORMATION", "Priority", FORMAT)


def children(kind, body):
    """The statements directly inside one."""
    if kind in ("AndStatement", "OrStatement"):
        return body["Statements"]
    if kind == "NotStatement":
        return [body["Statement"]]
    if kind == "RateBasedStatement" and "ScopeDownStatement" in body:
        return [body["ScopeDownStatement"]]
    return []


def statements(statement):
    """All (kind, body) of a statement tree."""
    for kind, body in statement.items():
        yield kind, body
        for child in children(kind, body):
            yield from statements(child)


# ---------------------------------------------------------------- regex dialect

_REFUSED_ESCAPES = {
    **dict.fromkeys("CRK", "escape"),
    **dict.fromkeys("123456789gk", "backreference"),
    # Zero-width, and only "some" of those are supported.
    "G": "zero-width assertion",
}
_REFUSED_GROUPS = [
    (r"\*", "backtracking verb"),
    (r"\?(?:P?<[A-Za-z_]|'[A-Za-z_]|P<)", "capturing group"),
    (r"\?P=", "backreference"),
    (r"\?(?:R|[+-]?\d|&|P>)", "recursion"),
    (r"\?\(", "conditional"),
    (r"\?C", "callout"),
    (r"\?>", "atomic group"),
    # "Some zero-width assertions": none of the look-arounds is documented as supported.
    (r"\?(?:<?[=!])", "look-around"),
    (r"(?!\?)", "capturing group"),
]


def regex_fault(pattern):
    """Why AWS WAF's dialect refuses `pattern`, or `None` (facts 4.4, page "waf-regex-pattern-support")."""
    if len(pattern) > REGEX_CHARACTERS:
        return "too long"
    try:
        pcre2.compile(pattern)
    except pcre2.PatternError as error:
        return str(error)
    at, in_class, quantified = 0, False, False
    while at < len(pattern):
        char = pattern[at]
        quantifier = None if in_class else re.compile(r"[*+?]|\{\d+(?:,\d*)?\}|\{,\d+\}").match(pattern, at)
        if char == "\\":
            escaped = pattern[at + 1 : at + 2]
            if not in_class and escaped in _REFUSED_ESCAPES:
                return _REFUSED_ESCAPES[escaped]
            if escaped == "Q":  # literal up to \E
                end = pattern.find("\\E", at)
                at = len(pattern) if end < 0 else end
            at, quantified = at + 2, False
        elif in_class:
            posix = re.compile(r"\[:\^?[a-z]+:\]").match(pattern, at)
            in_class = char != "]"
            at = posix.end() if posix else at + 1
        elif char == "[":
            # A `]` right after the opening is literal.
            at, in_class, quantified = re.compile(r"\[\^?\]?").match(pattern, at).end(), True, False
        elif char == "(":
            for refused, reason in _REFUSED_GROUPS:
                if re.compile(refused).match(pattern, at + 1):
                    return reason
            # Step over the rest of `(?:`, so that its `?` is no quantifier.
            at, quantified = re.compile(r"\((?:\?(?:#[^)]*|[a-zA-Z^-]*[:)]?|\|))?").match(pattern, at).end(), False
        elif quantifier:
            if quantified and char == "+":
                return "possessive quantifier"
            # `a+?` ends a quantifier, so the next one is not a suffix of it.
            at, quantified = quantifier.end(), not quantified
        else:
            at, quantified = at + 1, False
    return None


def check_regex(pattern):
    if regex_fault(pattern):
        raise InvalidParameter("STATEMENT", pattern, FORMAT)  # the field is a guess


def check_regex_set(patterns):
    """At most ten patterns per set, each in the dialect (facts 4.2)."""
    if len(patterns) > REGEX_PATTERNS_PER_SET:
        raise LimitsExceeded("REGEX_PATTERN_SET")
    for pattern in patterns:
        if regex_fault(pattern.get("RegexString", "")):
            raise InvalidParameter("REGEX_PATTERN_SET", pattern.get("RegexString"), FORMAT)


# ---------------------------------------------------------------- capacity


def capacity(rules):
    """Web ACL capacity units of a group's rules (facts 4.3).

    A text transformation is charged once per component in the whole group, as measured by third
    parties; AWS does not promise that.
    """
    units = 0
    transformations = set()
    for rule in rules:
        for kind, body in statements(rule["Statement"]):
            units += _base_units(kind, body)
            for list_name in ("TextTransformations", "PreParseTextTransformations"):
                for transformation in body.get(list_name, []):
                    if transformation["Type"] != "NONE":
                        component = json.dumps(body["FieldToMatch"], sort_keys=True).lower()
                        transformations.add((list_name, component, transformation["Type"]))
    return units + 10 * len(transformations)


_UNITS = {
    "RegexMatchStatement": 3,
    "RegexPatternSetReferenceStatement": 25,
    "GeoMatchStatement": 1,
    "AsnMatchStatement": 1,
    "LabelMatchStatement": 1,
    "SizeConstraintStatement": 1,
    "SqliMatchStatement": 20,
    "XssMatchStatement": 40,
    "AndStatement": 0,
    "OrStatement": 0,
    "NotStatement": 0,
}


def _base_units(kind, body):
    if kind == "ByteMatchStatement":
        units = 10 if body["PositionalConstraint"].startswith("CONTAINS") else 2
    elif kind == "IPSetReferenceStatement":
        units = 5 if body.get("IPSetForwardedIPConfig", {}).get("Position") == "ANY" else 1
    elif kind == "RateBasedStatement":
        units = 2 + 30 * len(body.get("CustomKeys", []))
    else:
        units = _UNITS[kind]
    field = body.get("FieldToMatch", {})
    if "JsonBody" in field:
        units *= 2
    if "AllQueryArguments" in field:
        units += 10
    return units


def check_capacity_fits(rules, limit):
    """Field RULE_GROUP is presumed from the WEB_ACL of the quoted report (facts 4.6)."""
    wanted = capacity(rules)
    if wanted > limit:
        raise InvalidParameter("RULE_GROUP", wanted, CAPACITY)
