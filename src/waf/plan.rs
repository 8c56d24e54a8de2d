//! The plan: which rules the group should have. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_wafv2::types::Rule;
use chrono::{DateTime, Utc};

use super::pack::{Packed, PackedRule, Target, pack};
use crate::config::Mode;
use crate::detect::file::Strength;
use crate::history::Origin;

/// How often a session that does not fit is passed over for those behind it, before no more are tried.
const PASSED_OVER: usize = 8;

/// A session that is to be blocked, or counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    pub session_id: String,
    /// `enforce` or `count`.
    pub mode: Mode,
    pub origin: Origin,
    pub strength: Option<Strength>,
    pub score: f64,
    pub revoked_at: Option<DateTime<Utc>>,
    /// It is still being watched, or tried to be; taken for granted where nobody has looked.
    pub still_active: bool,
    /// All that WAF has to match.
    pub targets: Vec<Target>,
}

/// What is to be in force.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    pub blocks: Vec<Block>,
    /// Active sessions that no rule can hold, and why.
    pub unmatchable: Vec<(String, &'static str)>,
    /// Sessions that are in the rules, and that nothing in the history takes out: they stay.
    pub unexplained: BTreeSet<String>,
}

impl Desired {
    /// Adds something that WAF has to match for a block; those of one session come one behind the other.
    pub fn add(&mut self, block: Block, target: Target) {
        match self.blocks.last_mut().filter(|last| last.session_id == block.session_id) {
            Some(last) => last.targets.push(target),
            None => self.blocks.push(Block { targets: vec![target], ..block }),
        }
    }
}

/// What there is room for.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// WCUs of the group.
    pub capacity: u64,
    /// WCUs of the rules that stay whatever is planned: those of others.
    pub foreign_wcu: u64,
    /// The share of the capacity that is kept for blocks by hand.
    pub manual_share: f64,
    /// What WAF asks for each WCU that we count.
    pub price: f64,
}

impl Room {
    /// Of a group of that many WCUs that nobody else uses, for WAF's documented prices.
    pub fn of(capacity: u64) -> Room {
        Room { capacity, foreign_wcu: 0, manual_share: 0.0, price: 1.0 }
    }

    /// WCUs for our rules, as we count them.
    fn ours(&self) -> u64 {
        (self.capacity.saturating_sub(self.foreign_wcu) as f64 / self.price) as u64
    }

    fn kept_for_manual(&self) -> u64 {
        self.ours().min((self.capacity as f64 * self.manual_share / self.price) as u64)
    }
}

/// The rules that fit, and what does not.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub rules: Vec<PackedRule>,
    /// WCUs of these rules: as we count, or as WAF says where it was asked.
    pub wcu: u64,
    /// WCUs of the group.
    pub capacity: u64,
    /// WCUs of the rules that are not ours.
    pub foreign_wcu: u64,
    /// Sessions in the rules.
    pub sessions: u64,
    /// There was room for all, so that none had to come before another.
    pub all_fit: bool,
    /// Sessions for which there is no room, or that no rule can hold.
    pub left_out: Vec<String>,
}

/// Plans the rules. Where not all blocks fit: those by hand up to their share, then automatic ones, then what is left of those
/// by hand, then what is only counted. Among them come sessions that are still active before others, then strong ones,
/// then high scores, then late ones.
pub fn plan(desired: &Desired, room: &Room) -> Plan {
    let all: Vec<&Block> = desired.blocks.iter().collect();
    let whole = packed(&all);
    let all_fit = whole.0.wcu + whole.1.wcu <= room.ours();
    let (chosen, (blocks, counts)) = if all_fit {
        (all, whole)
    } else {
        let chosen = choose(&desired.blocks, room);
        let packed = packed(&chosen);
        (chosen, packed)
    };
    let mut left_out: BTreeSet<String> = desired.unmatchable.iter().map(|(session, _)| session.clone()).collect();
    let has_room: BTreeSet<&str> = chosen.iter().map(|block| block.session_id.as_str()).collect();
    let without = desired.blocks.iter().filter(|block| !has_room.contains(block.session_id.as_str()));
    left_out.extend(without.map(|block| block.session_id.clone()));
    left_out.extend(blocks.too_long);
    left_out.extend(counts.too_long);
    let wcu = blocks.wcu + counts.wcu;
    let rules: Vec<PackedRule> = blocks.rules.into_iter().chain(counts.rules).collect();
    let sessions = rules.iter().flat_map(|rule| &rule.sessions).collect::<BTreeSet<_>>().len() as u64;
    let (capacity, foreign_wcu) = (room.capacity, room.foreign_wcu);
    Plan { rules, wcu, capacity, foreign_wcu, sessions, all_fit, left_out: left_out.into_iter().collect() }
}

fn choose<'a>(blocks: &'a [Block], room: &Room) -> Vec<&'a Block> {
    let mut ranked: Vec<&Block> = blocks.iter().collect();
    ranked.sort_by(|one, other| {
        let rank = |block: &Block| (Reverse(block.still_active), Reverse(block.strength));
        rank(one).cmp(&rank(other)).then_with(|| other.score.total_cmp(&one.score)).then_with(|| {
            (Reverse(one.revoked_at), &one.session_id).cmp(&(Reverse(other.revoked_at), &other.session_id))
        })
    });
    let (enforced, counted): (Vec<&Block>, Vec<&Block>) =
        ranked.into_iter().partition(|block| block.mode == Mode::Enforce);
    let (manual, automatic): (Vec<&Block>, Vec<&Block>) =
        enforced.into_iter().partition(|block| block.origin != Origin::Auto);
    let mut chosen = Vec::new();
    let rest_of_manual = take(&mut chosen, manual, room.kept_for_manual());
    take(&mut chosen, automatic, room.ours());
    take(&mut chosen, rest_of_manual, room.ours());
    take(&mut chosen, counted, room.ours());
    chosen
}

/// Takes as many of the first candidates as fit into `room` WCUs beside what is chosen already, and gives the others back.
fn take<'a>(chosen: &mut Vec<&'a Block>, candidates: Vec<&'a Block>, room: u64) -> Vec<&'a Block> {
    let mut rest: Vec<(u64, &Block)> = candidates.iter().map(|block| (least_wcu(block), *block)).collect();
    for _ in 0..PASSED_OVER {
        // Who has more tokens than there is room for, of however many such sessions, keeps nobody out who comes behind.
        let free = room.saturating_sub(wcu(chosen));
        rest.retain(|(least, _)| *least <= free);
        let blocks: Vec<&Block> = rest.iter().map(|(_, block)| *block).collect();
        let fits = |number: usize| wcu(&[chosen.as_slice(), &blocks[..number]].concat()) <= room;
        // Packing more never takes less, so that halving finds the most that fits.
        let most = partition_point(blocks.len(), fits);
        chosen.extend(&blocks[..most]);
        if most == rest.len() {
            break;
        }
        rest.drain(..=most);
    }
    let taken: BTreeSet<&str> = chosen.iter().map(|block| block.session_id.as_str()).collect();
    candidates.into_iter().filter(|block| !taken.contains(block.session_id.as_str())).collect()
}

/// WCUs that a block costs at least beside others: of each sort of its rules it may share one with them.
fn least_wcu(block: &Block) -> u64 {
    let (blocks, counts) = packed(&[block]);
    let mut shared: BTreeMap<&str, u64> = BTreeMap::new();
    for rule in blocks.rules.iter().chain(&counts.rules) {
        let most = shared.entry(&rule.component).or_default();
        *most = rule.wcu.max(*most);
    }
    (blocks.wcu + counts.wcu).saturating_sub(shared.into_values().sum())
}

/// The greatest number up to `most` of which the predicate holds; it holds of all lesser ones.
fn partition_point(most: usize, holds: impl Fn(usize) -> bool) -> usize {
    if holds(most) {
        return most;
    }
    let (mut low, mut high) = (0, most);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if holds(middle) { low = middle } else { high = middle }
    }
    low
}

fn packed(blocks: &[&Block]) -> (Packed, Packed) {
    let of = |mode| {
        let blocks = blocks.iter().filter(move |block| block.mode == mode);
        pack(blocks.flat_map(|block| &block.targets), mode)
    };
    (of(Mode::Enforce), of(Mode::Count))
}

fn wcu(blocks: &[&Block]) -> u64 {
    let (blocks, counts) = packed(blocks);
    blocks.wcu + counts.wcu
}

/// All rules of the group: those that stay as they are, in their order, then ours. `stays` tells of a rule that is there whether
/// it does.
pub fn rules_for_group(plan: &Plan, current: &[Rule], stays: impl Fn(&Rule) -> bool) -> Vec<Rule> {
    let staying: Vec<Rule> = current.iter().filter(|rule| stays(rule)).cloned().collect();
    let taken: BTreeSet<i32> = staying.iter().map(Rule::priority).collect();
    // Behind every other rule, as a rule that allows something was put there by somebody who meant it.
    let behind = taken.last().map_or(0, |last| last.saturating_add(1));
    let free = (behind..i32::MAX).chain(0..behind).filter(|priority| !taken.contains(priority));
    let ours = plan.rules.iter().zip(free).map(|(rule, priority)| rule.at_priority(priority));
    staying.into_iter().chain(ours).collect()
}

/// Whether the group has just these rules. The order of the list means nothing to WAF, the priorities do; what WAF may fill in
/// by itself, as an empty list of labels, does not count.
pub fn is_in_force(wanted: &[Rule], current: &[Rule]) -> bool {
    let sorted = |rules: &'_ [Rule]| {
        let mut rules: Vec<(i32, String, String)> = rules.iter().map(essence).collect();
        rules.sort();
        rules
    };
    sorted(wanted) == sorted(current)
}

/// What a rule does: its priority, its name, and its statement and action.
fn essence(rule: &Rule) -> (i32, String, String) {
    (rule.priority(), rule.name().to_owned(), format!("{:?} {:?}", rule.statement(), rule.action()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::component::{Component, Credential};
    use crate::waf::pack::is_ours;

    fn block(id: &str) -> Block {
        let target = |text: String| Target {
            session_id: id.to_owned(),
            credential: Credential { component: Component::PathStart, text },
        };
        Block {
            session_id: id.to_owned(),
            mode: Mode::Enforce,
            origin: Origin::Auto,
            strength: Some(Strength::Medium),
            score: 1.0,
            revoked_at: None,
            still_active: true,
            targets: vec![target(id.to_owned())],
        }
    }

    fn blocks(range: std::ops::Range<usize>) -> Vec<Block> {
        range.map(|n| block(&crate::session::token::derived_id(&n.to_string())[..12])).collect()
    }

    fn desired(blocks: Vec<Block>) -> Desired {
        Desired { blocks, ..Desired::default() }
    }

    fn foreign(name: &str, priority: i32) -> Rule {
        let mut rule = plan(&desired(blocks(900..901)), &Room::of(10)).rules[0].at_priority(priority);
        rule.name = name.into();
        rule
    }

    fn in_group(plan: &Plan, current: &[Rule]) -> Vec<Rule> {
        rules_for_group(plan, current, |rule| !is_ours(rule))
    }

    fn with_foreign(foreign_wcu: u64) -> Room {
        Room { foreign_wcu, ..Room::of(100) }
    }

    /// Whoever gets a token anew for every request keeps nobody out but himself.
    #[test]
    fn sessions_of_many_tokens_leave_room_for_others() {
        let mut wanted = blocks(0..30);
        for sharer in 0..12 {
            let mut block = block(&format!("sharer{sharer:06}"));
            let tokens = blocks(1_000 * (sharer + 1)..1_000 * (sharer + 1) + 800);
            block.targets = tokens.into_iter().flat_map(|token| token.targets).collect();
            block.targets.iter_mut().for_each(|target| target.session_id.clone_from(&block.session_id));
            block.score = 9.0;
            wanted.push(block);
        }
        let alone = wcu(&[&wanted[30]]);
        for capacity in [alone - 10, alone + 20, 2 * alone + 20] {
            let plan = plan(&desired(wanted.clone()), &Room::of(capacity));
            let left: Vec<&String> = plan.left_out.iter().filter(|session| !session.starts_with("sharer")).collect();
            assert!(left.is_empty() && plan.wcu <= capacity, "{capacity}: {left:?}");
        }
    }

    #[test]
    fn applying_a_plan_leaves_nothing_to_do() {
        let mut wanted = blocks(0..50);
        wanted[40..].iter_mut().for_each(|block| block.mode = Mode::Count);
        let wanted = desired(wanted);
        let current = [foreign("theirs", 7)];
        let applied = in_group(&plan(&wanted, &with_foreign(2)), &current);
        assert!(!is_in_force(&applied, &current));
        assert!(is_in_force(&in_group(&plan(&wanted, &with_foreign(2)), &applied), &applied));
        let shuffled: Vec<Rule> = applied.iter().rev().cloned().collect();
        assert!(is_in_force(&applied, &shuffled));
        // WAF may say in its answer what was left out.
        let mut filled = applied.clone();
        filled[0].rule_labels = Some(vec![]);
        assert!(is_in_force(&applied, &filled));
    }

    #[test]
    fn foreign_rules_stay_as_they_are_and_priorities_differ() {
        let current = [foreign("last", i32::MAX), foreign("first", 0)];
        let applied = in_group(&plan(&desired(blocks(0..40)), &with_foreign(4)), &current);
        assert_eq!(applied[..2], current);
        let priorities: BTreeSet<i32> = applied.iter().map(Rule::priority).collect();
        assert_eq!(priorities.len(), applied.len());
        assert!(priorities.first() == Some(&0));
        let emptied = in_group(&plan(&Desired::default(), &with_foreign(4)), &applied);
        assert_eq!(emptied, current);
    }

    #[test]
    fn a_change_by_hand_is_seen() {
        let applied = in_group(&plan(&desired(blocks(0..40)), &with_foreign(0)), &[]);
        let mut tampered = applied.clone();
        tampered[0].action = tampered[0].action.clone().map(|action| {
            let mut action = action;
            action.block = None;
            action.count = Some(aws_sdk_wafv2::types::CountAction::builder().build());
            action
        });
        assert!(!is_in_force(&applied, &tampered));
    }

    /// The ids of those that have room for so many rules of some sixteen such ids.
    fn fit(blocks: Vec<Block>, room: &Room) -> BTreeSet<String> {
        let total = blocks.len();
        let plan = plan(&desired(blocks), room);
        assert!(plan.wcu + plan.foreign_wcu <= room.capacity);
        let inside: BTreeSet<String> = plan.rules.iter().flat_map(|rule| rule.sessions.clone()).collect();
        assert_eq!((inside.len() as u64, inside.len() + plan.left_out.len()), (plan.sessions, total));
        assert!(plan.left_out.iter().all(|session| !inside.contains(session)));
        inside
    }

    #[test]
    fn others_use_up_room_and_waf_may_ask_more() {
        let all = fit(blocks(0..300), &Room::of(30)).len();
        assert!(all > 150 && all < 300, "{all}");
        let beside = fit(blocks(0..300), &Room { foreign_wcu: 24, ..Room::of(30) }).len();
        let dear = fit(blocks(0..300), &Room { price: 5.0, ..Room::of(30) }).len();
        assert_eq!((beside, dear), (fit(blocks(0..300), &Room::of(6)).len(), beside));
        assert_eq!(fit(blocks(0..300), &Room { foreign_wcu: 31, ..Room::of(31) }).len(), 0);
    }

    /// Each of these is worth more than the one before it, whatever else is said of them.
    #[test]
    fn who_comes_first_where_not_all_fit() {
        let at = |minute: i64| DateTime::from_timestamp(60 * minute, 0);
        let worth = [
            Block { still_active: false, strength: Some(Strength::Strong), score: 9.0, ..block("ended-strong") },
            Block { score: 1.5, revoked_at: at(9), ..block("medium-low-late") },
            Block { score: 2.5, revoked_at: at(1), ..block("medium-high") },
            Block { strength: Some(Strength::Strong), score: 1.0, revoked_at: at(1), ..block("strong-early") },
            Block { strength: Some(Strength::Strong), score: 1.0, revoked_at: at(2), ..block("strong-late") },
        ];
        // Room for one rule of one session each.
        for number in 1..worth.len() {
            let lesser = &worth[..number];
            for more in &worth[number..] {
                for less in lesser {
                    let alone = fit(vec![less.clone(), more.clone()], &Room::of(2));
                    assert_eq!(alone, BTreeSet::from([more.session_id.clone()]), "against {}", less.session_id);
                }
            }
        }
        let counted = Block { mode: Mode::Count, strength: Some(Strength::Strong), ..block("only-counted") };
        assert_eq!(fit(vec![counted, block("blocked")], &Room::of(2)), BTreeSet::from(["blocked".to_owned()]));
    }

    #[test]
    fn blocks_by_hand_have_their_share_and_what_is_left() {
        let manual = |blocks: Vec<Block>| -> Vec<Block> {
            blocks.into_iter().map(|block| Block { origin: Origin::Manual, ..block }).collect()
        };
        let by_hand: BTreeSet<String> = blocks(0..1_000).into_iter().map(|block| block.session_id).collect();
        let of_hand = |inside: &BTreeSet<String>| inside.intersection(&by_hand).count();
        let room = Room { manual_share: 0.1, ..Room::of(300) };
        let both = |automatic: usize| [manual(blocks(0..1_000)), blocks(1_000..1_000 + automatic)].concat();
        // Many of both: a tenth for those by hand.
        let inside = fit(both(3_000), &room);
        let share = of_hand(&inside) as f64 / inside.len() as f64;
        assert!((0.08..0.12).contains(&share), "{share}");
        // Few automatic ones: all of them, and the rest is for those by hand.
        let inside = fit(both(50), &room);
        assert_eq!(inside.len() - of_hand(&inside), 50);
        assert!(of_hand(&inside) > 900, "{}", of_hand(&inside));
        // Few by hand: theirs is not kept free.
        let few = [manual(blocks(0..3)), blocks(1_000..4_000)].concat();
        assert_eq!(of_hand(&fit(few.clone(), &room)), 3);
        let without = fit(blocks(1_000..4_000), &Room::of(300)).len();
        assert!(fit(few, &room).len() >= without, "{without}");
    }

    #[test]
    fn one_that_is_too_large_does_not_keep_the_others_out() {
        let mut large = Block { strength: Some(Strength::Strong), ..block("large") };
        large.targets = blocks(0..900).into_iter().flat_map(|block| block.targets).collect();
        large.targets.iter_mut().for_each(|target| target.session_id = "large".into());
        let mut all = blocks(1_000..1_100);
        all.push(large);
        let inside = fit(all, &Room::of(60));
        assert_eq!(inside.len(), 100);
        assert!(!inside.contains("large"));
    }
}
