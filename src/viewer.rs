//! What a request says of the viewer: network, device, referring host.

use std::net::IpAddr;

/// The network of an address: an IPv4 address as it is, an IPv6 address cut to its /64, because a home has
/// one of these and a device changes its address within it (RFC 8981).
pub fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            let prefix = std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0);
            format!("{prefix}/64")
        }
    }
}

/// Coarse device family of a user agent. The first that fits in this order counts: what claims to be
/// several things names the special one before the general one.
pub fn device(user_agent: Option<&str>) -> &'static str {
    const FAMILIES: [(&str, &[&str]); 12] = [
        ("bot", &["bot", "spider", "crawler", "monitor"]),
        (
            "script",
            &["curl/", "wget/", "python", "go-http", "okhttp/", "java/", "libwww", "ffmpeg", "lavf/", "vlc", "kodi"],
        ),
        ("console", &["playstation", "xbox", "nintendo"]),
        (
            "tv",
            &[
                "apple tv",
                "appletv",
                "tvos",
                "smart-tv",
                "smarttv",
                "hbbtv",
                "tizen",
                "web0s",
                "webos",
                "bravia",
                "roku",
                "; aft",
                "android tv",
                "crkey",
                "googletv",
            ],
        ),
        ("tablet", &["ipad", "tablet"]),
        ("phone", &["iphone", "ipod", "mobile"]),
        ("apple", &["applecoremedia"]),
        ("android", &["android", "exoplayer"]),
        ("mac", &["macintosh", "mac os x"]),
        ("windows", &["windows"]),
        ("chromebook", &["cros "]),
        ("linux", &["linux", "x11"]),
    ];
    let Some(user_agent) = user_agent else {
        return "none";
    };
    let lower = user_agent.to_ascii_lowercase();
    FAMILIES
        .iter()
        .find(|(_, signs)| signs.iter().any(|sign| lower.contains(sign)))
        .map_or("other", |(family, _)| family)
}

/// The host of a Referer header, lower case, without port; none where there is none that could be a name.
pub fn referer_host(referer: &str) -> Option<String> {
    let rest = referer.split_once("://").map_or(referer, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let plausible = !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b));
    plausible.then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let network = |text: &str| network(text.parse().unwrap());
        assert_eq!(network("198.18.0.7"), "198.18.0.7");
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(network("::ffff:198.18.0.7"), "198.18.0.7");
    }

    #[test]
    fn devices() {
        for (agent, family) in [
            ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X)", "phone"),
            ("AppleCoreMedia/1.0.0.21A329 (iPad; U; CPU OS 17_0)", "tablet"),
            ("AppleCoreMedia/1.0.0.20L563 (Apple TV; U; CPU OS 16_5)", "tv"),
            ("Mozilla/5.0 (SMART-TV; LINUX; Tizen 6.0)", "tv"),
            ("Mozilla/5.0 (Windows NT 10.0; Win64; x64)", "windows"),
            ("ffmpeg/6.0 Lavf/60", "script"),
            ("MyApp/1.0", "other"),
        ] {
            assert_eq!(device(Some(agent)), family, "{agent}");
        }
        assert_eq!(device(None), "none");
    }

    #[test]
    fn referer_hosts() {
        assert_eq!(referer_host("https://WWW.Example.com:8443/watch?x=/y").as_deref(), Some("www.example.com"));
        assert_eq!(referer_host("www.unknownsingers.com").as_deref(), Some("www.unknownsingers.com"));
        assert_eq!(referer_host("https://user@evil.example/").as_deref(), Some("evil.example"));
        assert_eq!(referer_host("https://<script>/"), None);
        assert_eq!(referer_host("https://\u{1b}[31m/"), None);
        assert_eq!(referer_host(""), None);
    }
}
