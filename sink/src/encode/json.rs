//! What Postgres' json type lets in and cannot give back.

use memchr::{memchr, memchr_iter};

use super::Refusal;

/// Looks for NUL, plain or escaped, and for surrogates without their other half.
///
/// Everything else is left to Postgres, which parses the text when it is stored.
///
/// # Errors
/// The first of them.
pub fn check(text: &str) -> Result<(), Refusal> {
    let bytes = text.as_bytes();
    if memchr(0, bytes).is_some() {
        return Err(Refusal::Nul("attributes"));
    }
    // Backslashes are few in most attributes: hop from one to the next. `after` is past what has been looked at.
    let mut after = 0;
    for at in memchr_iter(b'\\', bytes) {
        if at < after {
            continue;
        }
        after = at + 2;
        let Some(unit) = escaped_unit(bytes, at) else { continue };
        after = at + ESCAPE;
        match unit {
            0 => return Err(Refusal::EscapedNul),
            0xd800..=0xdbff => match escaped_unit(bytes, after) {
                Some(0xdc00..=0xdfff) => after += ESCAPE,
                _ => return Err(Refusal::LoneSurrogate),
            },
            0xdc00..=0xdfff => return Err(Refusal::LoneSurrogate),
            _ => {}
        }
    }
    Ok(())
}

/// Length of `\uXXXX`.
const ESCAPE: usize = 6;

/// The UTF-16 unit of the escape that begins at `at`, if there is one.
fn escaped_unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + ESCAPE)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0u16, |unit, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(unit << 4 | digit as u16)
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(r#"{"a":"plain"}"#, None)]
    #[case(r#"{"a":"C:\\u0000\\temp"}"#, None)]
    #[case(r#"{"a":"tab\tquote\"\u00e9"}"#, None)]
    #[case(r#"{"a":"\ud83d\ude00 and \uD83D\uDE00"}"#, None)]
    #[case("{\"a\":\"\0\"}", Some(Refusal::Nul("attributes")))]
    #[case(r#"{"a":"\u0000"}"#, Some(Refusal::EscapedNul))]
    #[case(r#"{"a":"\\\u0000"}"#, Some(Refusal::EscapedNul))]
    #[case(r#"{"a":"\ud83d"}"#, Some(Refusal::LoneSurrogate))]
    #[case(r#"{"a":"\ud83dx"}"#, Some(Refusal::LoneSurrogate))]
    #[case(r#"{"a":"\ud83d\ud83d\ude00"}"#, Some(Refusal::LoneSurrogate))]
    #[case(r#"{"a":"\ud83d\\ude00"}"#, Some(Refusal::LoneSurrogate))]
    #[case(r#"{"a":"\uDE00"}"#, Some(Refusal::LoneSurrogate))]
    // Not JSON: Postgres says so.
    #[case(r#"{"a":"\u00"#, None)]
    #[case(r"\", None)]
    fn nul_and_lone_surrogates_are_found(#[case] text: &str, #[case] refusal: Option<Refusal>) {
        assert_eq!(check(text).err(), refusal, "{text}");
    }

    proptest::proptest! {
        #[test]
        fn whatever_serde_json_writes_passes_unless_it_holds_nul(value in "\\PC*|[\\x00-\\x1f\"\\\\u0d8a-f]*") {
            let text = serde_json::to_string(&value).unwrap();
            proptest::prop_assert_eq!(check(&text).is_err(), value.contains('\0'));
        }

        #[test]
        fn what_passes_is_read_back_by_serde_json(text in "\"(\\\\u[dD][89c][0-9]{2}|\\\\u00[04][0-9]|\\\\\\\\|a|\\\\n)*\"") {
            // serde_json refuses lone surrogates, and turns \u0000 into NUL.
            let nul_free = |text: String| !text.contains('\0');
            let readable = serde_json::from_str::<String>(&text).is_ok_and(nul_free);
            proptest::prop_assert_eq!(check(&text).is_ok(), readable);
        }
    }
}
