//! PURE: whether a text is like a pattern, with `*`, `?` and `[…]` as shells have them. What a configuration says is
//! checked by [`Pattern::check`] first: one that is no pattern is like nothing.

use super::plan::Pattern;
use glob::MatchOptions;

const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: false,
    require_literal_leading_dot: false,
};

impl Pattern {
    /// # Errors
    /// It is no pattern, or what other languages have for one: worded for people.
    pub fn check(&self) -> Result<(), String> {
        let text = &self.0;
        if text.contains("**") {
            return Err(format!(
                "{text:?} has `**`, which crosses no folders here; write one `*` for each part of the path"
            ));
        }
        if text.contains(['{', '}']) {
            return Err(format!(
                "{text:?} has braces, which patterns don't know; write an entry of its own for each choice"
            ));
        }
        if text.starts_with('^') || text.ends_with('$') || text.contains('\\') {
            return Err(format!(
                "{text:?} looks like a regular expression; write a pattern with `*`, `?` and `[…]`, as shells have them"
            ));
        }
        // Nothing else is wrong with one that has single asterisks.
        compile(text).map(drop).map_err(|error| {
            format!(
                "{text:?} has a `[` without its `]` at character {}; close it, or write `[[]` for the bracket itself",
                error.pos + 1
            )
        })
    }

    /// Whether a value is like it.
    pub fn is_like(&self, text: &str) -> bool {
        compile(&self.0).is_ok_and(|pattern| pattern.matches_with(text, OPTIONS))
    }

    /// Whether a path is like it: part by part, so that none of its signs is a `/`, and a `.` at a part's begin is
    /// written.
    pub fn is_like_path(&self, path: &str) -> bool {
        let (mut patterns, mut parts) = (self.0.split('/'), path.split('/'));
        loop {
            match (patterns.next(), parts.next()) {
                (None, None) => return true,
                (Some(pattern), Some(part)) if is_like_name(pattern, part) => {}
                _ => return false,
            }
        }
    }
}

/// Whether a name in a folder is like a part of a pattern of paths.
pub(super) fn is_like_name(pattern: &str, name: &str) -> bool {
    let options = MatchOptions {
        require_literal_leading_dot: true,
        ..OPTIONS
    };
    compile(pattern).is_ok_and(|pattern| pattern.matches_with(name, options))
}

/// Whether a part of a pattern is a name itself.
pub(super) fn is_plain(part: &str) -> bool {
    !part.contains(['*', '?', '['])
}

/// `**` is `*` for us, and `[^…]` is `[!…]`, as in most shells.
fn compile(text: &str) -> Result<glob::Pattern, glob::PatternError> {
    let mut plain = text.replace("[^", "[!");
    while plain.contains("**") {
        plain = plain.replace("**", "*");
    }
    glob::Pattern::new(&plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Pattern {
        Pattern(text.to_owned())
    }

    #[test]
    fn signs_mean_what_they_mean_in_shells() {
        for (text, good, bad) in [
            ("ttyUSB*", "ttyUSB12", "ttyACM0"),
            ("tty?SB[0-3]", "ttyUSB3", "ttyUSB4"),
            ("tty[!S]*", "ttyUSB0", "ttyS0"),
            ("tty[^S]*", "ttyUSB0", "ttyS0"),
            ("a**b", "aXXb", "aXX"),
            ("[*]", "*", "x"),
            ("", "", "x"),
        ] {
            assert!(pattern(text).is_like(good), "{text} {good}");
            assert!(!pattern(text).is_like(bad), "{text} {bad}");
        }
        assert!(pattern("*").is_like("a/b") && pattern("*").is_like(".a"));
    }

    #[test]
    fn a_slash_parts_paths_and_dots_are_written() {
        let by_id = pattern("/dev/*/by-id/*");
        assert!(by_id.is_like_path("/dev/serial/by-id/usb-A"));
        for other in [
            "/dev/serial/by-id",
            "/dev/a/b/by-id/c",
            "/dev/serial/by-id/.x",
        ] {
            assert!(!by_id.is_like_path(other), "{other}");
        }
        assert!(!pattern("dri/*").is_like_path("dri/by-path/x"));
    }

    #[test]
    fn what_other_languages_have_is_refused_with_what_to_write() {
        for (text, remedy) in [
            ("/dev/a/**", "write one `*`"),
            ("tty{USB,ACM}*", "entry of its own"),
            ("^tty", "write a pattern"),
            ("tty.*$", "write a pattern"),
            ("tty\\d", "write a pattern"),
        ] {
            let problem = pattern(text).check().unwrap_err();
            assert!(problem.contains(remedy), "{text}: {problem}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_told_and_like_nothing() {
        let broken = pattern("tty[0-9");
        let problem = broken.check().unwrap_err();
        assert!(
            problem.contains("character 4") && problem.contains("write `[[]`"),
            "{problem}"
        );
        assert!(!broken.is_like("tty[0-9"));
        for text in ["tty[!]", "tty[]", "a[^]b", "[x]["] {
            assert!(pattern(text).check().is_err(), "{text}");
        }
        for text in ["tty[0-9]*", "[]]", "[!]]", "[^]x]", "[[]", ""] {
            assert_eq!(pattern(text).check(), Ok(()), "{text}");
        }
    }

    /// The plain reading of a pattern of letters, `*` and `?`.
    fn oracle(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            (['*', rest @ ..], _) => {
                oracle(rest, text) || (!text.is_empty() && oracle(pattern, &text[1..]))
            }
            (['?', rest @ ..], [_, others @ ..]) => oracle(rest, others),
            ([c, rest @ ..], [d, others @ ..]) => c == d && oracle(rest, others),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_are_like_what_a_plain_reading_says(signs in "[ab*?]{0,8}", text in "[ab]{0,8}") {
            let (p, t): (Vec<char>, Vec<char>) = (signs.chars().collect(), text.chars().collect());
            prop_assert_eq!(pattern(&signs).is_like(&text), oracle(&p, &t));
        }

        #[test]
        fn no_text_is_too_strange_for_a_pattern(signs in "\\PC{0,12}", text in "\\PC{0,12}") {
            let pattern = pattern(&signs);
            let like = pattern.is_like(&text) || pattern.is_like_path(&text);
            let is_open = pattern.check().is_err_and(|problem| problem.contains("without its `]`"));
            prop_assert!(!like || !is_open || signs.contains('/'));
        }
    }
}
