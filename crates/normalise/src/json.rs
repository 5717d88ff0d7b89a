//! JSON objects field by field, every value as its own text.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::attributes::{Attributes, push_json_string};

/// A field's name, and its value as JSON text.
pub(crate) type Field<'a> = (Cow<'a, str>, &'a str);

/// The fields of the object that `text` is, in its order, duplicates included; none if it is no object.
///
/// Values are skipped without recursion, so their depth is no matter.
pub(crate) fn object(text: &str) -> Option<Vec<Field<'_>>> {
    serde_json::from_str::<Object<'_>>(text).ok().map(|object| object.0)
}

struct Object<'a>(Vec<Field<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
        let mut fields = Vec::with_capacity(USUAL_FIELDS);
        while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
            fields.push((name, value.get()));
        }
        Ok(Object(fields))
    }
}

/// Fields most events do not exceed.
const USUAL_FIELDS: usize = 24;

/// A name that borrows unless it has escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }
            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }
            fn visit_str<E>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

/// The text of a JSON string; none for other values and for one with a lone surrogate, which is no text.
pub(crate) fn string(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str::<String>(json).ok().map(Cow::Owned)
}

/// The text of a JSON string, number or boolean.
pub(crate) fn scalar(json: &str) -> Option<Cow<'_, str>> {
    match json.as_bytes().first()? {
        b'"' => string(json),
        b'{' | b'[' | b'n' => None,
        _ => Some(Cow::Borrowed(json)),
    }
}

/// An integer, as a JSON number or in a string.
pub(crate) fn integer(json: &str) -> Option<i64> {
    scalar(json)?.parse().ok()
}

/// Depth of nesting up to which a value is kept as JSON. Postgres reads JSON by recursion and refuses what
/// is nested some thousand deep; no log needs a hundred.
const MAX_DEPTH: usize = 64;

/// Whether a value is nested deeper than [`MAX_DEPTH`].
fn too_deep(json: &str) -> bool {
    if json.len() < 2 * MAX_DEPTH || !json.starts_with(['{', '[']) {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// Adds a field to the attributes as it came; a value nested too deep as the text of it.
pub(crate) fn keep(attributes: &mut Attributes, name: &str, json: &str) {
    if too_deep(json) {
        let mut quoted = String::with_capacity(json.len() + json.len() / 4);
        push_json_string(json, &mut quoted);
        attributes.raw(name, &quoted);
    } else {
        attributes.raw(name, json);
    }
}

/// Calls `visit` with the name and text of every string field of a JSON object, and of the strings in its
/// arrays of strings; nothing happens where `object` is none.
pub fn for_each_string(object_text: &str, mut visit: impl FnMut(&str, &str)) {
    for (name, json) in object(object_text).unwrap_or_default() {
        match json.as_bytes().first() {
            Some(b'"') => {
                if let Some(text) = string(json) {
                    visit(&name, &text);
                }
            }
            Some(b'[') => {
                for text in serde_json::from_str::<Vec<String>>(json).unwrap_or_default() {
                    visit(&name, &text);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_text_and_order() {
        let fields = object(r#" {"a" : "x\ny", "b\u0041":{"c": [1 , 2]},"a":null} "#).unwrap();
        let fields: Vec<_> = fields.iter().map(|(name, json)| (name.as_ref(), *json)).collect();
        assert_eq!(fields, [("a", r#""x\ny""#), ("bA", r#"{"c": [1 , 2]}"#), ("a", "null")]);
    }

    #[test]
    fn what_is_no_object_is_none() {
        for text in ["", "{", "[]", "1", "{}x", r#"{"a":}"#, r#"{"\ud800":1}"#, "{\"a\":\"\u{1}\"}"] {
            assert_eq!(object(text), None, "{text}");
        }
    }

    #[test]
    fn deep_values_become_text() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let line = format!(r#"{{"a":{deep}}}"#);
        let fields = object(&line).unwrap();
        let mut attributes = Attributes::default();
        keep(&mut attributes, "a", fields[0].1);
        assert_eq!(attributes.finish(), Some(format!(r#"{{"a":"{deep}"}}"#)));
        assert!(!too_deep(&format!(r#"["{}"]"#, "[".repeat(200))));
    }

    #[test]
    fn a_lone_surrogate_is_no_text() {
        assert_eq!(string(r#""a\ud800""#), None);
        assert_eq!(string(r#""\ud83d\ude00""#).as_deref(), Some("😀"));
    }

    #[test]
    fn strings_are_visited_also_in_arrays() {
        let mut seen = Vec::new();
        for_each_string(r#"{"a":"x","b":1,"c":["y","z"],"d":{"e":"no"}}"#, |name, text| {
            seen.push(format!("{name}={text}"));
        });
        assert_eq!(seen, ["a=x", "c=y", "c=z"]);
    }
}
