//! Turns serde's message about an unknown name into one that suggests the nearest known name.

/// Adds "did you mean" to a message such as "unknown field `a`, expected one of `b`, `c`".
/// Any other message is returned as it is.
pub fn explain(message: &str) -> String {
    let unknown_name = message.starts_with("unknown field") || message.starts_with("unknown variant");
    let mut names = message.split('`').skip(1).step_by(2);
    match names.next() {
        Some(wrong) if unknown_name => match nearest(wrong, names) {
            Some(right) => format!("{message}; did you mean `{right}`?"),
            None => message.to_owned(),
        },
        _ => message.to_owned(),
    }
}

/// The candidate that is most like `name`, if any is much like it.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
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
        assert_eq!(explain("invalid type: string"), "invalid type: string");
    }
}
