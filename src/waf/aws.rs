//! The rule group in AWS WAF, scope CLOUDFRONT.

use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;
use aws_sdk_wafv2::Client;
use aws_sdk_wafv2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_wafv2::types::{CustomResponseBody, Rule, Scope, VisibilityConfig};

use super::{RuleGroup, Snapshot, WafError};
use crate::aws;

pub struct AwsRuleGroup {
    client: Client,
    name: String,
    id: String,
    /// What an update has to send again, as it replaces everything.
    settings: Mutex<Option<Settings>>,
}

#[derive(Clone)]
struct Settings {
    description: Option<String>,
    visibility: Option<VisibilityConfig>,
    bodies: Option<HashMap<String, CustomResponseBody>>,
}

impl AwsRuleGroup {
    pub fn new(client: Client, name: String, id: String) -> Self {
        AwsRuleGroup { client, name, id, settings: Mutex::default() }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    fn error<E>(&self, action: &'static str, permission: &str, error: SdkError<E>) -> WafError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let group = self.name.clone();
        let mut reason = aws::explain(&error);
        // Source: AWS WAF API Reference, "Common errors" and the errors of UpdateRuleGroup; that of a throttled call is in no list.
        let advice = match aws::code(&error) {
            None if matches!(error, SdkError::TimeoutError(_)) => {
                return WafError::Unavailable { group, action, reason };
            }
            // It did not get there (the SDK has tried more than once), or nobody may say who we are.
            None => "",
            Some("WAFOptimisticLockException") => return WafError::Conflict { group },
            Some(
                ""
                | "WAFInternalErrorException"
                | "WAFUnavailableEntityException"
                | "ThrottlingException"
                | "Throttling"
                | "TooManyRequestsException"
                | "RequestLimitExceeded"
                | "ServiceUnavailable"
                | "InternalFailure",
            ) => return WafError::Unavailable { group, action, reason },
            Some("AccessDeniedException" | "AccessDenied") => {
                reason = format!("{reason}; grant {permission} on the rule group");
                ""
            }
            Some("WAFNonexistentItemException") => {
                reason = format!(
                    "there is no group {} with the id {} in scope CLOUDFRONT; see [waf] in the config",
                    self.name, self.id
                );
                ""
            }
            Some("ExpiredTokenException" | "ExpiredToken" | "UnrecognizedClientException" | "InvalidClientTokenId") => {
                "; AWS does not take the credentials any more, renew them"
            }
            Some("InvalidSignatureException" | "SignatureDoesNotMatch" | "RequestExpired") => {
                "; look whether the secret key is right and the clock of this machine goes right"
            }
            Some("WAFLimitsExceededException") => {
                "; a quota of the account or the capacity of the group is reached: look at Service Quotas, or make a larger group"
            }
            Some("WAFInvalidParameterException" | "WAFConfigurationWarningException" | "WAFDuplicateItemException") => {
                "; WAF does not take what was sent: look whether a rule of others is the cause (waf show), else report this"
            }
            Some(
                "WAFInvalidOperationException" | "WAFAssociatedItemException" | "WAFSubscriptionNotFoundException",
            ) => {
                "; something that the group refers to, or is referred to by, does not allow it: look at its rules of others"
            }
            Some(_) => "",
        };
        WafError::Refused { group, action, reason: reason + advice }
    }
}

#[async_trait]
impl RuleGroup for AwsRuleGroup {
    fn name(&self) -> &str {
        &self.name
    }

    async fn read(&self) -> Result<Snapshot, WafError> {
        let answer = self
            .client
            .get_rule_group()
            .name(&self.name)
            .scope(Scope::Cloudfront)
            .id(&self.id)
            .send()
            .await
            .map_err(|error| self.error("read", "wafv2:GetRuleGroup", error))?;
        let incomplete = || WafError::Unavailable {
            group: self.name.clone(),
            action: "read",
            reason: "the answer is incomplete".to_owned(),
        };
        let version = answer.lock_token.ok_or_else(incomplete)?;
        let group = answer.rule_group.ok_or_else(incomplete)?;
        *self.settings.lock().expect("not poisoned") = Some(Settings {
            // An empty description is read but may not be sent.
            description: group.description.filter(|text| !text.is_empty()),
            visibility: group.visibility_config,
            bodies: group.custom_response_bodies,
        });
        Ok(Snapshot {
            capacity: u64::try_from(group.capacity).unwrap_or(0),
            rules: group.rules.unwrap_or_default(),
            version,
        })
    }

    async fn cost(&self, rules: Vec<Rule>) -> Result<u64, WafError> {
        let answer = self
            .client
            .check_capacity()
            .scope(Scope::Cloudfront)
            .set_rules(Some(rules))
            .send()
            .await
            .map_err(|error| self.error("cost the rules of", "wafv2:CheckCapacity", error))?;
        Ok(u64::try_from(answer.capacity).unwrap_or(0))
    }

    async fn update(&self, since: &Snapshot, rules: Vec<Rule>) -> Result<String, WafError> {
        let settings = self.settings.lock().expect("not poisoned").clone();
        let Some(Settings { description, visibility, bodies }) = settings else {
            let reason = "it was not read before".to_owned();
            return Err(WafError::Refused { group: self.name.clone(), action: "update", reason });
        };
        let answer = self
            .client
            .update_rule_group()
            .name(&self.name)
            .scope(Scope::Cloudfront)
            .id(&self.id)
            .set_description(description)
            .set_rules(Some(rules))
            .set_visibility_config(visibility)
            .set_custom_response_bodies(bodies.filter(|bodies| !bodies.is_empty()))
            .lock_token(&since.version)
            .send()
            .await
            .map_err(|error| self.error("update", "wafv2:UpdateRuleGroup", error))?;
        Ok(answer.next_lock_token.unwrap_or_default())
    }
}
