//! PURE: Calico's selectors as Kubernetes' label selectors. Calico has `&&`, `||`, `!` and parentheses; Kubernetes
//! has lists of requirements that all hold, so that each side of an `||` becomes a selector of its own.

use serde_json::{Value, json};

/// Selectors of one expression at most.
const MOST: usize = 16;
/// Parentheses and negations in one another.
const DEEPEST: usize = 32;

/// A requirement of a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Term {
    pub(super) key: String,
    pub(super) is: Is,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Is {
    In(Vec<String>),
    /// Also where the label is missing.
    NotIn(Vec<String>),
    There,
    Missing,
}

/// Requirements that all hold.
pub(super) type All = Vec<Term>;

/// Reads an expression: any of the answers holds.
///
/// # Errors
/// What can't be read, or has no counterpart.
pub(super) fn read(text: &str) -> Result<Vec<All>, String> {
    let mut reader = Reader {
        rest: text,
        deep: 0,
    };
    let any = reader.any(false)?;
    match reader.rest.trim() {
        "" => Ok(any),
        rest => Err(format!("{rest:?} can't be read")),
    }
}

/// As a Kubernetes LabelSelector.
pub(super) fn label_selector(all: &[Term]) -> Value {
    let expressions = all.iter().map(|term| match &term.is {
        Is::In(values) => json!({ "key": term.key, "operator": "In", "values": values }),
        Is::NotIn(values) => json!({ "key": term.key, "operator": "NotIn", "values": values }),
        Is::There => json!({ "key": term.key, "operator": "Exists" }),
        Is::Missing => json!({ "key": term.key, "operator": "DoesNotExist" }),
    });
    match all.is_empty() {
        true => json!({}),
        false => json!({ "matchExpressions": expressions.collect::<Vec<_>>() }),
    }
}

struct Reader<'a> {
    rest: &'a str,
    deep: usize,
}

impl Reader<'_> {
    fn takes(&mut self, word: &str) -> bool {
        match self.rest.trim_start().strip_prefix(word) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn needs(&mut self, word: &str) -> Result<(), String> {
        match self.takes(word) {
            true => Ok(()),
            false => Err(format!("{word:?} is missing before {:?}", self.rest.trim())),
        }
    }

    /// Terms joined by `||`, or their negation.
    fn any(&mut self, not: bool) -> Result<Vec<All>, String> {
        self.deep += 1;
        if self.deep > DEEPEST {
            return Err("has too many parentheses".into());
        }
        let mut sides = vec![self.all(not)?];
        while self.takes("||") {
            sides.push(self.all(not)?);
        }
        self.deep -= 1;
        match not {
            false => bounded(sides.concat()),
            true => sides
                .into_iter()
                .try_fold(vec![Vec::new()], |left, right| both(&left, &right)),
        }
    }

    /// Terms joined by `&&`, or their negation.
    fn all(&mut self, not: bool) -> Result<Vec<All>, String> {
        let mut sides = vec![self.one(not)?];
        while self.takes("&&") {
            sides.push(self.one(not)?);
        }
        match not {
            true => bounded(sides.concat()),
            false => sides
                .into_iter()
                .try_fold(vec![Vec::new()], |left, right| both(&left, &right)),
        }
    }

    fn one(&mut self, not: bool) -> Result<Vec<All>, String> {
        if self.takes("!") {
            return self.one(!not);
        }
        if self.takes("(") {
            let inner = self.any(not)?;
            self.needs(")")?;
            return Ok(inner);
        }
        if self.takes("all()") {
            // Nothing is none of all.
            return Ok(if not { Vec::new() } else { vec![Vec::new()] });
        }
        if self.takes("has(") {
            let key = self.key()?;
            self.needs(")")?;
            let is = if not { Is::Missing } else { Is::There };
            return Ok(vec![vec![Term { key, is }]]);
        }
        if self.takes("global()") {
            return Err("global() has no counterpart: policies are about pods".into());
        }
        let key = self.key()?;
        let (equal, values) = if self.takes("==") {
            (true, vec![self.value()?])
        } else if self.takes("!=") {
            (false, vec![self.value()?])
        } else if self.takes("not in") {
            (false, self.values()?)
        } else if self.takes("in") {
            (true, self.values()?)
        } else {
            let rest = self.rest.trim();
            return Err(format!(
                "{rest:?} has no counterpart; ==, !=, in, not in and has() have one"
            ));
        };
        let is = if equal == not {
            Is::NotIn(values)
        } else {
            Is::In(values)
        };
        Ok(vec![vec![Term { key, is }]])
    }

    fn key(&mut self) -> Result<String, String> {
        let rest = self.rest.trim_start();
        let inner = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        let end = rest.find(|c| !inner(c)).unwrap_or(rest.len());
        if end == 0 {
            return Err(format!("{rest:?} has no label's name"));
        }
        let (key, rest) = rest.split_at(end);
        self.rest = rest;
        Ok(key.to_owned())
    }

    fn value(&mut self) -> Result<String, String> {
        let rest = self.rest.trim_start();
        for quote in ['\'', '"'] {
            if let Some(inner) = rest.strip_prefix(quote) {
                let end = inner.find(quote);
                let end = end.ok_or_else(|| format!("{rest:?} has no end of its value"))?;
                self.rest = &inner[end + 1..];
                return Ok(inner[..end].to_owned());
            }
        }
        Err(format!("{rest:?} has no value in quotes"))
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        self.needs("{")?;
        let mut values = vec![self.value()?];
        while self.takes(",") {
            values.push(self.value()?);
        }
        self.needs("}")?;
        Ok(values)
    }
}

fn bounded(any: Vec<All>) -> Result<Vec<All>, String> {
    match any.len() <= MOST {
        true => Ok(any),
        false => Err(format!("needs more than {MOST} selectors; split it")),
    }
}

/// Where one of each holds.
fn both(left: &[All], right: &[All]) -> Result<Vec<All>, String> {
    let pairs = left.iter().flat_map(|a| {
        right.iter().map(|b| {
            let mut all = [a.as_slice(), b].concat();
            all.sort();
            all.dedup();
            all
        })
    });
    bounded(pairs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Labels = BTreeMap<String, String>;

    fn selects(any: &[All], labels: &Labels) -> bool {
        any.iter().any(|all| {
            all.iter().all(|term| {
                let value = labels.get(&term.key);
                match &term.is {
                    Is::In(values) => value.is_some_and(|v| values.contains(v)),
                    Is::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
                    Is::There => value.is_some(),
                    Is::Missing => value.is_none(),
                }
            })
        })
    }

    /// An expression, and what it says of labels.
    #[derive(Clone, Debug)]
    enum Tree {
        Has(char),
        Equal(char, char),
        Other(char, char),
        Not(Box<Tree>),
        And(Box<Tree>, Box<Tree>),
        Or(Box<Tree>, Box<Tree>),
    }

    impl Tree {
        fn text(&self) -> String {
            match self {
                Self::Has(key) => format!("has({key})"),
                Self::Equal(key, value) => format!("{key} == '{value}'"),
                Self::Other(key, value) => format!("{key} not in {{ \"{value}\" }}"),
                Self::Not(tree) => format!("!({})", tree.text()),
                Self::And(a, b) => format!("({}) && ({})", a.text(), b.text()),
                Self::Or(a, b) => format!("({}) || {}", a.text(), b.text()),
            }
        }

        fn says(&self, labels: &Labels) -> bool {
            let get = |key: &char| labels.get(&key.to_string());
            match self {
                Self::Has(key) => get(key).is_some(),
                Self::Equal(key, value) => get(key) == Some(&value.to_string()),
                Self::Other(key, value) => get(key) != Some(&value.to_string()),
                Self::Not(tree) => !tree.says(labels),
                Self::And(a, b) => a.says(labels) && b.says(labels),
                Self::Or(a, b) => a.says(labels) || b.says(labels),
            }
        }
    }

    fn tree() -> impl Strategy<Value = Tree> {
        let key = || prop::sample::select(vec!['a', 'b']);
        let value = || prop::sample::select(vec!['x', 'y']);
        let leaf = prop_oneof![
            key().prop_map(Tree::Has),
            (key(), value()).prop_map(|(k, v)| Tree::Equal(k, v)),
            (key(), value()).prop_map(|(k, v)| Tree::Other(k, v)),
        ];
        leaf.prop_recursive(3, 8, 2, |inner| {
            prop_oneof![
                inner.clone().prop_map(|t| Tree::Not(t.into())),
                (inner.clone(), inner.clone()).prop_map(|(a, b)| Tree::And(a.into(), b.into())),
                (inner.clone(), inner).prop_map(|(a, b)| Tree::Or(a.into(), b.into())),
            ]
        })
    }

    proptest! {
        #[test]
        fn an_expression_selects_what_it_says(tree in tree(), a in "[xyz]?", b in "[xyz]?") {
            let labels = [("a", a), ("b", b)].into_iter().filter(|(_, v)| !v.is_empty());
            let labels: Labels = labels.map(|(k, v)| (k.to_owned(), v)).collect();
            match read(&tree.text()) {
                Ok(any) => prop_assert_eq!(selects(&any, &labels), tree.says(&labels), "{}", tree.text()),
                Err(error) => prop_assert!(error.contains("split it"), "{}: {}", tree.text(), error),
            }
        }
    }

    #[test]
    fn everything_and_nothing() {
        assert_eq!(read("all()"), Ok(vec![Vec::new()]));
        assert_eq!(read("!all()"), Ok(Vec::new()));
    }

    #[test]
    fn what_kubernetes_lacks_is_said() {
        for (text, why) in [
            ("app contains 'x'", "has no counterpart"),
            ("global()", "policies are about pods"),
            ("app == x", "no value in quotes"),
            ("app == 'x' &&", "no label's name"),
            ("(has(app)", "is missing"),
            ("app == 'x' app", "can't be read"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
