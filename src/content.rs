//! What a request was for: the kind of file, the asset that it belongs to, and which of its segments.

use std::hash::Hasher;

use serde::{Deserialize, Serialize};
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

/// Endings of media segments: HLS, DASH, CMAF and Smooth Streaming.
const SEGMENTS: [&str; 31] = [
    "ts", "m4s", "mp4", "m4v", "m4a", "cmfv", "cmfa", "cmft", "aac", "ac3", "ec3", "mp3", "webm", "vtt", "webvtt",
    "ttml", "dash", "m2ts", "m4f", "fmp4", "mp2t", "m2t", "cmfm", "ismv", "isma", "ismt", "mkv", "opus", "flac", "ac4",
    "ec-3",
];
const MANIFESTS: [&str; 3] = ["m3u8", "m3u", "mpd"];

/// An ending of media segments that a service has beside the known ones; empty: files without an ending are segments.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String")]
pub struct SegmentEnding(String);

impl TryFrom<String> for SegmentEnding {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let ending = text.strip_prefix('.').unwrap_or(&text);
        let is_one = |endings: &[&str]| endings.iter().any(|known| ending.eq_ignore_ascii_case(known));
        if ending.len() > 16 || !ending.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
            return Err(format!("{text:?} is no ending of a file: write it alone, as \"jpg\""));
        }
        if is_one(&MANIFESTS) || is_one(&["key"]) {
            return Err(format!("{text:?} is the ending of playlists or keys, not of segments"));
        }
        Ok(SegmentEnding(ending.to_owned()))
    }
}

/// The kind of what a path is of. `more` are endings of segments beside the known ones.
pub fn kind(path: &str, more: &[SegmentEnding]) -> Kind {
    match kind_of_file(file_of(path)) {
        Kind::Other if !more.is_empty() => {
            let name = file_of(path);
            let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
            let is_segment = !name.is_empty() && more.iter().any(|more| more.0.eq_ignore_ascii_case(ending));
            if is_segment { Kind::Segment } else { Kind::Other }
        }
        kind => kind,
    }
}

/// The name of the file, without the parameters that may stand behind it (RFC 3986, 3.3).
fn file_of(path: &str) -> &str {
    let name = memchr::memrchr(b'/', path.as_bytes()).map_or(path, |end| &path[end + 1..]);
    memchr::memchr(b';', name.as_bytes()).map_or(name, |end| &name[..end])
}

/// Kind of a file, from its name.
fn kind_of_file(name: &str) -> Kind {
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
    /// The identity of a media segment, 63 bits: the same for all renditions that lie in folders of their own, but not for pictures,
    /// sound and text: one viewer fetches these. None for what is no segment.
    pub segment: Option<i64>,
}

/// What a path (without its token) is of, which is of this kind. `asset_of_folder` is [`asset_of_folder`], or one that remembers what that
/// said.
pub fn content<'a>(path: &'a str, kind: Kind, asset_of_folder: impl FnOnce(&'a str) -> Option<&'a str>) -> Content<'a> {
    let folder_end = memchr::memrchr(b'/', path.as_bytes());
    let asset = folder_end.and_then(|end| asset_of_folder(&path[..end]).or_else(|| asset_at_top(path)));
    let folder = folder_end.map_or(0, |end| end + 1);
    let name = file_of(path);
    let renditions = || path.get(asset.map_or(0, str::len)..folder).unwrap_or_default();
    Content { asset, segment: (kind == Kind::Segment).then(|| segment(asset, Track::of(renditions(), name), name)) }
}

/// What of a stream a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Track {
    /// Or all of it.
    Video,
    Audio,
    Text,
}

impl Track {
    /// By the folders below the asset, else by the ending of the file.
    fn of(renditions: &str, name: &str) -> Track {
        let of_folder = |folder: &str| {
            let begins = |word: &str| folder.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
            let codec = folder.split(['.', '_', '-']).next().unwrap_or_default();
            let is_codec = |codecs: &[&str]| codecs.iter().any(|known| codec.eq_ignore_ascii_case(known));
            if TEXT_FOLDERS.iter().any(|word| begins(word)) || is_codec(&["stpp", "wvtt"]) {
                Some(Track::Text)
            } else if begins("audio")
                || is_numbered_sound(folder)
                || is_locale(folder)
                || is_codec(&["mp4a", "aac", "ac3", "ec3", "opus"])
            {
                Some(Track::Audio)
            } else {
                None
            }
        };
        let of_ending = || {
            let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
            let is_one_of = |endings: &[&str]| endings.iter().any(|known| ending.eq_ignore_ascii_case(known));
            if is_one_of(&["aac", "ac3", "ec3", "mp3", "m4a", "cmfa", "isma", "opus", "flac", "ac4", "ec-3"]) {
                Track::Audio
            } else if is_one_of(&["vtt", "webvtt", "ttml", "cmft", "ismt"]) {
                Track::Text
            } else {
                Track::Video
            }
        };
        renditions.split('/').find_map(of_folder).unwrap_or_else(of_ending)
    }
}

/// Beginnings of folders of text.
const TEXT_FOLDERS: [&str; 3] = ["sub", "caption", "text"];

/// A folder such as `a1` or `a_128k`.
fn is_numbered_sound(folder: &str) -> bool {
    let rest = folder.strip_prefix(['a', 'A']).map(|rest| rest.trim_start_matches(['-', '_', '=']));
    rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// The asset that a folder belongs to; none if there is no folder.
pub fn asset_of_folder(folder: &str) -> Option<&str> {
    let mut asset = without_tracks(folder);
    while let Some((above, last)) = asset.rsplit_once('/') {
        // A number of lines stands below the asset's own folder; a channel may have it for its name.
        let is_height = HEIGHTS.contains(&last) && above.matches('/').count() > 1;
        if above.is_empty() || !(is_rendition(last) || is_height) {
            break;
        }
        asset = above;
    }
    (!asset.is_empty()).then_some(asset)
}

/// A folder up to one that is called after what of a stream it holds, as in `film/audio/en/mp4a.40.2`, where nothing else than what tells
/// tracks apart stands behind that. There is a folder before it: elsewhere it may be what a catalogue is sorted by.
fn without_tracks(folder: &str) -> &str {
    let (mut above, mut found) = (folder, folder);
    // Whether the folder below the one at hand is a rendition and nothing else, and what others there are below it.
    let (mut is_sure, mut numbers, mut languages) = (false, false, false);
    while let Some((rest, last)) = above.rsplit_once('/') {
        if rest.trim_start_matches('/').is_empty() {
            break;
        }
        let lower = last.to_ascii_lowercase();
        if TRACK_FOLDERS.contains(&lower.as_str()) {
            // A number alone is a film of a catalogue of videos, or an episode of one of sound; so is a language among videos.
            let is_track = if lower.starts_with("video") { !numbers && !languages } else { !numbers || languages };
            if is_sure || is_track {
                found = rest;
            }
        } else if is_codec(&lower) || is_rendition(last) {
            is_sure = true;
        } else if is_language(&lower) {
            (is_sure, languages) = (false, true);
        } else if is_number(&lower) {
            (is_sure, numbers) = (false, numbers || !is_bitrate(&lower));
        } else {
            break;
        }
        above = rest;
    }
    found
}

/// Folders that are called after what of a stream they hold.
const TRACK_FOLDERS: [&str; 9] =
    ["video", "videos", "audio", "audios", "subs", "subtitles", "captions", "text", "texts"];

/// Of pictures, in lines: of 16:9, 4:3 and what encoding ladders are written of.
const HEIGHTS: [&str; 24] = [
    "144", "180", "216", "234", "240", "252", "270", "288", "360", "368", "396", "404", "406", "432", "480", "486",
    "504", "540", "576", "720", "900", "1080", "1440", "2160",
];

/// Names of codecs in paths, as in `avc1` and `mp4a.40.2`. Source: RFC 6381, and the registrations of its `codecs`.
const CODECS: [&str; 19] = [
    "avc", "avc1", "avc3", "h264", "h265", "hevc", "hev1", "hvc1", "dvh1", "dvhe", "av1", "av01", "vp8", "vp9", "vp09",
    "mp4a", "aac", "opus", "stpp",
];

fn is_codec(lower: &str) -> bool {
    CODECS.contains(&lower.split('.').next().unwrap_or_default())
}

/// Bits in a second, as of sound.
fn is_bitrate(text: &str) -> bool {
    text.parse::<u64>().is_ok_and(|bits| bits >= 16_000 && bits % 1_000 == 0)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b'x')
}

fn is_language(lower: &str) -> bool {
    LANGUAGES.split_ascii_whitespace().any(|known| known == lower)
}

/// A language of a country, as `en-US`. In lower case it may be anything.
fn is_locale(folder: &str) -> bool {
    folder.split_once(['-', '_']).is_some_and(|(language, country)| {
        country.len() == 2 && country.bytes().all(|byte| byte.is_ascii_uppercase()) && is_language(language)
    })
}

fn asset_at_top(path: &str) -> Option<&str> {
    let stem = path.rsplit_once('.').map_or(path, |(stem, _)| stem);
    let stem = stem.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(['-', '_', '.']);
    (stem.len() > 1).then_some(stem)
}

/// A hash of the asset, the file's name and, but for pictures, what it holds. It is stored, so it must not change without need: what was
/// shared while it changes is not seen as such for some minutes.
fn segment(asset: Option<&str>, track: Track, name: &str) -> i64 {
    let mut hash = XxHash64::with_seed(0);
    hash.write(asset.unwrap_or_default().as_bytes());
    hash.write(b"/");
    hash.write(name.as_bytes());
    hash.write(match track {
        Track::Video => b"",
        Track::Audio => b"\0audio",
        Track::Text => b"\0text",
    });
    (hash.finish() >> 1) as i64
}

/// The identity of a part of a segment: a file that is fetched range by range is as many. The part that begins it stands for the whole. None
/// of a part that is not known: two of them are no copies of each other.
pub fn part(segment: i64, first_byte: Option<u64>) -> Option<i64> {
    let first_byte = match first_byte? {
        0 => return Some(segment),
        first_byte => first_byte,
    };
    let mut hash = XxHash64::with_seed(first_byte);
    hash.write(&segment.to_le_bytes());
    Some((hash.finish() >> 1) as i64)
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
    const WORDS: [&str; 31] = [
        "hd",
        "sd",
        "fhd",
        "uhd",
        "low",
        "mid",
        "medium",
        "high",
        "source",
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
    const PREFIXES: [&str; 17] = [
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
        "gear",
        "out",
        "layer",
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
    let numbered = |rest: &str| {
        let rest = rest.trim_start_matches(['-', '_', '=']);
        is_number(rest) || SUFFIXES.iter().any(|suffix| rest.strip_suffix(suffix).is_some_and(is_number))
    };
    let of_language = |rest: &str| {
        let tongue = rest.strip_prefix(['-', '_']).and_then(|rest| rest.split(['-', '_']).next());
        tongue.is_some_and(|tongue| TRACKS.contains(&tongue) || is_language(tongue))
    };
    let is_sized = |text: &str| SUFFIXES.iter().any(|suffix| text.strip_suffix(suffix).is_some_and(is_number));
    // As `h264_1080p` and `720p-3000k`: nothing but what tells renditions apart. A word and a number may be the name of an asset.
    let mut parts = lower.split(['-', '_']);
    let says = |part: &str| is_codec(part) || is_sized(part) || HEIGHTS.contains(&part);
    let is_compound = lower.contains(['-', '_'])
        && parts.clone().any(says)
        && parts.all(|part| says(part) || is_number(part) || WORDS.contains(&part));
    WORDS.contains(&lower.as_str())
        || is_compound
        || is_locale(folder)
        || lower.contains('.') && is_codec(&lower)
        || SPOKEN.iter().any(|word| lower.strip_prefix(word).is_some_and(of_language))
        || lower.starts_with("qualitylevels(")
        || is_sized(&lower)
        || lower.split_once('x').is_some_and(|(width, height)| is_number(width) && is_number(height))
        || PREFIXES.iter().any(|prefix| lower.strip_prefix(prefix).is_some_and(numbered))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> Content<'_> {
        content(path, kind(path, &[]), asset_of_folder)
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
        // One viewer fetches pictures, sound and text, each once, perhaps through several addresses.
        for sound in ["aac_128k", "mp4a.40.2", "en-US", "audio/en/mp4a.40.2"] {
            let name = format!("/live/sport1/{sound}/1.m4s");
            assert_eq!(segment(&name), segment("/live/sport1/audio_en/1.m4s"), "{sound}");
        }
        let tracks =
            ["720p/1.m4s", "audio_en/1.m4s", "subs/1.m4s", "v1/1.m4s", "a1/1.m4s", "audio/en/1.m4s", "1.m4s", "1.aac"];
        let [video, audio, text, v1, a1, english, bare, sound] =
            tracks.map(|name| segment(&format!("/live/sport1/{name}")).unwrap());
        assert!(video == v1 && video == bare && audio == a1 && audio == english && audio != sound);
        assert!(video != audio && video != text && audio != text && video != sound);
        assert_eq!(segment("/live/sport1/720p/index.m3u8"), None);
        // Two ranges of a file are no segment that was fetched twice.
        let parts = [None, Some(0), Some(7), Some(8), Some(u64::MAX)].map(|first_byte| part(one, first_byte));
        assert_eq!((parts[0], parts[1], parts[2]), (None, Some(one), part(one, Some(7))));
        let different: std::collections::BTreeSet<i64> = parts.into_iter().flatten().collect();
        assert!(different.len() == 4 && different.iter().all(|part| *part >= 0), "{different:?}");
        assert_eq!(segment("/live/sport1/720p/seg_000123.ts;v=2"), Some(one));
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
            ("/live/a/1.m4f", Kind::Segment),
            ("/live/a/1.ts;v=2", Kind::Segment),
            ("/live/a/1.jpg", Kind::Other),
            ("/drm/a.key", Kind::Key),
            ("/favicon.ico", Kind::Other),
            ("/", Kind::Other),
            ("", Kind::Other),
        ] {
            assert_eq!(kind(path, &[]), expected, "{path}");
        }
        let more = ["JPG", "", ".seg"].map(|ending| SegmentEnding::try_from(ending.to_owned()).unwrap());
        for path in ["/live/a/1.jpg", "/live/a/1", "/live/a/1.Seg"] {
            assert_eq!(kind(path, &more), Kind::Segment, "{path}");
        }
        for path in ["/live/a/", "/live/a/1.png", "", "/live/a/key"] {
            assert_ne!(kind(path, &more), Kind::Segment, "{path}");
        }
        for wrong in ["m3u8", "a/b", "a.b", "key", "12345678901234567"] {
            assert!(SegmentEnding::try_from(wrong.to_owned()).is_err(), "{wrong}");
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
            "/live/sport1/1080/1.ts",
            "/live/sport1/hd/1.ts",
            "/live/sport1/gear1/1.ts",
            "/live/sport1/out_0/1.ts",
            "/live/sport1/h264_1080p/1.ts",
            "/live/sport1/720p_3000k/1.ts",
            "/live/sport1/1080p-5000k/1.ts",
            "/live/sport1/en-US/1.ts",
            "/live/sport1/video/avc1/1/seg-1.m4s",
            "/live/sport1/audio/en/mp4a.40.2/seg-1.m4s",
            "/live/sport1/audio/128000/1.m4s",
            "/live/sport1/subtitles/en/1.m4s",
        ] {
            assert_eq!(asset(path), Some("/live/sport1"), "{path}");
        }
    }

    #[test]
    fn different_assets_stay_apart() {
        assert_eq!(asset("/vod/film-0042/1080p/seg_1.m4s"), Some("/vod/film-0042"));
        assert_eq!(asset("/vod/film-0043/1080p/seg_1.m4s"), Some("/vod/film-0043"));
        assert_eq!(asset("/channel/7/seg_1.ts"), Some("/channel/7"));
        assert_eq!(asset("/video/7/seg_1.ts"), Some("/video/7"), "a catalogue, not a track");
        assert_eq!(asset("/video/film-7/720p/seg_1.ts"), Some("/video/film-7"));
        assert_eq!(asset("/vod/video/film-7/720p/seg_1.ts"), Some("/vod/video/film-7"));
        assert_eq!(asset("/live/news-2/seg_1.ts"), Some("/live/news-2"));
        for (path, expected) in [
            ("/live/de/seg_1.ts", "/live/de"),
            ("/live/hi/seg_1.ts", "/live/hi"),
            ("/channel/720/seg_1.ts", "/channel/720"),
            ("/vod/video/12345/seg_1.ts", "/vod/video/12345"),
            ("/media/videos/98765/720p/seg_1.ts", "/media/videos/98765"),
            ("/podcasts/audio/4711/seg_1.ts", "/podcasts/audio/4711"),
            ("/vod/videos/de/seg_1.ts", "/vod/videos/de"),
            ("/vod/media-12345/seg_1.ts", "/vod/media-12345"),
            ("/vod/media_777/720p/seg_1.ts", "/vod/media_777"),
            ("/live/source-12/seg_1.ts", "/live/source-12"),
        ] {
            assert_eq!(asset(path), Some(expected), "{path}");
        }
        assert_eq!(asset("/news_00017.ts"), Some("/news"));
        assert_eq!(asset("/"), None);
        assert_eq!(asset(""), None);
    }
}
