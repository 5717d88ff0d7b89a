//! What compiles and is not as meant, or costs more than it need.

use std::collections::BTreeSet;

use detection::{Detection, LogSource, Outline, Rules, Taxonomy, Test, is_column};
use serde::Deserialize;

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
    taxonomy: Taxonomy,
    provided: Vec<Provided>,
}

impl Linter {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let provided = serde_norway::from_str(include_str!("provided.yml"))?;
        Ok(Self { taxonomy: Taxonomy::shipped()?, provided })
    }

    pub(crate) fn lint(&self, rules: &Rules, rule: &Detection) -> Vec<Warned> {
        let mut warned = Vec::new();
        if rule.logsource == LogSource::default() {
            let text = "it has no logsource: every event of every source is evaluated against it";
            warned.push(("cost", text.to_owned()));
        } else if !self.taxonomy.routes(&rule.logsource) {
            warned.push(("logsource", format!("no event is of its logsource ({})", name(&rule.logsource))));
        }
        if let Some(outline) = rules.outline(rule) {
            self.fields(rule, &outline, &mut warned);
            costs(&outline, &mut warned);
        }
        warned
    }

    fn fields(&self, rule: &Detection, outline: &Outline, warned: &mut Vec<Warned>) {
        let fitting = || self.provided.iter().filter(|entry| entry.is_for(&rule.logsource));
        if !fitting().any(Provided::is_whole) {
            return;
        }
        let known: BTreeSet<&str> = fitting().flat_map(|entry| &entry.fields).map(String::as_str).collect();
        let provided = |field: &str| {
            is_column(field)
                || known.contains(field)
                || !self.taxonomy.aliases(field).is_empty()
                || field.split_once('.').is_some_and(|(outer, _)| known.contains(outer))
        };
        let mut asked = BTreeSet::new();
        each_test(outline, &mut |test| asked.extend(test.field.as_deref()));
        for field in asked.into_iter().filter(|field| !provided(field)) {
            let source = name(&rule.logsource);
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
    let counts = pattern.split('{').skip(1).filter_map(|rest| {
        let (inside, _) = rest.split_once('}')?;
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

/// `windows, process_creation`.
fn name(source: &LogSource) -> String {
    let parts = [("product", &source.product), ("category", &source.category), ("service", &source.service)];
    let named = parts.into_iter().filter_map(|(what, name)| Some(format!("{what} {}", name.as_deref()?)));
    named.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use detection::load_documents;
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
