//! Turns serde's message about an unknown name into one that suggests the nearest known name.

/// Says a message of serde in the words of somebody who writes a config: "did you mean" after "unknown field
/// `a`, expected one of `b`, `c`", and no types of Rust.
pub fn explain(message: &str) -> String {
    const WORDS: [(&str, &str); 6] = [
        ("expected a sequence", "expected a list (a section that may occur several times is written [[name]])"),
        ("expected u64", "expected a whole number"),
        ("expected u16", "expected a whole number"),
        ("expected usize", "expected a whole number"),
        ("expected f64", "expected a number"),
        ("invalid type: map", "invalid type: a section"),
    ];
    let unknown_name = message.starts_with("unknown field") || message.starts_with("unknown variant");
    let mut names = message.split('`').skip(1).step_by(2);
    match names.next() {
        Some(wrong) if unknown_name => did_you_mean(message.to_owned(), wrong, names),
        _ => WORDS.iter().fold(message.to_owned(), |message, (theirs, ours)| message.replace(theirs, ours)),
    }
}

/// Adds the nearest right name to a message about a wrong one.
pub fn did_you_mean<'a>(message: String, wrong: &str, right: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(wrong, right) {
        Some(right) => format!("{message}; did you mean `{right}`?"),
        None => message,
    }
}

/// The candidate that is most like `name`, if any is much like it.
fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_and_far_ones_are_not() {
        assert_eq!(nearest("lookbak", ["location", "format", "lookback"]), Some("lookback"));
        assert_eq!(nearest("colour", ["location", "format", "lookback"]), None);
        assert_eq!(explain("invalid type: map, expected u64"), "invalid type: a section, expected a whole number");
        assert!(explain("unknown field `nam`, expected `name` or `id`").ends_with("did you mean `name`?"));
    }
}
