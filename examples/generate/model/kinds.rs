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
    /// A phone whose carrier takes another address for every connection, or nearly for every request.
    CarrierPool,
    /// An app that is updated in the middle.
    AppUpdate,
    /// A viewer behind a privacy relay.
    PrivateRelay,
    /// A viewer who switches a VPN on, and perhaps off again.
    VpnSwitched,
    /// A viewer who goes from one country to another.
    Traveller,
    /// A stream with advertisements that the server puts in.
    Advertisements,
    /// A viewer who skips through a film.
    Scrubber,
    /// 5 to 8 homes of one country that share one session.
    SmallRing,
    /// The same, with one user agent.
    RingOneAgent,
    /// A server that takes the stream, and those whom it feeds.
    RipperFanout,
    /// A site that embeds the stream.
    LeechSite,
    /// A machine that takes the stream through one VPN exit after the other.
    RotatingRipper,
    /// 3 or 4 homes in different countries.
    SlowRing,
    /// One token on many assets at once.
    TokenFarm,
}

/// Which kinds of sessions there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mix {
    /// The plain kinds of an evening: what the fixtures are made of.
    Evening,
    /// Every kind, the pirates' in equal parts.
    Wide,
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

/// The same, of the wide mix.
const WIDE_BENIGN: &[(Kind, usize)] = &[
    (Kind::Home, 24),
    (Kind::HomeDualStack, 18),
    (Kind::Phone, 8),
    (Kind::Casting, 6),
    (Kind::PlayerTwoAgents, 6),
    (Kind::Office, 6),
    (Kind::Commuter, 5),
    (Kind::FramedVictim, 2),
    (Kind::CarrierPool, 7),
    (Kind::AppUpdate, 3),
    (Kind::PrivateRelay, 5),
    (Kind::VpnSwitched, 3),
    (Kind::Traveller, 3),
    (Kind::Advertisements, 5),
    (Kind::Scrubber, 5),
];
const WIDE_PIRATE: &[(Kind, usize)] = &[
    (Kind::SharedLink, 1),
    (Kind::SmallRing, 1),
    (Kind::RingOneAgent, 1),
    (Kind::RipperFanout, 1),
    (Kind::LeechSite, 1),
    (Kind::RotatingRipper, 1),
    (Kind::SlowRing, 1),
    (Kind::TokenFarm, 1),
];

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
            Kind::CarrierPool => "carrier_pool",
            Kind::AppUpdate => "app_update",
            Kind::PrivateRelay => "private_relay",
            Kind::VpnSwitched => "vpn_switched",
            Kind::Traveller => "traveller",
            Kind::Advertisements => "advertisements",
            Kind::Scrubber => "scrubber",
            Kind::SmallRing => "small_ring",
            Kind::RingOneAgent => "ring_one_agent",
            Kind::RipperFanout => "ripper_fanout",
            Kind::LeechSite => "leech_site",
            Kind::RotatingRipper => "rotating_ripper",
            Kind::SlowRing => "slow_ring",
            Kind::TokenFarm => "token_farm",
        }
    }

    /// What it is.
    pub fn label(self) -> Label {
        let among = |kinds: &[(Kind, usize)]| kinds.iter().any(|(kind, _)| *kind == self);
        if among(PIRATE) || among(WIDE_PIRATE) {
            Label::Pirate
        } else if among(GREY) {
            Label::Grey
        } else {
            Label::Benign
        }
    }

    /// Only the wide mix has it.
    pub fn is_wide(self) -> bool {
        let among = |kinds: &[(Kind, usize)]| kinds.iter().any(|(kind, _)| *kind == self);
        !among(BENIGN) && !among(PIRATE) && !among(GREY)
    }
}

impl Mix {
    fn shares(self, label: Label) -> &'static [(Kind, usize)] {
        match (self, label) {
            (_, Label::Grey) => GREY,
            (Mix::Evening, Label::Benign) => BENIGN,
            (Mix::Evening, Label::Pirate) => PIRATE,
            (Mix::Wide, Label::Benign) => WIDE_BENIGN,
            (Mix::Wide, Label::Pirate) => WIDE_PIRATE,
        }
    }

    /// All of its kinds.
    pub fn kinds(self) -> impl Iterator<Item = Kind> {
        let labels = [Label::Benign, Label::Pirate, Label::Grey];
        labels.into_iter().flat_map(move |label| self.shares(label)).map(|(kind, _)| *kind)
    }
}

/// How many sessions of a label there are of each kind.
pub fn counts(mix: Mix, label: Label, sessions: usize) -> Vec<(Kind, usize)> {
    let shares = mix.shares(label);
    let least = if label == Label::Benign { LEAST.min(sessions / (2 * shares.len())) } else { 0 };
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
        let labels = [Label::Benign, Label::Pirate, Label::Grey];
        for (mix, label) in [Mix::Evening, Mix::Wide].into_iter().flat_map(|mix| labels.map(|label| (mix, label))) {
            for sessions in [0, 1, 7, 8, 95, 100, 12_345] {
                let counts = counts(mix, label, sessions);
                let given: usize = counts.iter().map(|(_, count)| count).sum();
                assert_eq!(given, sessions);
                assert!(counts.iter().all(|(kind, _)| kind.label() == label));
            }
        }
        assert!(counts(Mix::Evening, Label::Benign, 90).iter().all(|(_, count)| *count >= 5));
        let eight: Vec<_> = counts(Mix::Evening, Label::Pirate, 8).iter().map(|c| c.1).collect();
        assert_eq!(eight, [3, 3, 2]);
    }
}
