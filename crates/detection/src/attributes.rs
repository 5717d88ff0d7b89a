//! The `attributes` column of an event: a JSON object, read once and only when a rule asks for it.

use std::fmt;

use foldhash::HashMap;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::value::{Text, Value};

/// Number of an attribute's name among those that any rule may ask for.
pub(crate) type NameId = u16;

/// Names of attributes that the rules of a set may ask for.
pub(crate) const MAX_NAMES: usize = NameId::MAX as usize;

/// The names of attributes that any rule may ask for. What has another name is skipped, not read.
#[derive(Debug, Default)]
pub(crate) struct Names {
    ids: HashMap<Box<str>, NameId>,
}

impl Names {
    /// The id of `name`, given one if it has none yet; none when there are too many.
    pub(crate) fn intern(&mut self, name: &str) -> Option<NameId> {
        if let Some(&id) = self.ids.get(name) {
            return Some(id);
        }
        let id = NameId::try_from(self.ids.len()).ok().filter(|id| usize::from(*id) < MAX_NAMES)?;
        self.ids.insert(name.into(), id);
        Some(id)
    }

    /// Whether no other name can be given an id.
    pub(crate) fn is_full(&self) -> bool {
        self.ids.len() >= MAX_NAMES
    }

    /// The name of an id. Looks at all of them.
    pub(crate) fn name(&self, id: NameId) -> Option<&str> {
        self.ids.iter().find(|(_, known)| **known == id).map(|(name, _)| name.as_ref())
    }
}

/// The fields of one event's `attributes` that have known names.
#[derive(Debug, Default)]
pub(crate) struct Attributes<'a> {
    values: Vec<Value<'a>>,
    /// By name: one more than the value's index, 0 for none.
    slots: Vec<u16>,
}

impl<'a> Attributes<'a> {
    /// Reads the object in `json`. Text that is no object, or is nested deeper than serde_json allows (128), has no
    /// fields: it cannot be matched, and it is stored all the same.
    pub(crate) fn parse(json: Option<&'a str>, names: &Names) -> Self {
        let Some(json) = json else { return Self::default() };
        let mut deserializer = serde_json::Deserializer::from_str(json);
        Known(names).deserialize(&mut deserializer).unwrap_or_default()
    }

    /// The field of that name; the first one where it stands twice.
    pub(crate) fn get(&self, name: NameId) -> Option<&Value<'a>> {
        let slot = self.slots.get(usize::from(name))?.checked_sub(1)?;
        self.values.get(usize::from(slot))
    }

    /// The field below that name, each step a key of the object before.
    pub(crate) fn path(&self, name: NameId, steps: &[Box<str>]) -> Option<&Value<'a>> {
        steps.iter().try_fold(self.get(name)?, |value, step| value.entry(step))
    }

    fn put(&mut self, name: NameId, value: Value<'a>) {
        if let Some(slot @ 0) = self.slots.get_mut(usize::from(name))
            && let Ok(number) = u16::try_from(self.values.len() + 1)
        {
            *slot = number;
            self.values.push(value);
        }
    }
}

/// Calls `visit` with every string in `json`, an object; stops at the first `true` and returns it.
pub(crate) fn any_string(json: Option<&str>, visit: &mut dyn FnMut(&str) -> bool) -> bool {
    match json.map(serde_json::from_str::<Value<'_>>) {
        Some(Ok(value)) => value.any_string(visit),
        _ => false,
    }
}

/// What most events do not exceed.
const USUAL_VALUES: usize = 32;

struct Known<'n>(&'n Names);

impl<'de> DeserializeSeed<'de> for Known<'_> {
    type Value = Attributes<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Known<'_> {
    type Value = Attributes<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut attributes =
            Attributes { values: Vec::with_capacity(USUAL_VALUES), slots: vec![0; self.0.ids.len()] };
        while let Some(Text(key)) = entries.next_key::<Text<'de>>()? {
            match self.0.ids.get(key.as_ref() as &str) {
                Some(&name) => attributes.put(name, entries.next_value()?),
                None => {
                    entries.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(attributes)
    }
}

/// A path in attributes as a rule writes it, `http.request.method`: a name and the steps below it, for every dot that the
/// name may end at, since an attribute's own name may have dots.
pub(crate) fn split_path(path: &str) -> impl Iterator<Item = (&str, Vec<Box<str>>)> {
    path.match_indices('.').filter_map(move |(dot, _)| {
        let (first, rest) = (path.get(..dot)?, path.get(dot + 1..)?);
        Some((first, rest.split('.').map(Box::from).collect()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_name_and_by_path() {
        let mut names = Names::default();
        let [dotted, http, text, none] =
            ["a.b", "http", "text", "none"].map(|name| names.intern(name).unwrap());
        let json =
            r#"{"a.b":1,"skipped":{"a":[1]},"http":{"status":404,"tags":["x"]},"text":"pl\u0061in","a.b":2}"#;
        let attributes = Attributes::parse(Some(json), &names);
        assert_eq!(attributes.get(dotted), Some(&Value::Int(1)));
        assert_eq!(attributes.path(http, &["status".into()]), Some(&Value::Int(404)));
        assert_eq!(attributes.get(text), Some(&Value::Str("plain".into())));
        assert_eq!(attributes.get(none), None);
        assert_eq!(attributes.path(http, &["none".into()]), None);
        assert!(any_string(Some(json), &mut |text| text == "x"));
        let (first, steps) = split_path("http.request.method").next().unwrap();
        assert_eq!((first, steps.len()), ("http", 2));
    }

    #[test]
    fn what_is_no_object_has_no_fields() {
        let mut names = Names::default();
        let a = names.intern("a").unwrap();
        let deep = format!("{}{}", r#"{"a":"#.repeat(200), "}".repeat(200));
        for json in ["", "[1]", "nonsense", r#"{"a":"#, deep.as_str()] {
            assert_eq!(Attributes::parse(Some(json), &names).get(a), None, "{json}");
        }
    }
}
