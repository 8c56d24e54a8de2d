//! What kind of network an autonomous system is: a pool of phones, servers, VPN exits, relays.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

/// What cannot be taken for somebody's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkType {
    /// A carrier's address pool: one phone comes from many addresses.
    Mobile,
    /// Servers that anybody can rent.
    Hosting,
    /// Exits of VPNs and proxies.
    Vpn,
    /// Relays and gateways that many share.
    Relay,
}

/// The lists of the config that go before `data/network_types.toml`; what `line_asns` holds has no type.
pub const LISTS: [(&str, Option<NetworkType>); 5] = [
    ("mobile_asns", Some(NetworkType::Mobile)),
    ("hosting_asns", Some(NetworkType::Hosting)),
    ("vpn_asns", Some(NetworkType::Vpn)),
    ("relay_asns", Some(NetworkType::Relay)),
    ("line_asns", None),
];

impl NetworkType {
    /// As in the column `network_type`.
    pub fn name(self) -> &'static str {
        match self {
            NetworkType::Mobile => "mobile",
            NetworkType::Hosting => "hosting",
            NetworkType::Vpn => "vpn",
            NetworkType::Relay => "relay",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    words: Vec<String>,
    asns: Vec<u32>,
}

/// Tells the type of an autonomous system.
pub struct NetworkTypes {
    by_asn: HashMap<u32, Option<NetworkType>>,
    words: Vec<(String, NetworkType)>,
}

impl Default for NetworkTypes {
    fn default() -> Self {
        let file: BTreeMap<NetworkType, Entry> = toml::from_str(include_str!("../data/network_types.toml"))
            .unwrap_or_else(|error| panic!("data/network_types.toml: {error}"));
        let mut types = NetworkTypes { by_asn: HashMap::new(), words: Vec::new() };
        for (kind, entry) in file {
            types.by_asn.extend(entry.asns.into_iter().map(|asn| (asn, Some(kind))));
            types.words.extend(entry.words.into_iter().map(|word| (word, kind)));
        }
        types
    }
}

/// The number of an autonomous system, as `64500` or `AS64500`.
///
/// # Errors
///
/// It is no such number.
pub fn parse_asn(text: &str) -> Result<u32, String> {
    let number = text.trim().trim_start_matches(['a', 'A']).trim_start_matches(['s', 'S']);
    number.parse().map_err(|_| format!("{text:?} is no number of an autonomous system: write 64500 or AS64500"))
}

impl NetworkTypes {
    /// The file's, corrected by the lists of a config.
    ///
    /// # Errors
    ///
    /// The list and the value that is no number of an autonomous system: `64500` or `AS64500`.
    pub fn with_lists(lists: &BTreeMap<String, Vec<String>>) -> Result<NetworkTypes, (&'static str, String)> {
        let mut types = NetworkTypes::default();
        for (name, kind) in LISTS {
            for value in lists.get(name).into_iter().flatten() {
                types.by_asn.insert(parse_asn(value).map_err(|message| (name, message))?, kind);
            }
        }
        Ok(types)
    }

    /// The type of a system, by its number, else by its name.
    pub fn of(&self, asn: Option<i64>, name: Option<&str>) -> Option<NetworkType> {
        let known = asn.and_then(|asn| self.by_asn.get(&u32::try_from(asn).ok()?));
        if let Some(known) = known {
            return *known;
        }
        let words: Vec<String> = name?.split(|c: char| !c.is_alphanumeric()).map(|word| word.to_lowercase()).collect();
        // A VPN that calls itself mobile is a VPN: what hides more goes first.
        self.words.iter().filter(|(word, _)| words.contains(word)).map(|(_, kind)| *kind).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_before_names_and_lists_before_both() {
        let types = NetworkTypes::default();
        assert_eq!(types.of(Some(21928), Some("T-MOBILE-AS21928")), Some(NetworkType::Mobile));
        assert_eq!(types.of(Some(16509), None), Some(NetworkType::Hosting));
        assert_eq!(types.of(Some(36183), Some("Akamai Technologies, Inc.")), Some(NetworkType::Relay));
        for (name, expected) in [
            ("Lark Mobile", Some(NetworkType::Mobile)),
            ("Anvil Hosting GmbH", Some(NetworkType::Hosting)),
            ("Burrow VPN", Some(NetworkType::Vpn)),
            ("MobileVPN mobile VPN", Some(NetworkType::Vpn)),
            ("Pennine Broadband", None),
            ("Cloudberry Broadband", None),
            ("", None),
        ] {
            assert_eq!(types.of(Some(64_512), Some(name)), expected, "{name}");
        }
        let lists = BTreeMap::from([
            ("line_asns".to_owned(), vec!["AS16509".to_owned()]),
            ("relay_asns".to_owned(), vec!["64512".to_owned()]),
        ]);
        let types = NetworkTypes::with_lists(&lists).unwrap();
        assert_eq!(types.of(Some(16509), Some("Amazon Cloud")), None);
        assert_eq!(types.of(Some(64_512), Some("Lark Mobile")), Some(NetworkType::Relay));
        let wrong = BTreeMap::from([("vpn_asns".to_owned(), vec!["Burrow".to_owned()])]);
        assert_eq!(NetworkTypes::with_lists(&wrong).err().unwrap().0, "vpn_asns");
    }

    #[test]
    fn no_number_has_two_types() {
        let file: BTreeMap<NetworkType, Entry> = toml::from_str(include_str!("../data/network_types.toml")).unwrap();
        let mut seen = HashMap::new();
        for (kind, entry) in &file {
            for asn in &entry.asns {
                assert_eq!(seen.insert(*asn, *kind), None, "{asn}");
            }
            assert!(entry.words.iter().all(|word| *word == word.to_lowercase()));
        }
    }
}
