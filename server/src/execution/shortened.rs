//! Words of clients and workers, cut where they are too long to be kept.

/// The beginning of `text`, at most `bytes_max` of it, and whole characters.
pub(super) fn shortened(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let end = (0..=bytes_max).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.expect("every text begins with a boundary"));
        text.shrink_to_fit();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        for (text, expected) in [("", ""), ("abcd", "abcd"), ("abcde", "abcd"), ("abcé", "abc"), ("ééé", "éé")] {
            assert_eq!(shortened(text.to_owned(), 4), expected);
        }
    }
}
