//! `streamwarden waf plan|sync|show`.

use clap::Subcommand;
use serde_json::json;

use super::{plan_text, print, print_json};
use crate::cli::{Common, Exit, Output, UsageError};
use crate::decide::Policy;
use crate::pass::Warden;
use crate::store::{DeltaStore, Root, StateLock};
use crate::waf::pack::is_ours;
use crate::waf::plan::{Plan, is_in_force, plan, rules_for_group};
use crate::waf::sync::{desired, plan_for};
use crate::waf::{AwsRuleGroup, RuleGroup};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t, global = true)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Action {
    /// The rules that the active revocations come to, and whether the group has them. Sends nothing.
    Plan,
    /// Bring the rule group in step with the active revocations.
    Sync,
    /// The rules that the group holds.
    Show,
}

pub async fn run(common: &Common, args: Args) -> anyhow::Result<Exit> {
    let config = common.load()?;
    let now = common.clock(&config).now();
    let warden = Warden::new(config).await?;
    let group = warden.rule_group().await;
    let root = Root::connect(&warden.config.state).await;
    let policy = Policy::new(&warden.config.guard, &warden.detectors, &warden.config.allow);
    let needed = || UsageError("the config names no rule group: [waf] name and id".to_owned());
    match args.action {
        Action::Show => show(&group.ok_or_else(needed)?, args.output).await,
        Action::Sync => {
            let group = group.ok_or_else(needed)?;
            let lock = StateLock::acquire(&root, false, warden.config.lease).await?;
            let synced = async {
                let store = DeltaStore::open(&root).await?;
                warden.sync(&store, &lock, &group, now).await
            };
            let synced = synced.await;
            lock.release().await;
            let synced = synced?;
            let title = if synced.changed { "updated" } else { "unchanged" };
            report(&synced.plan, &format!("Rule group {}, {title}", group.name()), synced.changed, args.output)
        }
        Action::Plan => {
            let store = DeltaStore::open(&root).await?;
            let session = warden.engine.session_over(&store, now).await?;
            let desired = desired(&session, &policy, now).await?;
            match &group {
                None => report(
                    &plan(&desired, warden.assumed_capacity(), 0),
                    "Plan, sent nowhere as the config names no rule group",
                    false,
                    args.output,
                ),
                Some(group) => {
                    let snapshot = group.read().await?;
                    let plan = plan_for(&desired, group, &snapshot).await?;
                    let in_force = is_in_force(&rules_for_group(&plan, &snapshot.rules), &snapshot.rules);
                    let title = if in_force {
                        "in force already"
                    } else {
                        "not in force: waf sync or run would bring it there"
                    };
                    report(&plan, &format!("Plan for the rule group {}, {title}", group.name()), !in_force, args.output)
                }
            }
        }
    }
}

/// Prints a plan; left out sessions are for a person to look at.
fn report(plan: &Plan, title: &str, changed: bool, output: Output) -> anyhow::Result<Exit> {
    match output {
        Output::Text => print(&format!("{title}: {}", plan_text(plan)))?,
        Output::Json => {
            let rules: Vec<_> = plan
                .rules
                .iter()
                .map(|rule| json!({"name": rule.name, "mode": rule.mode, "wcu": rule.wcu, "component": rule.component, "pattern": rule.pattern, "sessions": rule.sessions}))
                .collect();
            print_json(&json!({
                "changed": changed,
                "rules": rules,
                "wcu": plan.wcu,
                "foreign_wcu": plan.foreign_wcu,
                "capacity": plan.capacity,
                "sessions": plan.sessions,
                "left_out": plan.left_out,
            }))?;
        }
    }
    Ok(if plan.left_out.is_empty() { Exit::Done } else { Exit::Attention })
}

async fn show(group: &AwsRuleGroup, output: Output) -> anyhow::Result<Exit> {
    let snapshot = group.read().await?;
    let pattern = |rule: &aws_sdk_wafv2::types::Rule| {
        let statement = rule.statement()?;
        // Ours apply one pattern to either of two components.
        let statement = statement.or_statement().and_then(|or| or.statements().first()).unwrap_or(statement);
        let bytes = statement
            .byte_match_statement()
            .map(|bytes| String::from_utf8_lossy(bytes.search_string().as_ref()).into_owned());
        bytes.or_else(|| statement.regex_match_statement().map(|regex| regex.regex_string().to_owned()))
    };
    let action = |rule: &aws_sdk_wafv2::types::Rule| match rule.action() {
        Some(action) if action.block().is_some() => "block",
        Some(action) if action.count().is_some() => "count",
        Some(_) => "other",
        None => "none",
    };
    match output {
        Output::Json => {
            let rules: Vec<_> = snapshot
                .rules
                .iter()
                .map(|rule| json!({"name": rule.name(), "priority": rule.priority(), "ours": is_ours(rule), "action": action(rule), "pattern": pattern(rule)}))
                .collect();
            print_json(&json!({"group": group.name(), "capacity": snapshot.capacity, "rules": rules}))?;
        }
        Output::Text => {
            let ours = snapshot.rules.iter().filter(|rule| is_ours(rule)).count();
            let mut text = format!(
                "Rule group {}: capacity {} WCU, {ours} rules of ours, {} of others\n",
                group.name(),
                snapshot.capacity,
                snapshot.rules.len() - ours
            );
            let rows: Vec<Vec<String>> = snapshot
                .rules
                .iter()
                .map(|rule| {
                    vec![
                        rule.priority().to_string(),
                        rule.name().to_owned(),
                        action(rule).to_owned(),
                        pattern(rule).unwrap_or_else(|| "(not ours)".to_owned()),
                    ]
                })
                .collect();
            if !rows.is_empty() {
                text += &crate::text::table(&["priority", "name", "action", "matches"], &rows);
            }
            print(&text)?;
        }
    }
    Ok(Exit::Done)
}
