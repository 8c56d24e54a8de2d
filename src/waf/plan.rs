//! The plan: which rules the group should have. Pure.

use aws_sdk_wafv2::types::Rule;

use super::pack::{Packed, PackedRule, Target, is_ours, pack};
use crate::config::Mode;

/// What is to be in force.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    pub block: Vec<Target>,
    pub count: Vec<Target>,
    /// Active sessions that no rule can hold, and why.
    pub unmatchable: Vec<(String, &'static str)>,
}

/// The rules that fit, and what does not.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub rules: Vec<PackedRule>,
    pub wcu: u64,
    /// WCUs of the group.
    pub capacity: u64,
    /// WCUs of the rules that are not ours.
    pub foreign_wcu: u64,
    /// Sessions in the rules.
    pub sessions: u64,
    pub left_out: Vec<String>,
}

/// Plans the rules for a group of `capacity` WCUs of which others use `foreign_wcu`. Blocks come before counts.
pub fn plan(desired: &Desired, capacity: u64, foreign_wcu: u64) -> Plan {
    let room = capacity.saturating_sub(foreign_wcu);
    let blocks = pack(&desired.block, Mode::Enforce, room);
    let counts = pack(&desired.count, Mode::Count, room - blocks.wcu);
    let Packed { mut rules, mut wcu, mut left_out } = blocks;
    rules.extend(counts.rules);
    wcu += counts.wcu;
    left_out.extend(counts.left_out);
    left_out.extend(desired.unmatchable.iter().map(|(session, _)| session.clone()));
    left_out.sort();
    left_out.dedup();
    let sessions = rules.iter().flat_map(|rule| &rule.sessions).collect::<std::collections::BTreeSet<_>>().len() as u64;
    Plan { rules, wcu, capacity, foreign_wcu, sessions, left_out }
}

/// All rules of the group: those that are not ours as they are, in their order, then ours.
pub fn rules_for_group(plan: &Plan, current: &[Rule]) -> Vec<Rule> {
    let foreign: Vec<Rule> = current.iter().filter(|rule| !is_ours(rule)).cloned().collect();
    let taken: std::collections::BTreeSet<i32> = foreign.iter().map(Rule::priority).collect();
    // Behind every other rule, as a rule that allows something was put there by somebody who meant it.
    let behind = taken.last().map_or(0, |last| last.saturating_add(1));
    let free = (behind..i32::MAX).chain(0..behind).filter(|priority| !taken.contains(priority));
    let ours = plan.rules.iter().zip(free).map(|(rule, priority)| rule.at_priority(priority));
    foreign.into_iter().chain(ours).collect()
}

/// Whether the group has just these rules. The order of the list means nothing to WAF, the priorities do.
pub fn is_in_force(wanted: &[Rule], current: &[Rule]) -> bool {
    let sorted = |rules: &[Rule]| {
        let mut rules: Vec<Rule> = rules.to_vec();
        rules.sort_by_key(Rule::priority);
        rules
    };
    sorted(wanted) == sorted(current)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::component::{Component, Credential};

    fn targets(range: std::ops::Range<usize>) -> Vec<Target> {
        let credential = |text| Credential { component: Component::PathStart, text };
        let target = |n| Target { session_id: format!("id{n:010}"), credential: credential(format!("id{n:010}")) };
        range.map(target).collect()
    }

    fn foreign(name: &str, priority: i32) -> Rule {
        let desired = Desired { block: targets(900..901), ..Desired::default() };
        let mut rule = plan(&desired, 10, 0).rules[0].at_priority(priority);
        rule.name = name.into();
        rule
    }

    #[test]
    fn applying_a_plan_leaves_nothing_to_do() {
        let desired = Desired { block: targets(0..40), count: targets(40..50), ..Desired::default() };
        let current = [foreign("theirs", 7)];
        let applied = rules_for_group(&plan(&desired, 100, 2), &current);
        assert!(!is_in_force(&applied, &current));
        assert!(is_in_force(&rules_for_group(&plan(&desired, 100, 2), &applied), &applied));
        let shuffled: Vec<Rule> = applied.iter().rev().cloned().collect();
        assert!(is_in_force(&applied, &shuffled));
    }

    #[test]
    fn foreign_rules_stay_as_they_are_and_priorities_differ() {
        let current = [foreign("last", i32::MAX), foreign("first", 0)];
        let desired = Desired { block: targets(0..40), ..Desired::default() };
        let applied = rules_for_group(&plan(&desired, 100, 4), &current);
        assert_eq!(applied[..2], current);
        let priorities: std::collections::BTreeSet<i32> = applied.iter().map(Rule::priority).collect();
        assert_eq!(priorities.len(), applied.len());
        assert!(priorities.first() == Some(&0));
        let emptied = rules_for_group(&plan(&Desired::default(), 100, 4), &applied);
        assert_eq!(emptied, current);
    }

    #[test]
    fn a_change_by_hand_is_seen() {
        let desired = Desired { block: targets(0..40), ..Desired::default() };
        let applied = rules_for_group(&plan(&desired, 100, 0), &[]);
        let mut tampered = applied.clone();
        tampered[0].action = tampered[0].action.clone().map(|action| {
            let mut action = action;
            action.block = None;
            action.count = Some(aws_sdk_wafv2::types::CountAction::builder().build());
            action
        });
        assert!(!is_in_force(&applied, &tampered));
    }

    #[test]
    fn others_use_up_room() {
        let desired = Desired { block: targets(0..100), ..Desired::default() };
        let plan = plan(&desired, 30, 24);
        assert_eq!(plan.wcu, 6);
        assert_eq!(plan.sessions as usize + plan.left_out.len(), 100);
    }
}
