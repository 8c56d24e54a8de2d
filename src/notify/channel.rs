//! Where messages go: a topic of SNS, a webhook.

use std::time::Duration;

use aws_sdk_sns::Client;
use url::Url;

use super::digest::Digest;
use crate::aws;
use crate::config::{Notify, WebhookFormat};
use crate::text::json_line;

/// For one attempt, and attempts at a webhook that is busy or not there.
const TIMEOUT: Duration = Duration::from_secs(10);
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

pub enum Channel {
    Sns { client: Client, topic: String },
    Webhook { url: Url, format: WebhookFormat },
}

/// The channels that the config names.
pub async fn connect(config: &Notify) -> Vec<Channel> {
    let mut channels = Vec::new();
    if let Some(topic) = &config.sns {
        // arn:aws:sns:REGION:…
        let region = topic.split(':').nth(3).unwrap_or_default().to_owned();
        channels.push(Channel::Sns { client: aws::sns_client(region).await, topic: topic.clone() });
    }
    if let Some(url) = config.webhook.as_deref().and_then(|url| Url::parse(url).ok()) {
        let of_slack = url.host_str() == Some("hooks.slack.com");
        let by_host = if of_slack { WebhookFormat::Slack } else { WebhookFormat::Json };
        channels.push(Channel::Webhook { format: config.webhook_format.unwrap_or(by_host), url });
    }
    channels
}

impl Channel {
    /// Its name in messages. Of a webhook the host: the rest of its URL is a secret.
    pub fn name(&self) -> String {
        match self {
            Channel::Sns { topic, .. } => format!("the topic {topic}"),
            Channel::Webhook { url, .. } => format!("the webhook at {}", url.host_str().unwrap_or_default()),
        }
    }

    pub async fn send(&self, digest: &Digest) -> Result<(), String> {
        match self {
            Channel::Sns { client, topic } => publish(client, topic, digest).await,
            Channel::Webhook { url, format } => {
                let body = match format {
                    WebhookFormat::Json => digest.json(),
                    WebhookFormat::Slack => digest.slack(),
                };
                post(url, &json_line(&body).map_err(|error| error.to_string())?).await
            }
        }
    }
}

async fn publish(client: &Client, topic: &str, digest: &Digest) -> Result<(), String> {
    let publish = client.publish().topic_arn(topic).subject(digest.headline()).message(digest.text());
    // Source: SNS API Reference, Publish: a FIFO topic needs a group, and one that does not look at content an id.
    let publish = match topic.ends_with(".fifo") {
        true => publish.message_group_id("streamwarden").message_deduplication_id(uuid::Uuid::new_v4().to_string()),
        false => publish,
    };
    let sent = publish.send().await.map_err(|error| {
        let advice = match aws::code(&error) {
            Some("AuthorizationError" | "AuthorizationErrorException" | "AccessDenied" | "AccessDeniedException") => {
                "; grant sns:Publish on the topic (and, where it is encrypted, kms:GenerateDataKey and kms:Decrypt on its key)"
            }
            Some("NotFound" | "NotFoundException") => "; see [notify] sns in the config",
            _ => "",
        };
        format!("{}{advice}", aws::explain(&error))
    });
    sent.map(|_| ())
}

async fn post(url: &Url, body: &str) -> Result<(), String> {
    // A redirect would carry the message to somebody whom nobody has named.
    let client = reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none()).build();
    let client = client.map_err(plain)?;
    let mut last = String::new();
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            tokio::time::sleep(PAUSE * attempt).await;
        }
        let request = client.post(url.clone()).header("content-type", "application/json").body(body.to_owned());
        match request.send().await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) if answer.status().is_server_error() || answer.status().as_u16() == 429 => {
                last = format!("it answers {}", answer.status());
            }
            Ok(answer) => return Err(format!("it answers {}; see [notify] webhook in the config", answer.status())),
            Err(error) => last = plain(error),
        }
    }
    Err(format!("{last}, {ATTEMPTS} times"))
}

/// An error without the URL.
fn plain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
