//! GeoIP files in MaxMind DB format, made from the address plan.
//!
//! They have the shape of GeoLite2-City and GeoLite2-ASN as far as readers of logs need
//! it. Format: <https://maxmind.github.io/MaxMind-DB/>.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use maxminddb_writer::metadata::IpVersion;
use maxminddb_writer::paths::IpAddrWithMask;
use maxminddb_writer::{Database, Error};
use serde::Serialize;

use super::addresses::{Operator, Plan};

/// Towns that an operator's block is cut into, as a power of two: each is somewhere else in its country.
const TOWN_BITS: u8 = 3;

#[derive(Serialize)]
struct CityRecord {
    country: Country,
    location: Location,
}

#[derive(Serialize)]
struct Location {
    latitude: f64,
    longitude: f64,
    accuracy_radius: u16,
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

/// The country file: `country.iso_code` and a location of every town. `built` is in epoch seconds.
pub fn country(plan: &Plan, built: u64) -> Result<Vec<u8>, Error> {
    build(plan, "GeoLite2-City", built, TOWN_BITS, |operator, town| CityRecord {
        country: Country { iso_code: operator.country },
        location: location(operator, town),
    })
}

/// Somewhere in the operator's country, the same for ever.
fn location(operator: &Operator, town: u32) -> Location {
    let (latitude, longitude) = extent(operator.country);
    let number = f64::from(operator.asn) * 31.0 + f64::from(town);
    // Multiples of the plastic number's powers fall evenly over a square.
    let within = |(from, to): (f64, f64), step: f64| {
        let place = from + (to - from) * (number * step).fract();
        (place * 1e4).round() / 1e4
    };
    Location {
        latitude: within(latitude, 0.754_877_666_246_693),
        longitude: within(longitude, 0.569_840_290_998_053),
        accuracy_radius: [5, 10, 20, 50][(operator.asn + town) as usize % 4],
    }
}

/// Where people live in a country: from south to north and from west to east, in degrees.
fn extent(country: &str) -> ((f64, f64), (f64, f64)) {
    match country {
        "GB" => ((50.8, 56.0), (-4.2, 0.5)),
        "DE" => ((48.0, 53.6), (7.0, 13.5)),
        "FR" => ((43.5, 50.0), (-1.5, 6.0)),
        "ES" => ((37.0, 43.0), (-8.0, 2.0)),
        "US" => ((30.0, 46.0), (-122.0, -72.0)),
        "IT" => ((38.0, 45.6), (8.0, 16.0)),
        "BR" => ((-28.0, -5.0), (-52.0, -36.0)),
        "IN" => ((10.0, 29.0), (73.0, 87.0)),
        "PL" => ((50.0, 54.0), (15.0, 23.0)),
        "NL" => ((51.4, 53.2), (4.3, 6.8)),
        "CA" => ((43.6, 51.0), (-123.0, -64.0)),
        "MX" => ((17.0, 30.0), (-106.0, -90.0)),
        "AU" => ((-37.8, -19.0), (116.0, 153.0)),
        "SE" => ((55.6, 64.0), (12.0, 20.0)),
        _ => ((45.0, 50.0), (5.0, 15.0)),
    }
}

/// The ASN file: number and name of every block's operator. `built` is in epoch seconds.
pub fn asn(plan: &Plan, built: u64) -> Result<Vec<u8>, Error> {
    build(plan, "GeoLite2-ASN", built, 0, |operator, _| AsnRecord {
        autonomous_system_number: operator.asn,
        autonomous_system_organization: &operator.name,
    })
}

fn build<'a, R: Serialize>(
    plan: &'a Plan,
    database_type: &str,
    built: u64,
    town_bits: u8,
    record: impl Fn(&'a Operator, u32) -> R,
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
        for town in 0..1 << town_bits {
            let data = database.insert_value(record(operator, town))?;
            for (address, bits) in operator.blocks() {
                database.insert_node(in_ipv6_tree(part(address, bits + town_bits, town), bits + town_bits), data);
            }
        }
    }
    database.write_to(Vec::new())
}

/// The part of a block with a number, if the parts have so many bits.
fn part(address: IpAddr, bits: u8, number: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) | number << (32 - bits)).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) | u128::from(number) << (128 - bits)).into()),
    }
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
                    let found: geoip2::City = found.decode().unwrap().unwrap();
                    assert_eq!(found.country.iso_code, Some(operator.country));
                    let (latitude, longitude) = extent(operator.country);
                    let (north, east) = (found.location.latitude.unwrap(), found.location.longitude.unwrap());
                    assert!((latitude.0..=latitude.1).contains(&north) && (longitude.0..=longitude.1).contains(&east));
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
