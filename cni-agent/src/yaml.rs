//! PURE: the parts of a YAML text with the line of each, for who tells people where a fault is.

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;
use serde_saphyr::Spanned;
use std::fmt;

/// A YAML value that knows the line of each of its parts.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) line: u64,
    /// The line of its name, which may be one before; of what has none, its own.
    pub(crate) named: u64,
    pub(crate) branch: Branch,
}

#[derive(Clone, Debug)]
pub(crate) enum Branch {
    Map(Vec<(String, Tree)>),
    List(Vec<Tree>),
    Leaf(Value),
}

impl Tree {
    pub(crate) fn get(&self, name: &str) -> Option<&Tree> {
        let Branch::Map(fields) = &self.branch else {
            return None;
        };
        fields
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, tree)| tree)
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match &self.get(name)?.branch {
            Branch::Leaf(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn to_value(&self) -> Value {
        match &self.branch {
            Branch::Map(fields) => fields
                .iter()
                .map(|(name, tree)| (name.clone(), tree.to_value()))
                .collect(),
            Branch::List(items) => items.iter().map(Tree::to_value).collect(),
            Branch::Leaf(value) => value.clone(),
        }
    }

    /// The line of the deepest part of the path that exists. Names may hold dots, as labels do.
    pub(crate) fn line_of(&self, path: &str) -> u64 {
        let path = path.strip_prefix('.').unwrap_or(path);
        let next = match &self.branch {
            Branch::Map(fields) => fields
                .iter()
                .filter_map(|(name, tree)| Some((name, path.strip_prefix(name.as_str())?, tree)))
                .filter(|(_, rest, _)| rest.is_empty() || rest.starts_with(['.', '[']))
                .max_by_key(|(name, ..)| name.len())
                .map(|(_, rest, tree)| (tree, rest)),
            Branch::List(items) => path
                .strip_prefix('[')
                .and_then(|path| path.split_once(']'))
                .and_then(|(index, rest)| Some((items.get(index.parse::<usize>().ok()?)?, rest))),
            Branch::Leaf(_) => None,
        };
        next.map_or(self.line, |(tree, rest)| tree.line_of(rest))
    }
}

/// The parser's reason without its place, which is given apart, and the remedy.
pub(crate) fn syntax(error: &serde_saphyr::Error) -> String {
    let rendered = error.render();
    let reason = rendered.lines().next().unwrap_or_default();
    let reason = reason.split(" at line ").next().unwrap_or_default();
    if let Some((reason, _)) = reason.split_once(", set DuplicateKeyPolicy") {
        return format!("not valid YAML: {reason}; keep one of the two");
    }
    if let Some(limit) = reason.strip_prefix("budget breached: ") {
        return format!("more than is read of one file ({limit}); split it into several files");
    }
    format!("not valid YAML or JSON: {reason}; mend this line or the one before it")
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned {
            value, referenced, ..
        } = Spanned::<Branch>::deserialize(deserializer)?;
        let line = referenced.line();
        Ok(Self {
            line,
            named: line,
            branch: value,
        })
    }
}

impl<'de> Deserialize<'de> for Branch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BranchVisitor)
    }
}

struct BranchVisitor;

impl<'de> Visitor<'de> for BranchVisitor {
    type Value = Branch;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Branch, E> {
        Ok(Branch::Leaf(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Branch, E> {
        Ok(Branch::Leaf(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Branch, E> {
        Ok(Branch::Leaf(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Branch, E> {
        Ok(Branch::Leaf(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Branch, E> {
        Ok(Branch::Leaf(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Branch, E> {
        Ok(Branch::Leaf(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Branch, E> {
        Ok(Branch::Leaf(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Branch, D::Error> {
        Branch::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Branch, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Branch::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Branch, A::Error> {
        let mut map = Vec::new();
        while let Some(Spanned {
            value: name,
            referenced,
            ..
        }) = fields.next_key::<Spanned<String>>()?
        {
            let mut tree: Tree = fields.next_value()?;
            tree.named = referenced.line();
            map.push((name, tree));
        }
        Ok(Branch::Map(map))
    }
}
