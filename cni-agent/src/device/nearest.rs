//! PURE: what was meant by a word that nobody knows.

/// The word of `known` that was meant, if one is near: as others spell it (`group_by`), or mistyped.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |word: &str| word.replace(['_', '-', ' '], "").to_lowercase();
    let word = plain(word);
    let most = (word.chars().count() / 3).max(1);
    known
        .iter()
        .map(|near| (strsim::damerau_levenshtein(&word, &plain(near)), *near))
        .filter(|(differences, _)| *differences <= most)
        .min_by_key(|(differences, _)| *differences)
        .map(|(_, near)| near)
}
