//! Texts as one regular expression: common beginnings are written once, as room is scarce.

/// An expression that matches just these texts, of which there is at least one. They are sorted and differ.
pub fn alternation(texts: &[&str]) -> String {
    let beginning = common_beginning(texts);
    let rests: Vec<&str> = texts.iter().map(|text| &text[beginning.len()..]).collect();
    match alternatives(&rests).as_slice() {
        [one] => format!("{}{one}", escape(beginning)),
        several if rests[0].is_empty() => {
            let whole: Vec<String> = several.iter().map(|rest| format!("{}{rest}", escape(beginning))).collect();
            format!("(?:{})", whole.join("|"))
        }
        several => format!("{}(?:{})", escape(beginning), several.join("|")),
    }
}

/// The alternatives of an expression for these texts. An empty one stands for itself: WAF's engine need not take it.
fn alternatives(texts: &[&str]) -> Vec<String> {
    let mut alternatives = Vec::new();
    for run in texts.chunk_by(|one, other| one.chars().next() == other.chars().next()) {
        let beginning = common_beginning(run);
        let rests: Vec<&str> = run.iter().map(|text| &text[beginning.len()..]).collect();
        if beginning.is_empty() || run.len() == 1 {
            alternatives.extend(run.iter().map(|text| escape(text)));
            continue;
        }
        let inner = self::alternatives(&rests);
        let beginning = escape(beginning);
        let shared = beginning.len() + "(?:)".len();
        if rests[0].is_empty() || shared >= inner.len() * beginning.len() {
            alternatives.extend(inner.iter().map(|rest| format!("{beginning}{rest}")));
        } else {
            alternatives.push(format!("{beginning}(?:{})", inner.join("|")));
        }
    }
    alternatives
}

/// What all of the texts begin with: as they are sorted, the first and the last one tell.
fn common_beginning<'a>(texts: &[&'a str]) -> &'a str {
    let (first, last) = (texts[0], texts[texts.len() - 1]);
    let end = first.char_indices().zip(last.chars()).find(|((_, one), other)| one != other);
    let end = end.map_or(first.len().min(last.len()), |((at, _), _)| at);
    &first[..end]
}

/// Escapes what means something in a regular expression; letters, digits, `_` and `-` mean nothing outside a
/// character class.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if !(c.is_ascii_alphanumeric() || c == '_' || c == '-') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    fn of(texts: &[&str]) -> String {
        alternation(texts)
    }

    #[test]
    fn beginnings_are_written_once_where_that_is_shorter() {
        assert_eq!(of(&["abc"]), "abc");
        assert_eq!(of(&["abc", "abd"]), "ab(?:c|d)");
        assert_eq!(of(&["a", "b"]), "(?:a|b)");
        assert_eq!(of(&["aab", "aac", "b"]), "(?:aab|aac|b)", "(?:aa(?:b|c)|b) is longer");
        assert_eq!(of(&["longerb", "longerc", "x"]), "(?:longer(?:b|c)|x)");
        assert_eq!(of(&["a.", "a.b"]), r"(?:a\.|a\.b)", "no empty alternative");
    }

    proptest! {
        #[test]
        fn just_the_texts_and_never_longer(
            texts in proptest::collection::btree_set("[ab.|*]{1,5}", 1..30),
            others in proptest::collection::vec("[ab.|*]{0,6}", 30),
        ) {
            let sorted: Vec<&str> = texts.iter().map(String::as_str).collect();
            let pattern = alternation(&sorted);
            let regex = Regex::new(&format!("^(?:{pattern})$")).unwrap();
            for text in texts.iter().chain(&others) {
                prop_assert_eq!(regex.is_match(text), texts.contains(text), "{} {}", pattern, text);
            }
            let apart: Vec<String> = sorted.iter().map(|text| escape(text)).collect();
            let longest = apart.join("|").len() + "(?:)".len();
            prop_assert!(pattern.len() <= longest);
            let empty = pattern.contains("(?:|");
            prop_assert!(!empty, "{}", pattern);
        }
    }
}
