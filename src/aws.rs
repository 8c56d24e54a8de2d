//! AWS clients, made from the environment in the usual way: credentials chain, profiles, regions, endpoints.

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

/// The Region of everything that belongs to CloudFront, whatever the environment says.
/// Source: AWS WAF API Reference, `Scope`: CLOUDFRONT works in us-east-1 only.
const CLOUDFRONT_REGION: &str = "us-east-1";

async fn environment() -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .retry_config(RetryConfig::standard().with_max_attempts(6))
        .load()
        .await
}

/// A client for S3. An overridden endpoint is addressed path-style: test servers and S3-compatible stores
/// seldom have a host name for every bucket.
pub async fn s3_client() -> aws_sdk_s3::Client {
    let environment = environment().await;
    let overridden = environment.endpoint_url().is_some()
        || ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].iter().any(|name| std::env::var_os(name).is_some());
    let config = aws_sdk_s3::config::Builder::from(&environment).force_path_style(overridden).build();
    aws_sdk_s3::Client::from_conf(config)
}

/// A client for the WAF of CloudFront.
pub async fn waf_client() -> aws_sdk_wafv2::Client {
    let environment = environment().await;
    let config =
        aws_sdk_wafv2::config::Builder::from(&environment).region(Region::from_static(CLOUDFRONT_REGION)).build();
    aws_sdk_wafv2::Client::from_conf(config)
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
