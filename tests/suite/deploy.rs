//! The files of `deploy/`: templates that hold, and permissions that are those which the program uses.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::aws::{make_group, s3, waf};
use crate::support::servers::{AwsServer, Call, parse_alerts, policy, python};
use crate::support::{Place, shared};

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

/// The IAM action that a call needs. Source: Service Authorization Reference; of S3 "API operations that need permissions".
fn action(call: &Call) -> String {
    let name = match (call.service.as_str(), call.operation.as_str()) {
        ("s3", "ListObjectsV2" | "ListObjects") => "ListBucket",
        ("s3", "GetObject" | "HeadObject") => "GetObject",
        ("s3", "PutObject" | "CreateMultipartUpload" | "UploadPart" | "CompleteMultipartUpload") => "PutObject",
        ("s3", "DeleteObject" | "DeleteObjects") => "DeleteObject",
        (_, operation) => operation,
    };
    format!("{}:{name}", call.service)
}

/// What the template lets the task do: its actions, and what it may do them to.
fn allowed() -> BTreeMap<String, Vec<String>> {
    let statements = policy(&deploy("cloudformation/streamwarden.yaml"), "TaskRole");
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let mut allowed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for statement in statements.as_array().unwrap() {
        assert_eq!(statement["Effect"], "Allow");
        // Where reading what is not there is refused, nobody can tell it from what may not be read.
        if let Value::Object(conditions) = &statement["Condition"] {
            assert!(conditions.keys().all(|operator| operator.ends_with("IfExists")), "{statement}");
        }
        for action in texts(&statement["Action"]) {
            allowed.entry(action).or_default().extend(texts(&statement["Resource"]));
        }
    }
    allowed
}

/// Whether an ARN with `*` and parameters of the template, which `policy` has put in as they are here, covers one.
fn covers(pattern: &str, arn: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == arn,
        Some((before, after)) => {
            arn.starts_with(before) && arn.len() >= before.len() + after.len() && arn.ends_with(after)
        }
    }
}

#[test]
fn the_task_may_do_what_the_program_does_and_nothing_else() {
    let aws = AwsServer::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let group = runtime.block_on(async {
        for bucket in ["log-bucket", "state-bucket"] {
            s3(&aws).create_bucket().bucket(bucket).send().await.unwrap();
        }
        let config = aws_sdk_sns::Config::builder()
            .behavior_version(aws_sdk_sns::config::BehaviorVersion::latest())
            .endpoint_url(aws.url())
            .region(aws_sdk_sns::config::Region::new("us-east-1"))
            .credentials_provider(aws_sdk_sns::config::Credentials::new("test", "test", None, None, "tests"))
            .build();
        aws_sdk_sns::Client::from_conf(config).create_topic().name("notify-topic").send().await.unwrap();
        make_group(&waf(&aws), 1_000).await
    });
    let put = |name: &str, session: &str| {
        let text = crate::support::log_text(&shared(session, 20, 10, 12));
        let key = format!("cdn/{name}");
        let put = s3(&aws).put_object().bucket("log-bucket").key(key).body(text.into_bytes().into());
        runtime.block_on(put.send()).unwrap();
    };
    let place = Place::with_logs(
        "s3://log-bucket/cdn/",
        &format!(
            "[waf]\nname = \"guard\"\nid = \"{group}\"\n[notify]\nsns = \"arn:aws:sns:us-east-1:123456789012:notify-topic\"\n\
             [privacy]\naddresses = \"hash\""
        ),
    )
    .with_env(aws.env());
    let config = fs::read_to_string(place.path("streamwarden.toml")).unwrap();
    fs::write(place.path("streamwarden.toml"), config.replace("\"state\"", "\"s3://state-bucket/prod/\"")).unwrap();

    put("E1.2026-11-20-20.aaaa", "SharedSess01");
    aws.forget_calls();
    let done = |arguments: &[&str]| {
        let output = place.run(arguments);
        assert!(matches!(output.code, 0 | 3), "{arguments:?}: {output:?}");
    };
    done(&["check"]);
    done(&["run"]);
    done(&["notify", "test"]);
    done(&["revoke", "OtherSess01", "--sync"]);
    done(&["restore", "OtherSess01", "--sync"]);
    for command in
        [&["waf", "plan"][..], &["waf", "sync"], &["waf", "show"], &["history"], &["explain", "SharedSess01"]]
    {
        done(command);
    }
    done(&["query", "SELECT COUNT(*) FROM requests"]);
    done(&["replay"]);
    // Blocks by hand come and end.
    for minute in 0..3 {
        done(&["revoke", &format!("OtherSess{minute:02}")]);
        done(&["run", "--now", &format!("2026-11-20T23:{minute:02}:00Z")]);
    }

    let allowed = allowed();
    let calls = aws.calls();
    let used: BTreeSet<String> = calls.iter().map(action).collect();
    // Needed only where an upload is broken off, or with [dynamodb], which a template without a table has not.
    let rare = BTreeSet::from(["s3:AbortMultipartUpload".to_owned()]);
    let granted: BTreeSet<String> = allowed.keys().filter(|action| !rare.contains(*action)).cloned().collect();
    assert_eq!(granted, used, "left: what the template grants; right: what the program does");
    let prefixes = BTreeMap::from([("log-bucket", "cdn/"), ("state-bucket", "prod/")]);
    for call in calls {
        let action = action(&call);
        if action == "s3:ListBucket" {
            let (bucket, prefix) = (call.bucket.as_deref().unwrap(), call.prefix.as_deref().unwrap_or_default());
            assert!(prefix.starts_with(prefixes[bucket]), "{call:?}");
        }
        let arn = match (call.service.as_str(), call.bucket.as_deref(), call.key.as_deref()) {
            ("s3", Some(bucket), Some(key)) => format!("arn:aws:s3:::{bucket}/{key}"),
            ("s3", Some(bucket), None) => format!("arn:aws:s3:::{bucket}"),
            ("sns", ..) => "arn:aws:sns:us-east-1:123456789012:notify-topic".to_owned(),
            _ => continue,
        };
        assert!(
            allowed[&action].iter().any(|pattern| covers(pattern, &arn)),
            "{action} on {arn}: {:?}",
            allowed[&action]
        );
    }
    // Nobody may do it to everything but where there is no resource to name.
    for (action, resources) in &allowed {
        assert!(action == "wafv2:CheckCapacity" || !resources.iter().any(|resource| resource == "*"), "{action}");
    }
}

#[test]
fn the_template_passes_cfn_lint() {
    let lint = Command::new(python().with_file_name("cfn-lint"))
        .arg(deploy("cloudformation/streamwarden.yaml"))
        .output()
        .unwrap();
    assert!(
        lint.status.success(),
        "{}{}",
        String::from_utf8_lossy(&lint.stdout),
        String::from_utf8_lossy(&lint.stderr)
    );
}

#[test]
fn the_alerts_are_expressions_of_prometheus() {
    parse_alerts(&deploy("prometheus/alerts.yml"));
}

#[test]
fn the_units_of_systemd_are_well_formed() {
    let units: Vec<PathBuf> = fs::read_dir(deploy("systemd")).unwrap().map(|unit| unit.unwrap().path()).collect();
    assert!(units.len() >= 3, "{units:?}");
    for unit in &units {
        let text = fs::read_to_string(unit).unwrap();
        assert!(
            text.contains("[Unit]") && (text.contains("[Service]") || text.contains("[Timer]")),
            "{}",
            unit.display()
        );
    }
    // Only where it is installed.
    let Ok(verified) = Command::new("systemd-analyze").arg("verify").args(&units).output() else { return };
    let said = String::from_utf8_lossy(&verified.stderr);
    // The program is not installed where tests run.
    let faults: Vec<&str> =
        said.lines().filter(|line| !line.contains("is not executable") && line.contains("streamwarden")).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn what_the_image_is_built_from_is_there() {
    let text = fs::read_to_string(deploy("docker/Dockerfile")).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copies = text.lines().filter(|line| line.starts_with("COPY ") && !line.contains("--from"));
    let sources: Vec<&str> = copies
        .flat_map(|line| {
            let words: Vec<&str> = line.split_whitespace().skip(1).filter(|word| !word.starts_with("--")).collect();
            words[..words.len() - 1].to_vec()
        })
        .collect();
    for needed in ["Cargo.toml", "Cargo.lock", "src", "queries", "schemas", "data"] {
        assert!(
            sources.iter().any(|source| source.trim_end_matches('/') == needed || *source == "."),
            "{needed}: {sources:?}"
        );
    }
    assert!(sources.iter().all(|source| root.join(source).exists()), "{sources:?}");
}
