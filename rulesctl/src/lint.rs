//! What compiles and is not as meant, or costs more than it need.

use std::collections::BTreeSet;

use detection::{Detection, LogSource, Outline, Rules, Test, is_column};
use serde::Deserialize;

use crate::rules::log_source;

/// A counted repetition of a larger group compiles to a large program.
const MAX_REPETITION: u32 = 100;

/// Wildcards within a pattern from which on every further one multiplies the work.
const MAX_WILDCARDS: usize = 4;

/// Kind and text of a warning.
pub(crate) type Warned = (&'static str, String);

/// Fields of the events of a log source.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Provided {
    #[serde(default)]
    product: Option<String>,
    #[serde(default)]
    category: Option<String>,
    #[serde(default)]
    service: Option<String>,
    fields: Vec<String>,
}

impl Provided {
    fn is_for(&self, source: &LogSource) -> bool {
        let fits = |own: &Option<String>, of: &Option<String>| own.is_none() || own == of;
        fits(&self.product, &source.product)
            && fits(&self.category, &source.category)
            && fits(&self.service, &source.service)
    }

    /// Whether it tells all the fields of a log source, not only those that many have in common.
    fn is_whole(&self) -> bool {
        self.category.is_some() || self.service.is_some()
    }
}

/// Looks for what is wrong with rules that compile.
pub(crate) struct Linter {
    provided: Vec<Provided>,
}

impl Linter {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let provided = serde_norway::from_str(include_str!("provided.yml"))?;
        Ok(Self { provided })
    }

    pub(crate) fn lint(&self, rules: &Rules, rule: &Detection) -> Vec<Warned> {
        let mut warned = Vec::new();
        if rule.logsource == LogSource::default() {
            let text = "it has no logsource: every event of every source is evaluated against it";
            warned.push(("cost", text.to_owned()));
        } else if !rules.taxonomy().routes(&rule.logsource) {
            warned.push((
                "logsource",
                format!("no event is of its logsource ({})", log_source(&rule.logsource)),
            ));
        }
        if let Some(outline) = rules.outline(rule) {
            self.fields(rules, rule, &outline, &mut warned);
            costs(&outline, &mut warned);
        }
        warned
    }

    fn fields(&self, rules: &Rules, rule: &Detection, outline: &Outline, warned: &mut Vec<Warned>) {
        let fitting = || self.provided.iter().filter(|entry| entry.is_for(&rule.logsource));
        if !fitting().any(Provided::is_whole) {
            return;
        }
        let known: BTreeSet<&str> = fitting().flat_map(|entry| &entry.fields).map(String::as_str).collect();
        let provided = |field: &str| {
            let places = rules.taxonomy().aliases(field).iter().map(String::as_str);
            places.chain([field]).any(|place| is_column(place) || known.contains(place))
                || field.split_once('.').is_some_and(|(outer, _)| known.contains(outer))
        };
        let mut asked = BTreeSet::new();
        each_test(outline, &mut |test| asked.extend(test.field.as_deref()));
        for field in asked.into_iter().filter(|field| !provided(field)) {
            let source = log_source(&rule.logsource);
            warned.push(("field", format!("no event of its logsource ({source}) has a field {field}")));
        }
    }
}

fn each_test<'o>(outline: &'o Outline, visit: &mut dyn FnMut(&'o Test)) {
    outline.selections.iter().for_each(|selection| selection.part.tests(visit));
}

fn costs(outline: &Outline, warned: &mut Vec<Warned>) {
    each_test(outline, &mut |test| {
        let regex = test.modifiers.iter().any(|modifier| modifier == "re");
        let field = test.field.as_deref().unwrap_or("keywords");
        for wanted in &test.wanted {
            let reason = if regex { regex_cost(wanted) } else { wildcard_cost(wanted) };
            if let Some(reason) = reason {
                warned.push(("cost", format!("{field}: '{wanted}' {reason}")));
            }
        }
    });
}

fn regex_cost(pattern: &str) -> Option<String> {
    if pattern.starts_with(".*") || pattern.starts_with("^.*") {
        return Some(
            "starts with .*, which finds nothing more and keeps the search from skipping".to_owned(),
        );
    }
    // `\x{2013}` and `\p{Lu}` name characters.
    let escaped = |before: &str| {
        let mut letters = before.chars().rev();
        matches!(letters.next(), Some('x' | 'u' | 'U' | 'p' | 'P')) && letters.next() == Some('\\')
    };
    let braces = pattern.match_indices('{').map(|(at, _)| pattern.split_at(at));
    let counts = braces.filter(|(before, _)| !escaped(before)).filter_map(|(_, rest)| {
        let (inside, _) = rest.strip_prefix('{')?.split_once('}')?;
        inside.split(',').filter_map(|bound| bound.trim().parse::<u32>().ok()).max()
    });
    let largest = counts.max().filter(|count| *count > MAX_REPETITION)?;
    Some(format!("repeats {largest} times, which makes a large program"))
}

fn wildcard_cost(pattern: &str) -> Option<String> {
    let inner = pattern.trim_matches('*').replace("\\*", "");
    let wildcards = inner.matches('*').count();
    (wildcards > MAX_WILDCARDS).then(|| format!("has {wildcards} wildcards within"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use detection::{Taxonomy, load_documents};
    use rstest::rstest;

    use super::*;

    fn kinds(logsource: &str, detection: &str) -> Vec<&'static str> {
        let linter = Linter::new().unwrap();
        let text =
            format!("title: x\nid: x\nlogsource: {logsource}\ndetection: {{s: {detection}, condition: s}}\n");
        let loaded = load_documents(Path::new("x.yml"), &text, &Taxonomy::shipped().unwrap());
        assert_eq!(loaded.defects, []);
        let rules = &loaded.rules;
        linter.lint(rules, &rules.detections()[0]).into_iter().map(|(kind, _)| kind).collect()
    }

    const PROCESS: &str = "{product: windows, category: process_creation}";

    #[rstest]
    #[case(PROCESS, "{Image|endswith: x, host: y, command_line: z}", &["field"])]
    #[case(PROCESS, "{Image|endswith: x, host: y, CommandLine: z}", &[])]
    #[case(PROCESS, "{Image: x, QueryStatus: y}", &["field"])]
    #[case("{product: windows, service: security}", "{Anything: x}", &[])]
    #[case("{product: linux, service: sshd}", "{outcome: failure, oucome: x}", &["field"])]
    #[case("{product: abacus}", "{a: x}", &["logsource"])]
    #[case("{}", "{a: x}", &["cost"])]
    #[case(PROCESS, r"{CommandLine|re: '.*evil'}", &["cost"])]
    #[case(PROCESS, r"{CommandLine|re: 'a{2,500}'}", &["cost"])]
    #[case(PROCESS, r"{CommandLine|re: 'a{2,50}evil'}", &[])]
    #[case(PROCESS, r"{CommandLine|re: '\x{2013}enc'}", &[])]
    #[case(PROCESS, "{CommandLine: '*a*b*c*d*e*f*'}", &["cost"])]
    #[case(PROCESS, "{CommandLine: '*a*b*'}", &[])]
    fn what_is_not_as_meant_is_warned_about(
        #[case] logsource: &str,
        #[case] detection: &str,
        #[case] expected: &[&str],
    ) {
        assert_eq!(kinds(logsource, detection), expected);
    }
}
