//! Refuses JSON that could mean two things to two readers: a key given twice in one object.

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use std::{collections::BTreeSet, fmt};

/// Checks that the text is one JSON object without duplicate keys, at most 127 levels deep.
///
/// # Errors
/// With line and column.
pub(crate) fn check_object(text: &str) -> Result<(), serde_json::Error> {
    if !text
        .trim_start_matches([' ', '\t', '\r', '\n'])
        .starts_with('{')
    {
        return Err(serde_json::Error::custom("not a JSON object"));
    }
    serde_json::from_str::<Unambiguous>(text).map(drop)
}

struct Unambiguous;

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Walk)
    }
}

struct Walk;

impl<'de> Visitor<'de> for Walk {
    type Value = Unambiguous;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unambiguous, A::Error> {
        let mut keys = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if keys.contains(&key) {
                let key = crate::fault::shown(&key);
                return Err(A::Error::custom(format_args!(
                    "the key {key} is given twice"
                )));
            }
            keys.insert(key);
            map.next_value::<Unambiguous>()?;
        }
        Ok(Unambiguous)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Unambiguous, A::Error> {
        while seq.next_element::<Unambiguous>()?.is_some() {}
        Ok(Unambiguous)
    }

    fn visit_str<E>(self, _: &str) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }
    fn visit_unit<E>(self) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let error = check_object(text).err().map(|e| e.to_string());
        match expected {
            None => assert_eq!(error, None, "{text}"),
            Some(part) => assert!(
                error.as_ref().is_some_and(|e| e.contains(part)),
                "{error:?}"
            ),
        }
    }

    #[test]
    fn one_meaning_or_none() {
        check(
            r#" {"a":[1,-2,1.5,null,true,{"a":"b"}],"b":{"a":1}} "#,
            None,
        );
        check(r#"{"a":1,"a":2}"#, Some("\"a\" is given twice"));
        check(r#"{"a":1,"\u0061":2}"#, Some("given twice"));
        check(r#"{"x":[{"k":{"b":1,"b":1}}]}"#, Some("given twice"));
        check("[1]", Some("not a JSON object"));
        check("", Some("not a JSON object"));
        check(r#"{"a":1"#, Some("EOF"));
        check(r#"{"a":1} x"#, Some("trailing"));
        check(&format!("{{\"a\":{}", "[".repeat(200)), Some("recursion"));
    }
}
