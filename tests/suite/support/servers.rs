//! Real servers for tests: a strict AWS (moto with AWS's own refusals) and DuckDB over Delta tables.
//!
//! Both are Python programs below `tests/servers/`. Their packages live in `target/test-venv`, made
//! on first use with `python3` and `pip` and kept until `requirements.txt` changes; only making it
//! needs the network.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

/// Python interpreter of the virtual environment that holds the pinned packages of
/// `tests/servers/requirements.txt`.
///
/// # Panics
///
/// If `python3` or its `venv` module is missing or the packages cannot be installed.
pub fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        let venv = target.join("test-venv");
        let python = venv.join("bin").join("python");
        let stamp = venv.join("installed-requirements.txt");
        let requirements = servers_dir().join("requirements.txt");
        let wanted = fs::read_to_string(&requirements).expect("read requirements.txt");

        fs::create_dir_all(&target).expect("create the target folder");
        // Several test binaries may start at once; the lock ends with the file.
        let lock = File::create(target.join("test-venv.lock")).expect("create the venv lock");
        lock.lock().expect("lock the venv");
        if python.exists() && fs::read_to_string(&stamp).is_ok_and(|text| text == wanted) {
            return python;
        }
        let _ = fs::remove_dir_all(&venv);
        run(
            Command::new("python3").args(["-m", "venv"]).arg(&venv),
            "make a virtual environment; the tests need python3 with its venv module (Debian: apt-get install python3-venv)",
        );
        run(
            Command::new(&python)
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
                .arg(&requirements),
            "install tests/servers/requirements.txt with pip",
        );
        // Last, so that a broken-off installation is not taken for a whole one.
        fs::write(&stamp, wanted).expect("write the venv stamp");
        python
    })
}

/// One call that reached the server, failed ones included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Signing name, such as `s3` or `wafv2`.
    pub service: String,
    /// AWS's operation name, such as `ListObjectsV2`.
    pub operation: String,
    /// HTTP status of the answer.
    pub status: u16,
    /// S3 bucket, if the call names one.
    pub bucket: Option<String>,
    /// S3 key, if the call names one.
    pub key: Option<String>,
    /// Prefix of an S3 listing, unless empty.
    pub prefix: Option<String>,
    /// Of a message of SNS.
    pub subject: Option<String>,
    pub message: Option<String>,
}

/// A program of `tests/servers` that listens on a free port of this host; it ends with this value, or with the test process.
struct Process {
    child: Child,
    /// The program ends when this pipe closes, however the test process ends.
    _lifeline: ChildStdin,
    address: String,
}

impl Process {
    /// Starts a script and waits until it accepts connections; its own output is on stderr.
    fn start(script: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(python())
            .arg(servers_dir().join(script))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {script}: {error}"));
        let lifeline = child.stdin.take().expect("a pipe to the script");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe from the script")).read_line(&mut line).expect("read a port");
        let port = line
            .trim()
            .strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("{script} did not start, it said {line:?}"));
        Self { address: format!("127.0.0.1:{port}"), child, _lifeline: lifeline }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The environment of an AWS at an address, with the user's own configuration kept out.
fn environment(address: &str) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ENDPOINT_URL", format!("http://{address}")),
        ("AWS_ACCESS_KEY_ID", "test".into()),
        ("AWS_SECRET_ACCESS_KEY", "test".into()),
        ("AWS_REGION", "eu-west-1".into()),
        ("AWS_EC2_METADATA_DISABLED", "true".into()),
        ("AWS_CONFIG_FILE", "/dev/null".into()),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".into()),
    ]
}

/// A running AWS.
pub struct AwsServer(Process);

/// Something between the program and an AWS that spoils answers of S3.
pub struct FaultyProxy(Process);

impl FaultyProxy {
    /// Spoils `percent` in a hundred answers, by a seed.
    pub fn start(server: &AwsServer, seed: u64, percent: u8) -> Self {
        let port = server.0.address.rsplit(':').next().expect("an address has a port");
        let (seed, percent) = (seed.to_string(), percent.to_string());
        FaultyProxy(Process::start("faulty_proxy.py", &["--to", port, "--seed", &seed, "--percent", &percent]))
    }

    pub fn env(&self) -> Vec<(&'static str, String)> {
        environment(&self.0.address)
    }
}

impl AwsServer {
    /// Starts an empty server.
    pub fn start() -> Self {
        AwsServer(Process::start("strict_moto.py", &["--until-stdin-closes"]))
    }

    /// Endpoint of all services.
    pub fn url(&self) -> String {
        format!("http://{}", self.0.address)
    }

    /// Environment that points the AWS SDKs here.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        environment(&self.0.address)
    }

    /// Calls so far, in the order in which they were answered.
    pub fn calls(&self) -> Vec<Call> {
        let calls = self.control("GET", "calls", "");
        let calls = calls.as_array().expect("a list of calls");
        calls.iter().map(Call::from_json).collect()
    }

    /// Forgets the calls so far.
    pub fn forget_calls(&self) {
        self.control("DELETE", "calls", "");
    }

    /// Makes the next `times` calls of `operation` fail with AWS error code `error` and HTTP
    /// `status`, without any effect. An SDK's own retries count as calls.
    pub fn fail_next(&self, operation: &str, times: u32, error: &str, status: u16) {
        let faults = json!([{"operation": operation, "times": times, "error": error, "status": status}]);
        self.control("POST", "faults", &faults.to_string());
    }

    /// After each of the next `times` readings of a rule group, before anybody can update it, somebody else adds a rule.
    pub fn interfere(&self, times: u32) {
        self.control("POST", "waf", &json!({"interfere": times}).to_string());
    }

    /// Rules cost so many times what is documented.
    pub fn price(&self, times: u32) {
        self.control("POST", "waf", &json!({"price": times}).to_string());
    }

    /// Sends one request to the server's control surface and returns the JSON of its answer.
    fn control(&self, method: &str, what: &str, body: &str) -> Value {
        let mut stream = TcpStream::connect(&self.0.address).expect("connect to strict_moto.py");
        write!(
            stream,
            "{method} /streamwarden-test/{what} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            self.0.address,
            body.len(),
        )
        .expect("send to strict_moto.py");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read from strict_moto.py");
        // The server sends a Content-Length and closes, so the body is all that follows the head.
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        assert!(head.starts_with("HTTP/1.1 200"), "{method} {what}: {answer}");
        serde_json::from_str(body).expect("JSON from strict_moto.py")
    }
}

impl Call {
    fn from_json(call: &Value) -> Self {
        let text = |name: &str| call[name].as_str().map(str::to_owned);
        let status = call["status"].as_u64().and_then(|it| it.try_into().ok());
        Self {
            service: text("service").expect("a service"),
            operation: text("operation").expect("an operation"),
            status: status.expect("a status"),
            bucket: text("bucket"),
            key: text("key"),
            prefix: text("prefix"),
            subject: text("subject"),
            message: text("message"),
        }
    }
}

/// Runs SQL in DuckDB and returns the rows of the last statement as JSON objects.
///
/// Every Delta table at or below `tables` is a view named like its folder; earlier statements may
/// define more. `params` is an object of the `$name` parameters; RFC 3339 text is bound as a
/// timestamp, what a statement does not name is left out. Timestamps come back as RFC 3339 text in UTC, decimals as
/// numbers.
///
/// # Panics
///
/// If DuckDB refuses a statement; the panic has its text.
pub fn duckdb(sql: &str, tables: &Path, params: &Value) -> Vec<Value> {
    let mut child = Command::new(python())
        .arg(servers_dir().join("duck.py"))
        .arg("--tables")
        .arg(tables)
        .args(["--params", &params.to_string(), "--format", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start duck.py");
    let mut stdin = child.stdin.take().expect("a pipe to duck.py");
    // A failure to write shows in the exit status, with duck.py's own words.
    let _ = stdin.write_all(sql.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("run duck.py");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\nin {sql}");
    serde_json::from_slice(&output.stdout).expect("JSON rows from duck.py")
}

/// The statements of the policies of a role in a CloudFormation template.
pub fn policy(template: &Path, role: &str) -> Value {
    let output = Command::new(python()).arg(servers_dir().join("policy.py")).arg(template).arg(role).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON from policy.py")
}

/// Panics with the alerts of a file of Prometheus rules whose expression is none.
pub fn parse_alerts(rules: &Path) {
    run(Command::new(python()).arg(servers_dir().join("promql.py")).arg(rules), "parse the expressions of the alerts");
}

fn servers_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers")
}

/// Runs a command to its end; panics with its output if it cannot `purpose`.
fn run(command: &mut Command, purpose: &str) {
    match command.output() {
        Err(error) => panic!("cannot {purpose}: {command:?}: {error}"),
        Ok(output) => assert!(
            output.status.success(),
            "cannot {purpose}: {command:?}\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        ),
    }
}
