"""A moto server whose WAFv2 is as strict as AWS's documentation, with a control surface for tests.

    python strict_moto.py [--port N] [--until-stdin-closes]

Binds 127.0.0.1 and prints `listening on PORT` once it accepts connections. All AWS services of
moto are there; WAFv2 is checked by `waf_rules` first, and these deviations of moto are mended:
CheckCapacity, Rules=[] on update, replacement of all mutable settings, the exception name of a
duplicate, reading by ARN, deletion of a group in use, an HTML page for an internal error. Listings
of S3 are those of moto, made quicker.

Control surface, plain HTTP and JSON:

    GET    /streamwarden-test/calls    [{"service", "operation", "status", ...}, ...] in order of completion;
                                       S3 calls also carry "bucket", "key", "prefix", those of SNS "subject" and
                                       "message", as far as they have them
    DELETE /streamwarden-test/calls    forgets them
    POST   /streamwarden-test/faults   [{"operation", "times", "error", "status"}, ...]: the next `times` such
                                       calls fail with that error code before they reach moto
    DELETE /streamwarden-test/faults   forgets them
    POST   /streamwarden-test/waf      {"interfere": n}: after each of the next n GetRuleGroup, before anybody can
                                       update, another writer adds a rule of its own at the end of the group;
                                       {"price": f}: rules cost f times what is documented
"""

import argparse
import base64
import functools
import io
import itertools
import json
import logging
import os
import sys
import threading
import traceback
import uuid
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

import moto.wafv2.models
import moto.wafv2.urls
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.s3.models import FakeBucket, FakeDeleteMarker, S3Backend
from moto.wafv2.exceptions import WAFOptimisticLockException
from moto.wafv2.models import GLOBAL_REGION, FakeIPSet, FakeRule
from moto.wafv2.responses import WAFV2Response
from werkzeug.serving import make_server

import waf_rules

CONTROL = "/streamwarden-test/"
FAULT_MEMBERS = {"operation": str, "times": int, "error": str, "status": int}


class StrictWaf(WAFV2Response):
    """moto's WAFv2 front end behind AWS's checks."""

    # moto compares a lock token and stores the update in separate steps.
    lock = threading.Lock()
    # What tests have asked for.
    control = {"interfere": 0, "price": 1}

    def call_action(self):
        with self.lock:
            try:
                self.request = self.checked_request()
                status, headers, body = super().call_action()
                if status == 200:
                    body = json.dumps(without_nulls(json.loads(body)))
                return status, headers, body
            except waf_rules.WafError as error:
                refusal = error
            except NotImplementedError as error:
                refusal = waf_rules.WafError("UnknownOperationException", str(error))
            except Exception:  # a fault of moto: AWS's shape, not an HTML page
                refusal = waf_rules.WafError("WAFInternalErrorException", traceback.format_exc(), status=500)
        headers = {"Content-Type": "application/x-amz-json-1.1", "status": str(refusal.code)}
        return refusal.code, headers, refusal.description

    def checked_request(self):
        """Checks the request against the API model and its scope; moto then sees it as AWS reads it."""
        operation = self._get_action()
        if operation not in waf_rules.service_model().operation_names:
            raise NotImplementedError(f"The {operation} action is unknown")
        try:
            body = json.loads(self.body or "{}")
        except ValueError as error:
            raise waf_rules.WafError("SerializationException", str(error)) from None
        request = waf_rules.check_shape(operation, body)
        waf_rules.check_scope(request.get("Scope"), self.region)
        if "global/" in request.get("ARN", "") and self.region != "us-east-1":
            raise waf_rules.InvalidParameter("RESOURCE_ARN", request["ARN"], waf_rules.ARN)  # a guess
        # moto keeps CLOUDFRONT resources in a store of their own and does not find it from an ARN.
        if request.get("Scope") == "CLOUDFRONT" or "global/" in request.get("ARN", ""):
            self.region = GLOBAL_REGION
        self.body = json.dumps(request)
        return request

    def exists(self, arn):
        """Whether an IP set or regex pattern set of the same scope is there (facts 4.1)."""
        return arn in self.wafv2_backend.ip_sets or arn in self.wafv2_backend.regex_pattern_sets

    def check_group(self):
        """What create and update of a rule group share."""
        bodies = self.request.get("CustomResponseBodies", {})
        waf_rules.check_metric(self.request["VisibilityConfig"])
        waf_rules.check_response_bodies(bodies)
        waf_rules.check_rules(self.request.get("Rules", []), self.exists, bodies)

    def check_capacity(self):
        waf_rules.check_rules(self.request["Rules"], self.exists)
        return json.dumps({"Capacity": waf_rules.capacity(self.request["Rules"]) * self.control["price"]})

    def get_rule_group(self):
        response = super().get_rule_group()
        if self.control["interfere"] > 0:
            self.control["interfere"] -= 1
            for group in self.wafv2_backend.rule_groups.values():
                self.add_foreign_rule(group)
        return response

    def add_foreign_rule(self, group):
        """What another writer does between our reading and our update."""
        number = self.control["interfere"]
        statement = {
            "SearchString": base64.b64encode(f"/theirs-{number}".encode()).decode(),
            "FieldToMatch": {"UriPath": {}},
            "TextTransformations": [{"Priority": 0, "Type": "NONE"}],
            "PositionalConstraint": "EXACTLY",
        }
        metric = {"SampledRequestsEnabled": False, "CloudWatchMetricsEnabled": False, "MetricName": "theirs"}
        rule = FakeRule(
            name=f"theirs-{number}",
            priority=max((rule.priority for rule in group.rules), default=-1) + 1,
            statement={"ByteMatchStatement": statement},
            visibility_config=metric,
            action={"Allow": {}},
        )
        group.update(None, [*group.rules, rule], None, None)

    def create_rule_group(self):
        self.check_group()
        if self.request["Capacity"] > waf_rules.GROUP_CAPACITY_LIMIT:
            # facts 4.2; the exception is a guess
            raise waf_rules.InvalidParameter("RULE_GROUP", self.request["Capacity"], waf_rules.CAPACITY)
        waf_rules.check_capacity_fits(self.request.get("Rules", []), self.request["Capacity"])
        if len(self.wafv2_backend.rule_groups) >= waf_rules.GROUPS_PER_ACCOUNT:
            raise waf_rules.LimitsExceeded("RULE_GROUP")
        return super().create_rule_group()

    def update_rule_group(self):
        self.check_group()
        group = self.named_group()
        waf_rules.check_capacity_fits(self.request.get("Rules", []), group.capacity // self.control["price"])
        # An update replaces all mutable settings (facts 4.6); moto keeps those that are absent or empty.
        group.rules, group.description, group.custom_response_bodies = [], "", None
        response = super().update_rule_group()
        group.available_labels = group._get_available_labels()
        group.consumed_labels = group._get_consumed_labels()
        return response

    def delete_rule_group(self):
        group = self.named_group()
        if any(
            group.arn in json.dumps([rule.to_dict() for rule in acl.rules]) for acl in self.wafv2_backend.wacls.values()
        ):
            raise waf_rules.WafError(
                "WAFAssociatedItemException",
                "AWS WAF couldn't perform the operation because your resource is being used by another resource "
                "or it's associated with another resource.",
            )
        return super().delete_rule_group()

    def named_group(self):
        """The group of the request; raises if there is none or its lock token is stale."""
        group = self.wafv2_backend.get_rule_group(
            self.request["Name"], self.request["Scope"], self.request["Id"], arn=None
        )
        if group.lock_token != self.request["LockToken"]:
            raise WAFOptimisticLockException()
        return group

    def create_regex_pattern_set(self):
        waf_rules.check_regex_set(self.request["RegularExpressionList"])
        return super().create_regex_pattern_set()

    def update_regex_pattern_set(self):
        waf_rules.check_regex_set(self.request["RegularExpressionList"])
        return super().update_regex_pattern_set()


def with_whole_lock_token(method):
    """moto cuts an IP set's lock token to six characters, which is none in the API model."""

    @functools.wraps(method)
    def wrapped(ip_set, *args, **kwargs):
        method(ip_set, *args, **kwargs)
        ip_set.lock_token = str(uuid.uuid4())

    return wrapped


def without_nulls(value):
    """AWS leaves out what is not set; moto sends null."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def list_only_what_matches(self, bucket, prefix, delimiter, continuation_token, start_after, max_keys):
    """S3Backend.list_objects_v2, which goes through every key of the bucket for each listing: half of what a daemon waited for."""
    if delimiter or type(bucket) is not FakeBucket:
        return moto_list_objects_v2(self, bucket, prefix, delimiter, continuation_token, start_after, max_keys)
    after = self._pagination_tokens.get(continuation_token) if continuation_token else start_after
    names = sorted(name for name in dict.keys(bucket.keys) if name.startswith(prefix or "") and name > (after or ""))
    keys = (bucket.keys[name] for name in names)
    keys = (key for key in keys if not isinstance(key, FakeDeleteMarker))
    return self._truncate_result(list(itertools.islice(keys, max_keys + 1)), max_keys)


moto_list_objects_v2 = S3Backend.list_objects_v2
S3Backend.list_objects_v2 = list_only_what_matches


def make_waf_strict():
    moto.wafv2.urls.url_paths = {path: StrictWaf.dispatch for path in moto.wafv2.urls.url_paths}
    moto.wafv2.models.WAFV2DuplicateItemException = waf_rules.DuplicateItem
    FakeIPSet.__init__ = with_whole_lock_token(FakeIPSet.__init__)
    FakeIPSet.update = with_whole_lock_token(FakeIPSet.update)


# ---------------------------------------------------------------- recording and faults


class Control:
    """WSGI middleware: records every AWS call, injects faults, answers the control surface."""

    def __init__(self, app):
        self.app = app
        self.lock = threading.Lock()
        self.calls = []
        self.faults = []

    def __call__(self, environ, start_response):
        if environ["PATH_INFO"].startswith(CONTROL):
            return self.control(environ, start_response)
        call, protocol = describe(environ)
        fault = self.take_fault(call["operation"])
        if fault:
            read_body(environ)  # an unread body would be taken for the next request
            self.record(call, fault["status"])
            return respond(start_response, fault["status"], *fault_body(fault, protocol, environ["REQUEST_METHOD"]))

        def recording_start(status, headers, exc_info=None):
            self.record(call, int(status.split()[0]))
            return start_response(status, headers, exc_info)

        try:
            return self.app(environ, recording_start)
        except Exception:
            self.record(call, 500)
            raise

    def record(self, call, status):
        with self.lock:
            self.calls.append({**call, "status": status})

    def take_fault(self, operation):
        with self.lock:
            for fault in self.faults:
                if fault["operation"] == operation and fault["times"] > 0:
                    fault["times"] -= 1
                    return fault
        return None

    def control(self, environ, start_response):
        body = read_body(environ)
        request = (environ["REQUEST_METHOD"], environ["PATH_INFO"].removeprefix(CONTROL))
        with self.lock:
            answer, status = {}, 200
            if request == ("GET", "calls"):
                answer = self.calls
            elif request == ("DELETE", "calls"):
                self.calls = []
            elif request == ("DELETE", "faults"):
                self.faults = []
            elif request == ("POST", "faults"):
                try:
                    self.faults += [
                        {name: kind(fault[name]) for name, kind in FAULT_MEMBERS.items()} for fault in json.loads(body)
                    ]
                except (ValueError, KeyError, TypeError) as error:
                    answer, status = {"error": repr(error)}, 400
            elif request == ("POST", "waf"):
                StrictWaf.control.update(json.loads(body))
            else:
                answer, status = {"error": f"no such control: {' '.join(request)}"}, 404
            answer = json.dumps(answer).encode()
        return respond(start_response, status, "application/json", answer)


def read_body(environ):
    """All of the body; the bare input has no end while the connection stays open."""
    if environ.get("wsgi.input_terminated"):  # Transfer-Encoding: chunked
        return environ["wsgi.input"].read()
    return environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))


def respond(start_response, status, content_type, body):
    headers = [
        ("Content-Type", content_type),
        ("Content-Length", str(len(body))),
        ("x-amzn-RequestId", str(uuid.uuid4())),
    ]
    start_response(f"{status} -", headers)
    return [body]


def describe(environ):
    """The call as tests see it, and its protocol ("json", "query" or "s3")."""
    authorization = environ.get("HTTP_AUTHORIZATION", "")
    scope = authorization.partition("Credential=")[2].split(",")[0].split("/")
    service = scope[3] if len(scope) == 5 else "s3"
    target = environ.get("HTTP_X_AMZ_TARGET")
    if target:
        return {"service": service, "operation": target.rpartition(".")[2]}, "json"
    if service == "s3":
        return describe_s3(environ), "s3"
    if environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded"):
        body = read_body(environ)
        environ["wsgi.input"] = io.BytesIO(body)
        form = parse_qs(body.decode())
        if "Action" in form:
            call = {"service": service, "operation": form["Action"][0]}
            call |= {name.lower(): form[name][0] for name in ("Subject", "Message") if name in form}
            return call, "query"
    return {"service": service, "operation": f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"}, "json"


def describe_s3(environ):
    """S3 has no operation name on the wire: method, path (path style) and query tell it."""
    method = environ["REQUEST_METHOD"]
    # WSGI hands the decoded path over as Latin-1.
    bucket, _, key = environ["PATH_INFO"].encode("latin-1").decode().lstrip("/").partition("/")
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    call = {"service": "s3", "operation": f"{method} s3"}
    if key:
        names = {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject"}
        if "uploadId" in query:
            names = {
                "GET": "ListParts",
                "PUT": "UploadPart",
                "POST": "CompleteMultipartUpload",
                "DELETE": "AbortMultipartUpload",
            }
        elif "uploads" in query:
            names = {"POST": "CreateMultipartUpload"}
        elif "HTTP_X_AMZ_COPY_SOURCE" in environ:
            names = {"PUT": "CopyObject"}
    elif bucket:
        names = {"GET": "ListObjects", "HEAD": "HeadBucket", "PUT": "CreateBucket", "DELETE": "DeleteBucket"}
        if query.get("list-type") == ["2"]:
            names = {"GET": "ListObjectsV2"}
        elif "location" in query:
            names = {"GET": "GetBucketLocation"}
        elif "uploads" in query:
            names = {"GET": "ListMultipartUploads"}
        elif "delete" in query:
            names = {"POST": "DeleteObjects"}
    else:
        names = {"GET": "ListBuckets"}
    call["operation"] = names.get(method, call["operation"])
    for name, value in (("bucket", bucket), ("key", key), ("prefix", query.get("prefix", [""])[0])):
        if value:
            call[name] = value
    return call


def fault_body(fault, protocol, method):
    """Content type and body of an injected error in the protocol's shape."""
    code = fault["error"]
    # The text AWS sends with a throttled call (facts 4.6).
    message = "Rate exceeded" if code == "ThrottlingException" else "injected by a test"
    if protocol == "json":
        return "application/x-amz-json-1.1", json.dumps({"__type": code, "message": message}).encode()
    error = f"<Code>{escape(code)}</Code><Message>{message}</Message>"
    if protocol == "query":
        side = "Receiver" if fault["status"] >= 500 else "Sender"
        text = f"<ErrorResponse><Error><Type>{side}</Type>{error}</Error></ErrorResponse>"
    else:
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{error}</Error>'
    return "application/xml", b"" if method == "HEAD" else text.encode()


def end_with_stdin():
    """Ends the process when the pipe on stdin closes, that is when the parent is gone."""
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (default)")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when stdin reaches its end")
    arguments = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    make_waf_strict()
    app = Control(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", arguments.port, app, threaded=True, request_handler=MotoRequestHandler)
    # moto's own calls to itself look here.
    os.environ["MOTO_PORT"] = str(server.port)
    if arguments.until_stdin_closes:
        threading.Thread(target=end_with_stdin, daemon=True).start()
    print(f"listening on {server.port}", flush=True)
    # Nobody reads stdout after that line, and moto prints now and then.
    sys.stdout = sys.stderr
    server.serve_forever()


if __name__ == "__main__":
    main()
