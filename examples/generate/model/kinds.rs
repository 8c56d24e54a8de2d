//! The kinds of sessions, their labels and how often they occur.

/// What a session is, for whoever judges a detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label {
    /// Must be found.
    Pirate,
    /// Must be left alone.
    Benign,
    /// A matter of policy: not counted.
    Grey,
}

impl Label {
    /// The word in a labels file.
    pub fn name(self) -> &'static str {
        match self {
            Label::Pirate => "pirate",
            Label::Benign => "benign",
            Label::Grey => "grey",
        }
    }
}

/// How a session is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One device on a line with IPv4 only.
    Home,
    /// One device on a line with IPv4 and IPv6, which race for each connection.
    HomeDualStack,
    /// A phone that comes home: carrier, then Wi-Fi, or the other way round.
    Phone,
    /// A phone on the way: cells, Wi-Fi of stations and cafés, cells again.
    Commuter,
    /// A phone that fetches manifests, a television that fetches segments.
    Casting,
    /// A player whose manifests and segments come with different user agents.
    PlayerTwoAgents,
    /// One of many sessions behind one address.
    Office,
    /// A home whose session id others send with a bad signature, from many addresses.
    FramedVictim,
    /// A link that was posted somewhere: strangers use one session and come and go.
    SharedLink,
    /// A handful of homes of one country that share one session for the evening.
    Ring,
    /// The same across borders.
    RingAbroad,
    /// Two homes of a family.
    TwoHomes,
}

/// Kinds of a label with their shares, relative to each other.
const BENIGN: &[(Kind, usize)] = &[
    (Kind::Home, 40),
    (Kind::HomeDualStack, 24),
    (Kind::Phone, 9),
    (Kind::Casting, 7),
    (Kind::PlayerTwoAgents, 7),
    (Kind::Office, 8),
    (Kind::Commuter, 4),
    (Kind::FramedVictim, 1),
];
const PIRATE: &[(Kind, usize)] = &[(Kind::SharedLink, 3), (Kind::Ring, 3), (Kind::RingAbroad, 2)];
const GREY: &[(Kind, usize)] = &[(Kind::TwoHomes, 1)];

/// Every benign kind occurs at least so often, where there are sessions enough.
const LEAST: usize = 5;

impl Kind {
    /// The word in a labels file.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Home => "home",
            Kind::HomeDualStack => "home_dual_stack",
            Kind::Phone => "phone",
            Kind::Commuter => "commuter",
            Kind::Casting => "casting",
            Kind::PlayerTwoAgents => "player_two_agents",
            Kind::Office => "office",
            Kind::FramedVictim => "framed_victim",
            Kind::SharedLink => "shared_link",
            Kind::Ring => "ring",
            Kind::RingAbroad => "ring_abroad",
            Kind::TwoHomes => "two_homes",
        }
    }

    /// What it is.
    pub fn label(self) -> Label {
        let among = |kinds: &[(Kind, usize)]| kinds.iter().any(|(kind, _)| *kind == self);
        if among(PIRATE) {
            Label::Pirate
        } else if among(GREY) {
            Label::Grey
        } else {
            Label::Benign
        }
    }
}

/// How many sessions of a label there are of each kind.
pub fn counts(label: Label, sessions: usize) -> Vec<(Kind, usize)> {
    let (shares, least) = match label {
        Label::Benign => (BENIGN, LEAST.min(sessions / (2 * BENIGN.len()))),
        Label::Pirate => (PIRATE, 0),
        Label::Grey => (GREY, 0),
    };
    let total: usize = shares.iter().map(|(_, share)| share).sum();
    let mut counts: Vec<_> =
        shares.iter().map(|&(kind, share)| (kind, (sessions * share / total).max(least))).collect();
    // What rounding left over or took too much is settled with the commonest kinds.
    let mut given: usize = counts.iter().map(|(_, count)| count).sum();
    let mut next = 0;
    while given != sessions {
        let count = &mut counts[next % shares.len()].1;
        if given < sessions {
            *count += 1;
            given += 1;
        } else if *count > least {
            *count -= 1;
            given -= 1;
        }
        next += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up() {
        for label in [Label::Benign, Label::Pirate, Label::Grey] {
            for sessions in [0, 1, 7, 8, 95, 100, 12_345] {
                let counts = counts(label, sessions);
                let given: usize = counts.iter().map(|(_, count)| count).sum();
                assert_eq!(given, sessions);
                assert!(counts.iter().all(|(kind, _)| kind.label() == label));
            }
        }
        assert!(counts(Label::Benign, 90).iter().all(|(_, count)| *count >= 5));
        let eight: Vec<_> = counts(Label::Pirate, 8).iter().map(|c| c.1).collect();
        assert_eq!(eight, [3, 3, 2]);
    }
}
