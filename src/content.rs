//! What a request was for: the kind of file, the asset that it belongs to, and which of its segments.

use std::hash::Hasher;

use twox_hash::XxHash64;

/// Kind of a request, from its path's ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Manifest,
    Segment,
    Key,
    Other,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Manifest => "manifest",
            Kind::Segment => "segment",
            Kind::Key => "key",
            Kind::Other => "other",
        }
    }
}

/// Kind of a file, from its name: HLS, DASH, CMAF and Smooth Streaming.
fn kind_of_file(name: &str) -> Kind {
    const MANIFESTS: [&str; 3] = ["m3u8", "m3u", "mpd"];
    const SEGMENTS: [&str; 18] = [
        "ts", "m4s", "mp4", "m4v", "m4a", "cmfv", "cmfa", "cmft", "aac", "ac3", "ec3", "mp3", "webm", "vtt", "webvtt",
        "ttml", "dash", "m2ts",
    ];
    // Smooth Streaming: /x.ism/Manifest, /x.ism/QualityLevels(n)/Fragments(video=n)
    if name.eq_ignore_ascii_case("manifest") {
        return Kind::Manifest;
    }
    if name.starts_with("Fragments(") {
        return Kind::Segment;
    }
    let Some((_, ending)) = name.rsplit_once('.') else {
        return if name.eq_ignore_ascii_case("key") { Kind::Key } else { Kind::Other };
    };
    let is_one_of = |endings: &[&str]| endings.iter().any(|known| ending.eq_ignore_ascii_case(known));
    if is_one_of(&SEGMENTS) {
        Kind::Segment
    } else if is_one_of(&MANIFESTS) {
        Kind::Manifest
    } else if is_one_of(&["key"]) {
        Kind::Key
    } else {
        Kind::Other
    }
}

/// What a path (without its token) is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content<'a> {
    /// The asset: the folder, without the folders at the end that tell a variant, a track or a period apart. A file that
    /// stands at the top is its own asset, without the number in its name. None for the root.
    pub asset: Option<&'a str>,
    pub kind: Kind,
    /// The identity of a media segment, 63 bits: the same for all renditions that lie in folders of their own. None for what is
    /// no segment.
    pub segment: Option<i64>,
}

/// What a path (without its token) is of. `asset_of_folder` is [`asset_of_folder`], or one that remembers what that said.
pub fn content<'a>(path: &'a str, asset_of_folder: impl FnOnce(&'a str) -> Option<&'a str>) -> Content<'a> {
    let folder_end = memchr::memrchr(b'/', path.as_bytes());
    let asset = folder_end.and_then(|end| asset_of_folder(&path[..end]).or_else(|| asset_at_top(path)));
    let name = folder_end.map_or(path, |end| &path[end + 1..]);
    let kind = kind_of_file(name);
    Content { asset, kind, segment: (kind == Kind::Segment).then(|| segment(asset, name)) }
}

/// The asset that a folder belongs to; none if there is no folder.
pub fn asset_of_folder(folder: &str) -> Option<&str> {
    let mut asset = folder;
    while let Some((above, last)) = asset.rsplit_once('/') {
        if above.is_empty() || !is_rendition(last) {
            break;
        }
        asset = above;
    }
    (!asset.is_empty()).then_some(asset)
}

fn asset_at_top(path: &str) -> Option<&str> {
    let stem = path.rsplit_once('.').map_or(path, |(stem, _)| stem);
    let stem = stem.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(['-', '_', '.']);
    (stem.len() > 1).then_some(stem)
}

/// A hash of the asset and the file's name; it is stored, so it must never change.
fn segment(asset: Option<&str>, name: &str) -> i64 {
    let mut hash = XxHash64::with_seed(0);
    hash.write(asset.unwrap_or_default().as_bytes());
    hash.write(b"/");
    hash.write(name.as_bytes());
    (hash.finish() >> 1) as i64
}

/// The codes of ISO 639-1, and those of ISO 639-2 of the languages that films are dubbed in, with "undetermined" and "multiple".
const LANGUAGES: &str = "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz \
    ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka \
    kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv \
    ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn \
    to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu \
    alb ara arm baq ben bos bul bur cat ces chi cze dan deu dut ell eng est eus fas fin fra fre geo ger glg gre heb hin hrv hun ice \
    ind isl ita jpn kan kaz khm kor lav lit mac mal mar may msa mul nld nob nor per pol por ron rum rus slk slo slv spa srp swe tam \
    tel tgl tha tur ukr und urd uzb vie zho";

/// Whether a folder's name tells a rendition apart rather than an asset.
fn is_rendition(folder: &str) -> bool {
    const WORDS: [&str; 22] = [
        "hls",
        "dash",
        "cmaf",
        "ts",
        "mp4",
        "fmp4",
        "h264",
        "h265",
        "hevc",
        "avc",
        "av1",
        "aac",
        "video",
        "audio",
        "subs",
        "subtitles",
        "captions",
        "text",
        "segments",
        "chunks",
        "media",
        "low_latency",
    ];
    const PREFIXES: [&str; 14] = [
        "video",
        "audio",
        "sub",
        "v",
        "a",
        "stream",
        "variant",
        "rendition",
        "level",
        "track",
        "bitrate",
        "quality",
        "profile",
        "period",
    ];
    const SUFFIXES: [&str; 5] = ["p", "k", "kbps", "mbps", "fps"];
    const TRACKS: [&str; 15] = [
        "main",
        "low",
        "mid",
        "medium",
        "high",
        "mono",
        "stereo",
        "surround",
        "atmos",
        "aac",
        "ac3",
        "eac3",
        "mp4a",
        "default",
        "description",
    ];
    // Followed by a language, or by what a track of sound is called.
    const SPOKEN: [&str; 6] = ["audio", "sub", "subs", "subtitles", "captions", "text"];
    let lower = folder.to_ascii_lowercase();
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'x');
    let numbered = |rest: &str| {
        let rest = rest.trim_start_matches(['-', '_', '=']);
        is_number(rest) || SUFFIXES.iter().any(|suffix| rest.strip_suffix(suffix).is_some_and(is_number))
    };
    let of_language = |rest: &str| {
        let tongue = rest.strip_prefix(['-', '_']).and_then(|rest| rest.split(['-', '_']).next());
        tongue.is_some_and(|tongue| {
            TRACKS.contains(&tongue) || LANGUAGES.split_ascii_whitespace().any(|known| known == tongue)
        })
    };
    WORDS.contains(&lower.as_str())
        || SPOKEN.iter().any(|word| lower.strip_prefix(word).is_some_and(of_language))
        || lower.starts_with("qualitylevels(")
        || SUFFIXES.iter().any(|suffix| lower.strip_suffix(suffix).is_some_and(is_number))
        || lower.split_once('x').is_some_and(|(width, height)| is_number(width) && is_number(height))
        || PREFIXES.iter().any(|prefix| lower.strip_prefix(prefix).is_some_and(numbered))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> Content<'_> {
        content(path, asset_of_folder)
    }

    fn segment(path: &str) -> Option<i64> {
        of(path).segment
    }

    fn asset(path: &str) -> Option<&str> {
        of(path).asset
    }

    #[test]
    fn a_segment_is_the_same_in_every_rendition_and_no_other() {
        let one = segment("/live/sport1/720p/seg_000123.ts").unwrap();
        assert_eq!(segment("/live/sport1/360p/seg_000123.ts"), Some(one));
        assert!(one >= 0);
        assert_ne!(segment("/live/sport1/720p/seg_000124.ts"), Some(one));
        assert_ne!(segment("/live/sport2/720p/seg_000123.ts"), Some(one));
        assert_eq!(segment("/live/sport1/720p/index.m3u8"), None);
        // It is stored: another value would part what is one segment.
        assert_eq!(segment("/a/b/s1.ts"), Some(2_150_194_131_538_491_885));
        // One in eight is recorded, whatever the numbering.
        let recorded = (0..8_000).filter(|n| segment(&format!("/v/x/{n}.m4s")).unwrap() % 8 == 0).count();
        assert!((800..1_200).contains(&recorded), "{recorded}");
    }

    #[test]
    fn kinds() {
        for (path, expected) in [
            ("/live/a/master.m3u8", Kind::Manifest),
            ("/x.ism/Manifest", Kind::Manifest),
            ("/live/a/720p/seg_1.TS", Kind::Segment),
            ("/x.ism/QualityLevels(500)/Fragments(video=0)", Kind::Segment),
            ("/drm/a.key", Kind::Key),
            ("/favicon.ico", Kind::Other),
            ("/", Kind::Other),
            ("", Kind::Other),
        ] {
            assert_eq!(of(path).kind, expected, "{path}");
        }
    }

    #[test]
    fn all_renditions_of_an_asset_are_one() {
        for path in [
            "/live/sport1/master.m3u8",
            "/live/sport1/720p/index.m3u8",
            "/live/sport1/720p/seg_000123.ts",
            "/live/sport1/audio_main/seg_000123.aac",
            "/live/sport1/audio_eng/seg_000123.aac",
            "/live/sport1/subs-de_forced/seg_000123.vtt",
            "/live/sport1/audio_1/seg_000123.aac",
            "/live/sport1/hls/v3/seg.m4s",
            "/live/sport1/1280x720/5000k/1.ts",
        ] {
            assert_eq!(asset(path), Some("/live/sport1"), "{path}");
        }
    }

    #[test]
    fn different_assets_stay_apart() {
        assert_eq!(asset("/vod/film-0042/1080p/seg_1.m4s"), Some("/vod/film-0042"));
        assert_eq!(asset("/vod/film-0043/1080p/seg_1.m4s"), Some("/vod/film-0043"));
        assert_eq!(asset("/channel/7/seg_1.ts"), Some("/channel/7"));
        assert_eq!(asset("/news_00017.ts"), Some("/news"));
        assert_eq!(asset("/"), None);
        assert_eq!(asset(""), None);
    }
}
