//! AWS clients, made from the environment in the usual way: credentials chain, profiles, regions, endpoints.

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::config::retry::RetryConfig;

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
