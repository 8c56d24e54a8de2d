//! AWS clients, made from the environment in the usual way: credentials chain, profiles, regions, endpoints.

use std::collections::HashMap;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

/// The Region of everything that belongs to CloudFront, whatever the environment says.
/// Source: AWS WAF API Reference, `Scope`: CLOUDFRONT works in us-east-1 only.
const CLOUDFRONT_REGION: &str = "us-east-1";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// For a call of WAF with all its attempts.
const WAF_TIMEOUT: Duration = Duration::from_secs(20);
const SNS_TIMEOUT: Duration = Duration::from_secs(20);

async fn environment() -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .retry_config(RetryConfig::standard().with_max_attempts(6))
        // A server that says nothing for so long is tried again; bodies that stall are noticed by the client itself.
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT).build())
        .load()
        .await
}

/// A client for S3. An overridden endpoint is addressed path-style: test servers and S3-compatible stores
/// seldom have a host name for every bucket.
pub async fn s3_client() -> aws_sdk_s3::Client {
    s3_client_of(&environment().await)
}

fn s3_client_of(environment: &SdkConfig) -> aws_sdk_s3::Client {
    let overridden = s3_endpoint(environment).is_some();
    let config = aws_sdk_s3::config::Builder::from(environment).force_path_style(overridden).build();
    aws_sdk_s3::Client::from_conf(config)
}

/// The endpoint that is to be used in place of S3's own.
fn s3_endpoint(environment: &SdkConfig) -> Option<String> {
    let named = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].iter().find_map(|name| std::env::var(name).ok());
    named.or_else(|| environment.endpoint_url().map(str::to_owned))
}

/// A client for a state in S3, and what the Delta library needs to use the same Region, endpoint and credentials.
pub async fn state_clients() -> (aws_sdk_s3::Client, HashMap<String, String>) {
    let environment = environment().await;
    let mut options = HashMap::new();
    // The usual chain: profiles, roles and containers, not only variables.
    options.insert("AWS_FORCE_CREDENTIAL_LOAD".to_owned(), "true".to_owned());
    if let Some(region) = environment.region() {
        options.insert("AWS_REGION".to_owned(), region.to_string());
    }
    if let Some(endpoint) = s3_endpoint(&environment) {
        options.insert("AWS_ALLOW_HTTP".to_owned(), endpoint.starts_with("http://").to_string());
        options.insert("AWS_VIRTUAL_HOSTED_STYLE_REQUEST".to_owned(), "false".to_owned());
        options.insert("AWS_ENDPOINT_URL".to_owned(), endpoint);
    }
    (s3_client_of(&environment), options)
}

/// A client for the WAF of CloudFront.
pub async fn waf_client() -> aws_sdk_wafv2::Client {
    let environment = environment().await;
    // A sync has its own patience, and a state is locked meanwhile.
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_timeout(WAF_TIMEOUT).build();
    let config = aws_sdk_wafv2::config::Builder::from(&environment)
        .region(Region::from_static(CLOUDFRONT_REGION))
        .retry_config(RetryConfig::standard().with_max_attempts(3))
        .timeout_config(timeouts)
        .build();
    aws_sdk_wafv2::Client::from_conf(config)
}

/// A client for DynamoDB, in `region` or that of the environment.
pub async fn dynamodb_client(region: Option<String>) -> aws_sdk_dynamodb::Client {
    let environment = environment().await;
    let region = region.map(Region::new).or_else(|| environment.region().cloned());
    let config = aws_sdk_dynamodb::config::Builder::from(&environment).region(region).build();
    aws_sdk_dynamodb::Client::from_conf(config)
}

/// How far the clock of this machine is ahead of that of AWS; none where no answer tells.
pub async fn clock_offset() -> Option<chrono::TimeDelta> {
    let endpoint = ["AWS_ENDPOINT_URL_WAFV2", "AWS_ENDPOINT_URL"].iter().find_map(|name| std::env::var(name).ok());
    let endpoint = endpoint.unwrap_or_else(|| format!("https://wafv2.{CLOUDFRONT_REGION}.amazonaws.com/"));
    let client = reqwest::Client::builder().timeout(CONNECT_TIMEOUT).build().ok()?;
    // Whatever it answers: every answer has a date, of whole seconds.
    let answer = client.head(endpoint).send().await.ok()?;
    let date = chrono::DateTime::parse_from_rfc2822(answer.headers().get("date")?.to_str().ok()?).ok()?;
    Some(chrono::Utc::now() - date.with_timezone(&chrono::Utc))
}

/// A client for SNS in the Region of a topic.
pub async fn sns_client(region: String) -> aws_sdk_sns::Client {
    let environment = environment().await;
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_timeout(SNS_TIMEOUT).build();
    let config = aws_sdk_sns::config::Builder::from(&environment)
        .region(Region::new(region))
        .retry_config(RetryConfig::standard().with_max_attempts(3))
        .timeout_config(timeouts)
        .build();
    aws_sdk_sns::Client::from_conf(config)
}

/// An error of AWS in one line: its code and message, or what kept the call from getting there.
pub fn explain<E>(error: &SdkError<E>) -> String
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    if let SdkError::ServiceError(service) = error
        && let Some(code) = service.err().code()
    {
        let message = service.err().message().unwrap_or("no message");
        return format!("{code}: {message}");
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let line = error.to_string();
        if !text.contains(&line) {
            text = format!("{text}: {line}");
        }
        cause = error.source();
    }
    text
}

/// The code of an error that the service itself answered with.
pub fn code<E: ProvideErrorMetadata>(error: &SdkError<E>) -> Option<&str> {
    match error {
        SdkError::ServiceError(service) => service.err().code(),
        _ => None,
    }
}
