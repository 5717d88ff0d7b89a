//! Writes the JSON object of an event's other fields.

use std::fmt::Write;

/// The text of a JSON object in the making.
#[derive(Debug, Default)]
pub(crate) struct Attributes {
    text: String,
}

impl Attributes {
    /// Empty, with room for what a line of `bytes` usually needs.
    pub fn for_line(bytes: usize) -> Self {
        Self { text: String::with_capacity(bytes.saturating_add(64)) }
    }

    fn name(&mut self, name: &str) {
        self.text.push(if self.text.is_empty() { '{' } else { ',' });
        push_json_string(name, &mut self.text);
        self.text.push(':');
    }

    /// A field whose value is JSON already.
    pub fn raw(&mut self, name: &str, json: &str) {
        self.name(name);
        self.text.push_str(json);
    }

    /// A text field.
    pub fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        push_json_string(value, &mut self.text);
    }

    /// A text field, where there is one.
    pub fn optional(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    /// A number written in decimal digits as a number, any other text as text.
    pub fn digits(&mut self, name: &str, value: &str) {
        let number = !value.is_empty()
            && value.len() <= 15
            && value.bytes().all(|b| b.is_ascii_digit())
            && (value == "0" || !value.starts_with('0'));
        if number { self.raw(name, value) } else { self.text(name, value) }
    }

    /// The object, or none where it has no field.
    pub fn finish(mut self) -> Option<String> {
        if self.text.is_empty() {
            return None;
        }
        self.text.push('}');
        Some(self.text)
    }
}

/// Appends `value` as a JSON string (RFC 8259): quotes, backslashes and control characters are escaped.
pub(crate) fn push_json_string(value: &str, out: &mut String) {
    out.push('"');
    let mut rest = value;
    while let Some(at) = rest.bytes().position(|b| b < 0x20 || b == b'"' || b == b'\\') {
        // What needs escaping is one ASCII byte, so both cuts are on character boundaries.
        let (plain, escaped) = rest.split_at(at);
        out.push_str(plain);
        let mut chars = escaped.chars();
        match chars.next() {
            Some('"') => out.push_str("\\\""),
            Some('\\') => out.push_str("\\\\"),
            Some('\n') => out.push_str("\\n"),
            Some('\r') => out.push_str("\\r"),
            Some('\t') => out.push_str("\\t"),
            Some(control) => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            None => {}
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_object_without_fields_is_none() {
        assert_eq!(Attributes::default().finish(), None);
    }

    #[test]
    fn digits_stay_what_they_say() {
        let mut attributes = Attributes::default();
        for (name, value) in [("a", "0"), ("b", "12"), ("c", "012"), ("d", "-"), ("e", "9999999999999999")] {
            attributes.digits(name, value);
        }
        let expected = r#"{"a":0,"b":12,"c":"012","d":"-","e":"9999999999999999"}"#;
        assert_eq!(attributes.finish().as_deref(), Some(expected));
    }

    proptest! {
        #[test]
        fn any_text_survives_as_json(name: String, value: String) {
            let mut attributes = Attributes::default();
            attributes.text(&name, &value);
            let text = attributes.finish().unwrap();
            let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(object.get(&name).and_then(|v| v.as_str()), Some(value.as_str()));
        }
    }
}
