//! The address plan: every network of the model, with its country and autonomous system.
//!
//! Only ranges that are reserved for tests and documentation are used (RFC 2544, 3849, 5737,
//! 6598), and autonomous system numbers for private use (RFC 6996), so that generated logs
//! name nobody.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rand::Rng;

/// What kind of subscribers an operator has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Fixed lines: one IPv4 address and, where dual stack, one /64 a household.
    Home,
    /// Carrier-grade NAT: a pool of IPv4 addresses that all phones share.
    Mobile,
    /// Fixed IPv4 addresses that many people share.
    Office,
    /// Servers: scanners, restreamers.
    Hosting,
    /// Consumer VPN exits.
    Vpn,
    /// Exits of a privacy relay, which keep the user's country.
    Relay,
}

/// One operator in one country: an IPv4 block and an IPv6 block.
#[derive(Clone, Debug)]
pub struct Operator {
    pub name: String,
    pub asn: u32,
    /// ISO 3166-1 alpha-2.
    pub country: &'static str,
    pub access: Access,
    pub v4: (Ipv4Addr, u8),
    pub v6: (Ipv6Addr, u8),
}

/// A country of the audience.
#[derive(Debug)]
pub struct Country {
    /// ISO 3166-1 alpha-2.
    pub code: &'static str,
    /// Share of the audience, relative to the other countries.
    pub weight: u32,
    /// CloudFront edge locations that serve it.
    pub edges: &'static [&'static str],
    homes: &'static [&'static str],
    carriers: &'static [&'static str],
}

/// The audience: a British service with viewers abroad.
#[rustfmt::skip]
pub const COUNTRIES: &[Country] = &[
    Country { code: "GB", weight: 30, edges: &["LHR50-C1", "LHR61-P4", "MAN51-P1"], homes: &["Albion Fibre", "Pennine Broadband", "Thameside Cable", "Cobalt Net"], carriers: &["Lark Mobile", "Orchard Cellular"] },
    Country { code: "DE", weight: 14, edges: &["FRA56-P4", "FRA60-P2", "MUC50-P1"], homes: &["Rheinnetz", "Hanse Kabel", "Alpenlicht DSL", "Spreefunk"], carriers: &["Falke Mobil", "Blauton"] },
    Country { code: "FR", weight: 12, edges: &["CDG50-P1", "CDG55-P3", "MRS52-P2"], homes: &["Loire Fibre", "Ligne Claire", "Armor Net", "Cable Sud"], carriers: &["Hirondelle Mobile", "Onde Libre"] },
    Country { code: "ES", weight: 10, edges: &["MAD51-C1", "MAD56-P1", "BCN50-P1"], homes: &["Fibra Ebro", "Red Meseta", "Cable Levante"], carriers: &["Vencejo Movil", "Onda Sur"] },
    Country { code: "US", weight: 10, edges: &["IAD89-C1", "JFK50-P5", "ORD58-P3", "LAX50-C2"], homes: &["Prairie Cable", "Northline Broadband", "Bayou Fiber", "Summit DSL", "Harbor Net"], carriers: &["Kestrel Wireless", "Red Mesa Mobile", "Plainsong"] },
    Country { code: "IT", weight: 8, edges: &["MXP63-P1", "FCO50-P2"], homes: &["Fibra Adriatica", "Rete Ligure", "Tirreno Net"], carriers: &["Rondine Mobile", "Onda Chiara"] },
    Country { code: "BR", weight: 8, edges: &["GRU3-P1", "GIG51-P1"], homes: &["Fibra Paulista", "Rede Serra", "Cabo Norte", "Litoral Net"], carriers: &["Andorinha Celular", "Tucano Movel"] },
    Country { code: "IN", weight: 8, edges: &["BOM78-P2", "DEL51-P4", "MAA50-P1"], homes: &["Deccan Fibre", "Ganga Net", "Malabar Broadband", "Sutlej Link"], carriers: &["Mayura Mobile", "Peacock Tele"] },
    Country { code: "PL", weight: 5, edges: &["WAW51-P1", "WAW51-P3"], homes: &["Wisla Net", "Kabel Baltyk", "Tatry Fibre"], carriers: &["Bocian Mobile"] },
    Country { code: "NL", weight: 5, edges: &["AMS1-P1", "AMS58-P3"], homes: &["Polder Fibre", "Maas Kabel", "Duin Net"], carriers: &["Grutto Mobiel"] },
    Country { code: "CA", weight: 4, edges: &["YTO50-C1", "YUL62-P2"], homes: &["Laurentide Net", "Prairie North", "Tidewater Cable"], carriers: &["Loon Wireless"] },
    Country { code: "MX", weight: 3, edges: &["QRO51-P1"], homes: &["Red Anahuac", "Cable Bajio"], carriers: &["Colibri Movil"] },
    Country { code: "AU", weight: 3, edges: &["SYD62-P2", "MEL50-C1"], homes: &["Murray Fibre", "Southern Cross DSL", "Coral Net"], carriers: &["Galah Mobile"] },
    Country { code: "SE", weight: 2, edges: &["ARN54-C1"], homes: &["Norrsken Fiber", "Vattern Net"], carriers: &["Trana Mobil"] },
];

/// Blocks that need no splitting: name, country, access, IPv4 block.
const SHARED: &[(&str, &str, Access, [u8; 4], u8)] = &[
    ("Anvil Hosting", "US", Access::Hosting, [192, 0, 2, 0], 25),
    ("Rechenwerk Hosting", "DE", Access::Hosting, [192, 0, 2, 128], 26),
    ("Poldercloud Hosting", "NL", Access::Hosting, [192, 0, 2, 192], 26),
    ("Burrow VPN", "NL", Access::Vpn, [198, 51, 100, 0], 26),
    ("Burrow VPN", "GB", Access::Vpn, [198, 51, 100, 64], 26),
    ("Mantle VPN", "SE", Access::Vpn, [198, 51, 100, 128], 26),
    ("Mantle VPN", "US", Access::Vpn, [198, 51, 100, 192], 26),
];

/// The whole plan.
#[derive(Debug)]
pub struct Plan {
    operators: Vec<Operator>,
}

impl Plan {
    /// Lays out all operators, each with blocks of its own.
    pub fn new() -> Self {
        let mut plan = Plan { operators: vec![] };
        // Home lines: 198.18.0.0/15 in blocks of /21; offices get the last ones, as /24.
        let mut home = u32::from(Ipv4Addr::new(198, 18, 0, 0));
        let mut mobile = u32::from(Ipv4Addr::new(100, 64, 0, 0));
        let mut office = u32::from(Ipv4Addr::new(198, 19, 240, 0));
        let mut relay = u32::from(Ipv4Addr::new(203, 0, 113, 0));
        for country in COUNTRIES {
            for name in country.homes {
                plan.add(name, 64_512, country.code, Access::Home, home, 21);
                home += 1 << 11;
            }
            for name in country.carriers {
                plan.add(name, 64_700, country.code, Access::Mobile, mobile, 16);
                mobile += 1 << 16;
            }
            let name = format!("{} Business Lines", country.homes[0]);
            plan.add(&name, 64_800, country.code, Access::Office, office, 24);
            office += 1 << 8;
            // One operator for the whole world, as with the relays that exist.
            plan.add("Veil Relay", 4_200_000_100, country.code, Access::Relay, relay, 28);
            relay += 1 << 4;
        }
        for &(name, country, access, v4, bits) in SHARED {
            let v4 = u32::from(Ipv4Addr::from(v4));
            plan.add(name, 4_200_000_200, country, access, v4, bits);
        }
        plan
    }

    fn add(&mut self, name: &str, first_asn: u32, country: &'static str, access: Access, v4: u32, bits: u8) {
        // An operator that is in several countries is still one autonomous system.
        let known = self.operators.iter().find(|operator| operator.name == name);
        let asn = known.map_or_else(|| first_asn + self.operators.len() as u32, |o| o.asn);
        // 2001:db8::/32 in blocks of /40: at most 256 operators.
        let v6 = (0x2001_0db8_u128 << 96) | ((self.operators.len() as u128) << 88);
        self.operators.push(Operator {
            name: name.to_owned(),
            asn,
            country,
            access,
            v4: (Ipv4Addr::from(v4), bits),
            v6: (Ipv6Addr::from(v6), 40),
        });
    }

    /// All operators.
    pub fn operators(&self) -> &[Operator] {
        &self.operators
    }

    /// The operator that has an address.
    pub fn operator_of(&self, address: IpAddr) -> Option<&Operator> {
        self.operators.iter().find(|operator| operator.has(address))
    }

    /// One operator of a kind, in `country` if there is one there, else anywhere.
    pub fn pick(&self, rng: &mut impl Rng, access: Access, country: &str) -> &Operator {
        let of_kind =
            |here: bool| self.operators.iter().filter(move |o| o.access == access && (!here || o.country == country));
        let here = of_kind(true).count() > 0;
        let chosen = rng.random_range(0..of_kind(here).count());
        of_kind(here).nth(chosen).expect("the plan has every kind of access")
    }
}

impl Operator {
    /// A random IPv4 address of the block, neither its first nor its last.
    pub fn v4_host(&self, rng: &mut impl Rng) -> Ipv4Addr {
        let hosts = 1_u32 << (32 - self.v4.1);
        Ipv4Addr::from(u32::from(self.v4.0) + rng.random_range(1..hosts - 1))
    }

    /// The upper 64 bits of a random /64 of the block.
    pub fn v6_prefix(&self, rng: &mut impl Rng) -> u64 {
        let block = (u128::from(self.v6.0) >> 64) as u64;
        block | u64::from(rng.random_range(1..1_u32 << (64 - self.v6.1)))
    }

    fn has(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => (u32::from(v4) ^ u32::from(self.v4.0)) >> (32 - self.v4.1) == 0,
            IpAddr::V6(v6) => (u128::from(v6) ^ u128::from(self.v6.0)) >> (128 - self.v6.1) == 0,
        }
    }

    /// The blocks, for the GeoIP files.
    pub fn blocks(&self) -> [(IpAddr, u8); 2] {
        [(IpAddr::V4(self.v4.0), self.v4.1), (IpAddr::V6(self.v6.0), self.v6.1)]
    }
}

/// The edge locations that serve a country.
pub fn edges(country: &str) -> &'static [&'static str] {
    COUNTRIES.iter().find(|c| c.code == country).map_or(&["LHR50-C1"], |c| c.edges)
}

/// A country of the audience, by its share.
pub fn viewer_country(rng: &mut impl Rng) -> &'static str {
    let total: u32 = COUNTRIES.iter().map(|c| c.weight).sum();
    let mut drawn = rng.random_range(0..total);
    for country in COUNTRIES {
        if drawn < country.weight {
            return country.code;
        }
        drawn -= country.weight;
    }
    unreachable!("drawn below the sum of the weights")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range((first, bits): (IpAddr, u8)) -> (u128, u128) {
        let (first, width) = match first {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
            IpAddr::V6(v6) => (u128::from(v6), 128),
        };
        (first, first + (1 << (width - bits)) - 1)
    }

    fn inside(block: (IpAddr, u8), reserved: &[(&str, u8)]) -> bool {
        let (first, last) = range(block);
        reserved.iter().any(|(address, bits)| {
            let address: IpAddr = address.parse().unwrap();
            let (low, high) = range((address, *bits));
            address.is_ipv4() == block.0.is_ipv4() && low <= first && last <= high
        })
    }

    #[test]
    fn blocks_are_reserved_and_do_not_overlap() {
        let reserved = [
            ("198.18.0.0", 15),
            ("100.64.0.0", 10),
            ("192.0.2.0", 24),
            ("198.51.100.0", 24),
            ("203.0.113.0", 24),
            ("2001:db8::", 32),
        ];
        let plan = Plan::new();
        let blocks: Vec<_> = plan.operators().iter().flat_map(Operator::blocks).collect();
        for (n, &a) in blocks.iter().enumerate() {
            assert!(inside(a, &reserved), "{a:?}");
            for &b in &blocks[..n] {
                let apart = range(a).1 < range(b).0 || range(b).1 < range(a).0;
                assert!(apart || a.0.is_ipv4() != b.0.is_ipv4(), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn the_world_is_wide_enough() {
        let plan = Plan::new();
        assert!(COUNTRIES.len() >= 12);
        for country in COUNTRIES.iter().filter(|c| c.weight >= 8) {
            let count = |access| {
                let here = |o: &&Operator| o.country == country.code && o.access == access;
                plan.operators().iter().filter(here).count()
            };
            assert!(count(Access::Home) >= 3 && count(Access::Mobile) >= 2);
        }
    }

    #[test]
    fn an_asn_has_one_name() {
        let mut names = std::collections::BTreeMap::new();
        for operator in Plan::new().operators() {
            let name = names.entry(operator.asn).or_insert(operator.name.clone());
            assert_eq!(*name, operator.name);
        }
    }
}
