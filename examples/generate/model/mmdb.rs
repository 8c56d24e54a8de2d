//! GeoIP files in MaxMind DB format, made from the address plan.
//!
//! They have the shape of GeoLite2-Country and GeoLite2-ASN as far as readers of logs need
//! it. Format: <https://maxmind.github.io/MaxMind-DB/>.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use maxminddb_writer::metadata::IpVersion;
use maxminddb_writer::paths::IpAddrWithMask;
use maxminddb_writer::{Database, Error};
use serde::Serialize;

use super::addresses::{Operator, Plan};

#[derive(Serialize)]
struct CountryRecord {
    country: Country,
}

#[derive(Serialize)]
struct Country {
    iso_code: &'static str,
}

#[derive(Serialize)]
struct AsnRecord<'a> {
    autonomous_system_number: u32,
    autonomous_system_organization: &'a str,
}

/// The country file: `country.iso_code` of every block. `built` is in epoch seconds.
pub fn country(plan: &Plan, built: u64) -> Result<Vec<u8>, Error> {
    build(plan, "GeoLite2-Country", built, |operator| CountryRecord { country: Country { iso_code: operator.country } })
}

/// The ASN file: number and name of every block's operator. `built` is in epoch seconds.
pub fn asn(plan: &Plan, built: u64) -> Result<Vec<u8>, Error> {
    build(plan, "GeoLite2-ASN", built, |operator| AsnRecord {
        autonomous_system_number: operator.asn,
        autonomous_system_organization: &operator.name,
    })
}

fn build<'a, R: Serialize>(
    plan: &'a Plan,
    database_type: &str,
    built: u64,
    record: impl Fn(&'a Operator) -> R,
) -> Result<Vec<u8>, Error> {
    let mut database = Database::default();
    let about = format!("Reserved addresses of the streamwarden fixtures ({database_type})");
    database.metadata.ip_version = IpVersion::V6;
    database.metadata.database_type = database_type.to_owned();
    database.metadata.languages = vec!["en".to_owned()];
    database.metadata.binary_format_major_version = 2;
    database.metadata.build_epoch = built;
    // One entry only: the order of a hash map's entries is not the same from run to run.
    database.metadata.description = HashMap::from([("en".to_owned(), about)]);
    for operator in plan.operators() {
        let data = database.insert_value(record(operator))?;
        for (address, bits) in operator.blocks() {
            database.insert_node(in_ipv6_tree(address, bits), data);
        }
    }
    database.write_to(Vec::new())
}

/// IPv4 networks stand at ::/96 of an IPv6 tree.
fn in_ipv6_tree(address: IpAddr, bits: u8) -> IpAddrWithMask {
    match address {
        IpAddr::V4(v4) => {
            let low = Ipv6Addr::from(u128::from(u32::from(v4)));
            IpAddrWithMask::new(IpAddr::V6(low), 96 + bits)
        }
        IpAddr::V6(_) => IpAddrWithMask::new(address, bits),
    }
}

#[cfg(test)]
mod tests {
    use maxminddb::{Reader, geoip2};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn lookups_agree_with_the_plan() {
        let plan = Plan::new();
        let countries = Reader::from_source(country(&plan, 7).unwrap()).unwrap();
        let networks = Reader::from_source(asn(&plan, 7).unwrap()).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for operator in plan.operators() {
            for _ in 0..20 {
                let v6 = u128::from(operator.v6_prefix(&mut rng)) << 64 | rng.random::<u64>() as u128;
                let v4 = operator.v4_host(&mut rng);
                for address in [IpAddr::V4(v4), IpAddr::V6(Ipv6Addr::from(v6))] {
                    let holder = plan.operator_of(address).unwrap();
                    assert_eq!((holder.asn, holder.country), (operator.asn, operator.country));
                    let found = countries.lookup(address).unwrap();
                    let found: geoip2::Country = found.decode().unwrap().unwrap();
                    assert_eq!(found.country.iso_code, Some(operator.country));
                    let found = networks.lookup(address).unwrap();
                    let found: geoip2::Asn = found.decode().unwrap().unwrap();
                    assert_eq!(found.autonomous_system_number, Some(operator.asn));
                    let name = found.autonomous_system_organization;
                    assert_eq!(name, Some(operator.name.as_str()));
                }
            }
        }
        for unknown in ["8.8.8.8", "10.0.0.1", "2001:db9::1", "::ffff:0"] {
            let found = countries.lookup(unknown.parse().unwrap()).unwrap();
            assert!(!found.has_data() && plan.operator_of(unknown.parse().unwrap()).is_none(), "{unknown}");
        }
    }

    #[test]
    fn metadata_is_complete_and_files_reproducible() {
        let plan = Plan::new();
        let bytes = asn(&plan, 1_700_000_000).unwrap();
        assert_eq!(bytes, asn(&plan, 1_700_000_000).unwrap());
        assert!(bytes.len() < 50_000);
        let reader = Reader::from_source(bytes).unwrap();
        assert_eq!(reader.metadata().database_type, "GeoLite2-ASN");
        assert_eq!(reader.metadata().ip_version, 6);
        assert_eq!(reader.metadata().build_epoch, 1_700_000_000);
        assert_eq!(reader.metadata().binary_format_major_version, 2);
        reader.verify().unwrap();
    }
}
