//! The `attributes` column of an event: a JSON object, read once and only when a rule asks for it.

use std::borrow::Cow;

use crate::value::Value;

/// The fields of one event's `attributes`.
#[derive(Debug, Default)]
pub(crate) struct Attributes<'a> {
    fields: Vec<(Cow<'a, str>, Value<'a>)>,
}

impl<'a> Attributes<'a> {
    /// Reads the object in `json`. Text that is no object, or is nested deeper than serde_json allows (128), has no
    /// fields: it cannot be matched, and it is stored all the same.
    pub(crate) fn parse(json: Option<&'a str>) -> Self {
        match json.map(serde_json::from_str::<Value<'a>>) {
            Some(Ok(Value::Map(fields))) => Self { fields },
            _ => Self::default(),
        }
    }

    /// The field called `name`, as it stands.
    pub(crate) fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The field at a dotted path, its steps given one by one.
    pub(crate) fn path(&self, steps: &[Box<str>]) -> Option<&Value<'a>> {
        let (first, rest) = steps.split_first()?;
        rest.iter().try_fold(self.get(first)?, |value, step| value.entry(step))
    }

    /// See [`Value::any_string`].
    pub(crate) fn any_string(&self, visit: &mut dyn FnMut(&str) -> bool) -> bool {
        self.fields.iter().any(|(_, value)| value.any_string(visit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_name_and_by_path() {
        let attributes =
            Attributes::parse(Some(r#"{"a.b":1,"http":{"status":404,"tags":["x"]},"text":"pl\u0061in"}"#));
        assert_eq!(attributes.get("a.b"), Some(&Value::Int(1)));
        assert_eq!(attributes.path(&["http".into(), "status".into()]), Some(&Value::Int(404)));
        assert_eq!(attributes.get("text"), Some(&Value::Str("plain".into())));
        assert_eq!(attributes.path(&["http".into(), "none".into()]), None);
        assert!(attributes.any_string(&mut |text| text == "x"));
    }

    #[test]
    fn what_is_no_object_has_no_fields() {
        let deep = format!("{}{}", r#"{"a":"#.repeat(200), "}".repeat(200));
        for json in ["", "[1]", "nonsense", r#"{"a":"#, deep.as_str()] {
            assert_eq!(Attributes::parse(Some(json)).get("a"), None, "{json}");
        }
    }
}
