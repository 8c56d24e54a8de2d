//! `streamwarden waf plan|sync|show`.

use aws_sdk_wafv2::types::Rule;
use clap::Subcommand;
use serde_json::{Value, json};

use super::{NO_GROUP, plan_text, print, print_json, tell_alarms};
use crate::alarm::Ending;
use crate::cli::{Common, Output, UsageError};
use crate::pass::Warden;
use crate::pass::enforce::{Enforced, How, WafState, enforce};
use crate::store::{DeltaStore, Root, StateLock, StoreError};
use crate::text::printable;
use crate::time::rfc3339;
use crate::waf::journal::{Author, Journal};
use crate::waf::pack::{is_ours, patterns};
use crate::waf::{AwsRuleGroup, RuleGroup};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t, global = true)]
    output: Output,
}

#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// The rules that the active revocations come to, and whether the group has them. Sends nothing.
    Plan,
    /// Bring the rule group in step with the active revocations.
    Sync {
        /// Also remove rules of ours that this state knows nothing of, as it was lost or is new.
        #[arg(long)]
        drop_unknown: bool,
    },
    /// The rules that the group holds, and what is not in them that should be.
    Show,
    /// Forget what was put into a rule group that the config does not name any more, once it is emptied or deleted.
    Forget {
        /// The id of that group.
        id: String,
    },
}

pub async fn run(common: &Common, args: Args) -> anyhow::Result<Ending> {
    let config = common.load()?;
    let clock = common.clock(&config);
    let now = clock.now();
    let warden = Warden::new(config).await?;
    let group = warden.rule_group().await;
    let root = Root::connect(&warden.config.state).await;
    let needed = || UsageError("the config names no rule group: [waf] name and id".to_owned());
    match args.action {
        Action::Show => {
            let group = group.ok_or_else(needed)?;
            let enforced = match DeltaStore::open(&root).await {
                Ok(store) => {
                    let author = Author { store: &store, now, run_id: &common.run_id };
                    Some(enforce(&warden, Some(&group), author, &|| Ok(()), How::Look).await?)
                }
                Err(StoreError::Missing(_)) => None,
                Err(error) => return Err(error.into()),
            };
            show(&group, enforced.as_ref(), args.output).await
        }
        Action::Sync { drop_unknown } => {
            let group = group.ok_or_else(needed)?;
            let lock = StateLock::acquire(&root, false, warden.config.lease).await?;
            let synced = async {
                // A state that is not there holds nothing to sync.
                DeltaStore::open(&root).await?;
                let store = DeltaStore::open_or_create(&root, &lock).await?;
                let author = Author { store: &store, now: clock.now(), run_id: &common.run_id };
                anyhow::Ok(
                    enforce(&warden, Some(&group), author, &|| lock.check_held(), How::Sync { drop_unknown }).await?,
                )
            };
            let synced = synced.await;
            lock.release().await;
            let synced = synced?;
            let changed = synced.waf == WafState::Updated;
            let title = if changed { "updated" } else { "in force already" };
            report(&synced, &format!("Rule group {}, {title}", group.name()), changed, args.output)
        }
        Action::Forget { id } => {
            if group.is_some_and(|group| group.id() == id) {
                let message = "the config names this rule group: runs keep it in step";
                return Err(UsageError(message.to_owned()).into());
            }
            let lock = StateLock::acquire(&root, false, warden.config.lease).await?;
            let forgotten = async {
                DeltaStore::open(&root).await?;
                let store = DeltaStore::open_or_create(&root, &lock).await?;
                let author = Author { store: &store, now: clock.now(), run_id: &common.run_id };
                let session = warden.engine.session_over(&store, author.now).await?;
                anyhow::Ok(Journal::read(&session, &id).await?.forget(author).await?)
            };
            let forgotten = forgotten.await;
            lock.release().await;
            forget_report(&id, forgotten?, args.output)
        }
        Action::Plan => {
            let store = DeltaStore::open(&root).await?;
            let author = Author { store: &store, now, run_id: &common.run_id };
            let enforced = enforce(&warden, group.as_ref(), author, &|| Ok(()), How::Look).await?;
            let due = enforced.waf == WafState::Planned;
            let title = group.map_or(NO_GROUP.to_owned(), |group| {
                let title = if due { "not in force: waf sync or run would bring it there" } else { "in force already" };
                format!("Plan for the rule group {}, {title}", group.name())
            });
            report(&enforced, &title, due, args.output)
        }
    }
}

fn forget_report(id: &str, sessions: usize, output: Output) -> anyhow::Result<Ending> {
    match output {
        Output::Json => print_json(&json!({"group": id, "sessions": sessions}))?,
        Output::Text => {
            let id = printable(id);
            print(&match sessions {
                0 => format!("Nothing is known to be in the rule group with the id {id}\n"),
                _ => format!("{sessions} sessions of the rule group with the id {id} are forgotten\n"),
            })?;
        }
    }
    Ok(Ending::Done)
}

/// What is due and not in the rules, and what else a person should look at.
fn of_note(enforced: &Enforced) -> Value {
    json!({
        "foreign_wcu": enforced.plan.foreign_wcu,
        "sessions": enforced.plan.sessions,
        "left_out": enforced.plan.left_out,
        "full_at": enforced.full_at.map(rfc3339),
        "alarms": enforced.alarms,
    })
}

fn report(enforced: &Enforced, title: &str, changed: bool, output: Output) -> anyhow::Result<Ending> {
    let plan = &enforced.plan;
    match output {
        Output::Text => print(&format!("{title}: {}", plan_text(enforced)))?,
        Output::Json => {
            let rules: Vec<_> = plan
                .rules
                .iter()
                .map(|rule| json!({"name": rule.name, "mode": rule.mode, "wcu": rule.wcu, "component": rule.component, "pattern": rule.pattern, "sessions": rule.sessions}))
                .collect();
            let mut object = of_note(enforced);
            object["changed"] = changed.into();
            object["rules"] = rules.into();
            object["wcu"] = plan.wcu.into();
            object["capacity"] = plan.capacity.into();
            print_json(&object)?;
        }
    }
    Ok(tell_alarms(&enforced.alarms))
}

async fn show(group: &AwsRuleGroup, enforced: Option<&Enforced>, output: Output) -> anyhow::Result<Ending> {
    let snapshot = group.read().await?;
    let action = |rule: &Rule| match rule.action() {
        Some(action) if action.block().is_some() => "block",
        Some(action) if action.count().is_some() => "count",
        Some(action) if action.allow().is_some() => "allow",
        Some(_) => "other",
        None => "none",
    };
    match output {
        Output::Json => {
            let rules: Vec<_> = snapshot
                .rules
                .iter()
                .map(|rule| json!({"name": rule.name(), "priority": rule.priority(), "ours": is_ours(rule), "action": action(rule), "pattern": patterns(rule).first()}))
                .collect();
            let mut object = enforced.map_or_else(|| json!({}), of_note);
            object["group"] = group.name().into();
            object["capacity"] = snapshot.capacity.into();
            object["wcu"] = enforced.map(|enforced| enforced.plan.wcu).into();
            object["in_force"] = enforced.map(|enforced| enforced.waf == WafState::Unchanged).into();
            object["rules"] = rules.into();
            print_json(&object)?;
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
                        patterns(rule).into_iter().next().unwrap_or_else(|| "(not ours)".to_owned()),
                    ]
                })
                .collect();
            if !rows.is_empty() {
                text += &crate::text::table(&["priority", "name", "action", "matches"], &rows);
            }
            match enforced {
                None => text += "There is no state yet: what should be in it is not known.\n",
                Some(enforced) => {
                    let (plan, total) = (&enforced.plan, snapshot.capacity);
                    if enforced.waf != WafState::Unchanged {
                        text += "NOT WHAT IS DUE: waf plan shows it, waf sync or run brings it there\n";
                    }
                    text += &format!("{} sessions, {} of {total} WCU\n", plan.sessions, plan.wcu + plan.foreign_wcu);
                    if !plan.left_out.is_empty() {
                        text += &format!("LEFT OUT, not in force: {}\n", plan.left_out.join(", "));
                    }
                    if let Some(full_at) = enforced.full_at {
                        text += &format!("At the present rate of blocks it is full at {}\n", rfc3339(full_at));
                    }
                }
            }
            print(&text)?;
        }
    }
    Ok(enforced.map_or(Ending::Done, |enforced| tell_alarms(&enforced.alarms)))
}
