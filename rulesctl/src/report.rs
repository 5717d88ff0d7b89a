//! Results of tests for CI systems.

use std::fmt::Write as _;

use crate::suite::{Outcomes, Suite};

/// JUnit's XML: a test suite a file, a test case a case; what could not be loaded is an error of its own.
pub(crate) fn junit(suite: &Suite) -> Result<String, std::fmt::Error> {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let (tests, failures) = (suite.cases.len() + suite.errors.len(), suite.failed());
    let errors = suite.errors.len();
    writeln!(
        out,
        "<testsuites name=\"tidewatch-rules\" tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\">"
    )?;
    for cases in suite.cases.chunk_by(|one, next| one.path == next.path) {
        let name = cases.first().map(|case| case.path.display().to_string()).unwrap_or_default();
        let failures = cases.iter().filter(|case| case.failure.is_some()).count();
        writeln!(
            out,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{failures}\">",
            escaped(&name),
            cases.len()
        )?;
        cases.iter().try_for_each(|case| one(&mut out, case))?;
        writeln!(out, "  </testsuite>")?;
    }
    if !suite.errors.is_empty() {
        writeln!(out, "  <testsuite name=\"load\" tests=\"{errors}\" errors=\"{errors}\">")?;
        for error in &suite.errors {
            let error = escaped(error);
            writeln!(out, "    <testcase name=\"load\"><error message=\"{error}\"/></testcase>")?;
        }
        writeln!(out, "  </testsuite>")?;
    }
    out.push_str("</testsuites>\n");
    Ok(out)
}

fn one(out: &mut String, case: &Outcomes) -> std::fmt::Result {
    let (rule, name) = (escaped(&case.rule), escaped(&case.case));
    match &case.failure {
        None => writeln!(out, "    <testcase classname=\"{rule}\" name=\"{name}\"/>"),
        Some(reason) => writeln!(
            out,
            "    <testcase classname=\"{rule}\" name=\"{name}\"><failure message=\"{}\"/></testcase>",
            escaped(reason)
        ),
    }
}

/// As the value of an attribute. Control characters have no place in XML 1.0.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\r' | '\t' => out.push(' '),
            control if control.is_control() => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_and_errors_are_told_in_xml() {
        let case = |failure: Option<&str>| Outcomes {
            path: "a/x.test.yml".into(),
            rule: "R & D".into(),
            rule_id: "1".into(),
            case: "a \"case\"".into(),
            failure: failure.map(str::to_owned),
        };
        let suite = Suite {
            cases: vec![case(None), case(Some("no <match>"))],
            untested: vec![],
            errors: vec!["b.yml:3: nonsense".into()],
        };
        let xml = junit(&suite).unwrap();
        assert!(
            xml.contains("<testsuites name=\"tidewatch-rules\" tests=\"3\" failures=\"1\" errors=\"1\">")
        );
        assert!(xml.contains("<testcase classname=\"R &amp; D\" name=\"a &quot;case&quot;\"/>"));
        assert!(xml.contains("<failure message=\"no &lt;match&gt;\"/>"));
        assert!(xml.contains("<error message=\"b.yml:3: nonsense\"/>"));
    }
}
