//! Where a device is on the network, over time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rand::Rng;
use rand::seq::IndexedRandom;

use super::addresses::{Access, Operator, Plan, edges};

/// A minute, in milliseconds.
pub const MINUTE: i64 = 60_000;

/// The addresses that a device has from a moment on.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// Epoch milliseconds.
    pub from: i64,
    pub v4: Ipv4Addr,
    pub v6: Option<Ipv6Addr>,
    /// CloudFront edge location that answers it.
    pub edge: &'static str,
    /// Megabits a second.
    pub mbit: u64,
}

/// A device's attachments, in order of time, the first one before it plays anything.
#[derive(Clone, Debug)]
pub struct Path(Vec<Attachment>);

impl Path {
    /// The attachment at a time in epoch milliseconds, with its number.
    pub fn at(&self, now: i64) -> (usize, &Attachment) {
        let after = self.0.partition_point(|a| a.from <= now);
        let number = after.saturating_sub(1);
        (number, &self.0[number])
    }

    /// The path from a time on.
    pub fn starting(mut self, time: i64) -> Path {
        let (number, _) = self.at(time);
        self.0.drain(..number);
        self.0[0].from = time;
        self
    }

    /// Goes on with another path from its beginning on.
    pub fn then(mut self, other: Path) -> Path {
        if let Some(first) = other.0.first() {
            self.0.retain(|a| a.from < first.from);
        }
        self.0.extend(other.0);
        self
    }
}

/// A line: one IPv4 address and, if dual stack, one /64. All devices of a home share it.
#[derive(Clone, Debug)]
pub struct Line {
    v4: Ipv4Addr,
    v6: Option<u64>,
    edge: &'static str,
    mbit: u64,
}

impl Line {
    /// A home in a country.
    pub fn home(rng: &mut impl Rng, plan: &Plan, country: &str, dual_stack: bool) -> Line {
        let operator = plan.pick(rng, Access::Home, country);
        let v6 = dual_stack.then(|| operator.v6_prefix(rng));
        Line::of(rng, operator, v6)
    }

    /// An office: IPv4 only, as most are.
    pub fn office(rng: &mut impl Rng, plan: &Plan, country: &str) -> Line {
        let operator = plan.pick(rng, Access::Office, country);
        Line::of(rng, operator, None)
    }

    /// A rented server.
    pub fn server(rng: &mut impl Rng, plan: &Plan) -> Line {
        let access = *[Access::Hosting, Access::Vpn].choose(rng).expect("two");
        let operator = plan.pick(rng, access, "anywhere");
        Line::of(rng, operator, None)
    }

    fn of(rng: &mut impl Rng, operator: &Operator, v6: Option<u64>) -> Line {
        Line {
            v4: operator.v4_host(rng),
            v6,
            edge: edges(operator.country).choose(rng).expect("not empty"),
            mbit: rng.random_range(12..120),
        }
    }

    /// The IPv4 address.
    pub fn address(&self) -> IpAddr {
        IpAddr::V4(self.v4)
    }

    /// The edge location that answers it.
    pub fn edge(&self) -> &'static str {
        self.edge
    }

    /// A device behind the line, between two times. Its IPv6 address is a temporary one
    /// (RFC 8981) and changes within the /64.
    pub fn device(&self, rng: &mut impl Rng, from: i64, to: i64) -> Path {
        let mut attachments = vec![];
        let mut start = from;
        loop {
            attachments.push(Attachment {
                from: start,
                v4: self.v4,
                v6: self.v6.map(|prefix| interface(rng, prefix)),
                edge: self.edge,
                mbit: self.mbit,
            });
            start += rng.random_range(3 * MINUTE..25 * MINUTE);
            if start >= to || self.v6.is_none() {
                return Path(attachments);
            }
        }
    }
}

/// A phone on a carrier's network between two times. The carrier's address translation takes
/// another address of its pool every few minutes; some carriers give phones a /64 as well.
pub fn carrier(rng: &mut impl Rng, plan: &Plan, country: &str, from: i64, to: i64) -> Path {
    let operator = plan.pick(rng, Access::Mobile, country);
    // A region's pool is a /24 of the carrier's block.
    let pool = u32::from(operator.v4_host(rng)) & !0xff;
    let prefix = operator.asn.is_multiple_of(3).then(|| operator.v6_prefix(rng));
    let v6 = prefix.map(|prefix| interface(rng, prefix));
    let edge = edges(operator.country).choose(rng).expect("not empty");
    let mut attachments = vec![];
    let mut start = from;
    while start < to {
        attachments.push(Attachment {
            from: start,
            v4: Ipv4Addr::from(pool + rng.random_range(1..255_u32)),
            v6,
            edge,
            mbit: rng.random_range(3..40),
        });
        start += rng.random_range(2 * MINUTE..9 * MINUTE);
    }
    Path(attachments)
}

/// A phone whose carrier takes another address of its pool at least every `longest` milliseconds.
pub fn pool(rng: &mut impl Rng, plan: &Plan, country: &str, from: i64, to: i64, longest: i64) -> Path {
    let operator = plan.pick(rng, Access::Mobile, country);
    let region = u32::from(operator.v4_host(rng)) & !0xff;
    let size = rng.random_range(6..250_u32);
    let edge = *edges(operator.country).choose(rng).expect("not empty");
    let mbit = rng.random_range(3..40);
    hops(rng, from, to, longest, |rng, from| Attachment {
        from,
        v4: Ipv4Addr::from(region + 1 + rng.random_range(0..size)),
        v6: None,
        edge,
        mbit,
    })
}

/// The exits of a relay in some countries, each for at most `longest` milliseconds.
pub fn relay(rng: &mut impl Rng, plan: &Plan, countries: &[&str], from: i64, to: i64, longest: i64) -> Path {
    let mbit = rng.random_range(8..60);
    let dual_stack = rng.random_ratio(1, 2);
    hops(rng, from, to, longest, |rng, from| {
        let country = *countries.choose(rng).expect("one at least");
        let operator = plan.pick(rng, Access::Relay, country);
        let v6 = dual_stack.then(|| {
            let prefix = operator.v6_prefix(rng);
            interface(rng, prefix)
        });
        let edge = edges(operator.country)[0];
        Attachment { from, v4: operator.v4_host(rng), v6, edge, mbit }
    })
}

/// Servers of some kinds, anywhere, each for at most `longest` milliseconds.
pub fn exits(rng: &mut impl Rng, plan: &Plan, kinds: &[Access], from: i64, to: i64, longest: i64) -> Path {
    let mbit = rng.random_range(20..120);
    hops(rng, from, to, longest, |rng, from| {
        let access = *kinds.choose(rng).expect("one at least");
        let all: Vec<&Operator> = plan.operators().iter().filter(|operator| operator.access == access).collect();
        let operator = all.choose(rng).expect("the plan has some of each kind");
        Attachment { from, v4: operator.v4_host(rng), v6: None, edge: edges(operator.country)[0], mbit }
    })
}

/// One attachment after the other, each for a third of `longest` to all of it.
fn hops<R: Rng>(
    rng: &mut R,
    from: i64,
    to: i64,
    longest: i64,
    mut attach: impl FnMut(&mut R, i64) -> Attachment,
) -> Path {
    let mut attachments = vec![];
    let mut start = from;
    while start < to {
        attachments.push(attach(rng, start));
        start += rng.random_range(longest / 3..=longest);
    }
    Path(attachments)
}

/// A random interface identifier in a /64.
fn interface(rng: &mut impl Rng, prefix: u64) -> Ipv6Addr {
    Ipv6Addr::from((u128::from(prefix) << 64) | u128::from(rng.random::<u64>()))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn network(address: Ipv6Addr) -> u128 {
        u128::from(address) >> 64
    }

    #[test]
    fn privacy_addresses_change_within_one_network() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let line = Line::home(&mut rng, &Plan::new(), "GB", true);
        let Path(attachments) = line.device(&mut rng, 0, 120 * MINUTE);
        assert!(attachments.len() > 3);
        let first = attachments[0].v6.unwrap();
        assert!(attachments[1..].iter().all(|a| a.v6 != Some(first)));
        assert!(attachments.iter().all(|a| network(a.v6.unwrap()) == network(first)));
        assert!(attachments.iter().all(|a| a.v4 == attachments[0].v4));
    }

    #[test]
    fn a_handover_ends_the_former_network() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let plan = Plan::new();
        let home = Line::home(&mut rng, &plan, "DE", false);
        let carrier = carrier(&mut rng, &plan, "DE", 0, 60 * MINUTE);
        let path = carrier.then(home.device(&mut rng, 5 * MINUTE, 60 * MINUTE));
        assert_ne!(path.at(5 * MINUTE - 1).1.v4, home.v4);
        assert_eq!(path.at(5 * MINUTE).1.v4, home.v4);
        assert_eq!(path.at(50 * MINUTE).1.v4, home.v4);
    }
}
