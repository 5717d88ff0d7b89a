//! Correlation documents.

use rsigma_parser::{ConditionOperator, CorrelationCondition, CorrelationRule, CorrelationType, WindowMode};

use super::Refusal;
use super::raw::Raw;
use super::rsigma::{identity, severity};
use crate::rule::{Condition, Correlation, Kind, MAX_RULES, MAX_THRESHOLD, MAX_TIMESPAN, Meta};

/// Checks a correlation. `raw` is what its document says, and not what the parser fills in by itself.
pub(super) fn compile(rule: CorrelationRule, raw: &Raw<'_>, hash: &str) -> Result<Correlation, Refusal> {
    if rule.window != WindowMode::Sliding {
        let mode = rule.window.as_str();
        return Err(raw.refuse(
            &["correlation", "window"],
            format!("{mode} windows are not supported, only sliding ones"),
        ));
    }
    if rule.rules.is_empty() {
        return Err(raw.refuse(&["correlation", "rules"], "the correlation names no rules"));
    }
    if rule.timespan.seconds == 0 || rule.timespan.seconds > MAX_TIMESPAN {
        let reason = format!(
            "timespan {} is out of range: 1s to {}d, as long as signals are kept",
            rule.timespan.original,
            MAX_TIMESPAN / 86_400
        );
        return Err(raw.refuse(&["correlation", "timespan"], reason));
    }
    let said = raw.map.get("correlation").is_some_and(|section| section.get("condition").is_some());
    let (kind, condition) = counted(&rule, said)
        .map_err(|refusal| raw.at(&["correlation", if said { "condition" } else { "type" }], refusal))?;
    let aliases = rule.aliases.into_iter().flat_map(|alias| {
        let name = alias.alias;
        alias.mapping.into_iter().map(move |(rule, field)| (name.clone(), rule, field)).collect::<Vec<_>>()
    });
    let mut aliases: Vec<_> = aliases.collect();
    aliases.sort();
    Ok(Correlation {
        meta: Meta {
            id: identity(raw, rule.id.as_ref(), rule.name.as_ref())?,
            name: rule.name,
            hash: hash.to_owned(),
            title: rule.title,
            description: rule.description.unwrap_or_default().trim().to_owned(),
            author: rule.author,
            severity_id: severity(rule.level),
            tags: rule.tags,
            references: rule.references,
            false_positives: rule.falsepositives,
        },
        kind,
        rules: rule.rules,
        group_by: rule.group_by,
        aliases,
        timespan: i64::try_from(rule.timespan.seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000),
        condition,
        generate: rule.generate,
    })
}

/// `said` is whether there is a condition: the parser makes one up for the temporal types.
fn counted(rule: &CorrelationRule, said: bool) -> Result<(Kind, Condition), Refusal> {
    let name = rule.correlation_type.as_str();
    let CorrelationCondition::Threshold { predicates, field, .. } = &rule.condition else {
        return Err(Refusal::new(format!(
            "a condition over rule names is not part of Sigma's correlations: a {name} counts its rules, \
             with gte, gt, lte, lt, eq or neq"
        )));
    };
    let kind = match rule.correlation_type {
        CorrelationType::EventCount => Kind::EventCount,
        CorrelationType::ValueCount => {
            let fields = field.clone().unwrap_or_default();
            if fields.is_empty() {
                return Err(Refusal::new(
                    "the condition of a value_count needs the field whose values it counts",
                ));
            }
            Kind::ValueCount(fields)
        }
        CorrelationType::Temporal => Kind::Temporal,
        CorrelationType::TemporalOrdered => Kind::TemporalOrdered,
        CorrelationType::ValueSum
        | CorrelationType::ValueAvg
        | CorrelationType::ValuePercentile
        | CorrelationType::ValueMedian => {
            return Err(Refusal::new(format!(
                "correlations of type {name} are not supported, only event_count, value_count, temporal and \
                 temporal_ordered"
            )));
        }
    };
    if field.is_some() && !matches!(kind, Kind::ValueCount(_)) {
        return Err(Refusal::new(format!("a field in the condition belongs to value_count, not to {name}")));
    }
    let rules = i64::try_from(rule.rules.len()).unwrap_or(i64::MAX);
    let condition = match kind {
        Kind::EventCount | Kind::ValueCount(_) => condition(predicates, None)?,
        Kind::Temporal if said => condition(predicates, Some(rules))?,
        Kind::TemporalOrdered
            if said && condition(predicates, Some(rules))? != Condition::at_least(rules) =>
        {
            return Err(Refusal::new(format!(
                "a temporal_ordered asks for all of its {rules} rules: leave its condition out"
            )));
        }
        Kind::Temporal | Kind::TemporalOrdered => Condition::at_least(rules),
    };
    if matches!(kind, Kind::Temporal | Kind::TemporalOrdered) && rule.rules.len() > MAX_RULES {
        return Err(Refusal::new(format!("a {name} of more than {MAX_RULES} rules")));
    }
    Ok((kind, condition))
}

/// The counts that satisfy all of `predicates`; none is greater than `greatest`.
fn condition(predicates: &[(ConditionOperator, u64)], greatest: Option<i64>) -> Result<Condition, Refusal> {
    let mut found = Condition::at_least(1);
    let mut most = i64::MAX;
    for &(operator, number) in predicates {
        if number > MAX_THRESHOLD {
            return Err(Refusal::new(format!(
                "a threshold of {number} is out of range: 1 to {MAX_THRESHOLD}"
            )));
        }
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        match operator {
            ConditionOperator::Gte => found.least = found.least.max(number),
            ConditionOperator::Gt => found.least = found.least.max(number.saturating_add(1)),
            ConditionOperator::Lte => most = most.min(number),
            ConditionOperator::Lt => most = most.min(number.saturating_sub(1)),
            ConditionOperator::Eq => {
                found.least = found.least.max(number);
                most = most.min(number);
            }
            ConditionOperator::Neq => found.except = Some(number),
        }
    }
    most = most.min(greatest.unwrap_or(i64::MAX));
    if found.except == Some(found.least) {
        found.least = found.least.saturating_add(1);
    }
    if found.except == Some(most) {
        most = most.saturating_sub(1);
    }
    found.except = found.except.filter(|&except| found.least < except && except < most);
    if most < 1 {
        return Err(Refusal::new(
            "a count of 0 never fires: where nothing has happened there is no group to count it for",
        ));
    }
    if found.least > most {
        return Err(Refusal::new("no count satisfies the condition"));
    }
    found.most = (most < greatest.unwrap_or(i64::MAX)).then_some(most);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use ConditionOperator::{Eq, Gt, Gte, Lt, Lte, Neq};
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&[(Gte, 3)], None)]
    #[case(&[(Gt, 3)], None)]
    #[case(&[(Lt, 3)], None)]
    #[case(&[(Lte, 3)], None)]
    #[case(&[(Eq, 3)], None)]
    #[case(&[(Neq, 3)], None)]
    #[case(&[(Neq, 1)], None)]
    #[case(&[(Gt, 2), (Lte, 5)], None)]
    #[case(&[(Gte, 2), (Lte, 5), (Neq, 5)], None)]
    #[case(&[(Gte, 2), (Lt, 5), (Neq, 3)], None)]
    #[case(&[(Gte, 2)], Some(3))]
    #[case(&[(Eq, 3)], Some(3))]
    #[case(&[(Neq, 3)], Some(3))]
    fn a_condition_accepts_what_its_predicates_say(
        #[case] predicates: &[(ConditionOperator, u64)],
        #[case] greatest: Option<i64>,
    ) {
        let condition = condition(predicates, greatest).unwrap();
        for count in 1..=greatest.unwrap_or(9) {
            let expected = predicates.iter().all(|&(operator, number)| {
                let number = i64::try_from(number).unwrap();
                match operator {
                    Gte => count >= number,
                    Gt => count > number,
                    Lte => count <= number,
                    Lt => count < number,
                    Eq => count == number,
                    Neq => count != number,
                }
            });
            assert_eq!(condition.accepts(count), expected, "{count} {condition:?}");
            let later = condition.accepts(count.max(condition.settled_from()));
            assert!(count < condition.settled_from() || later == condition.accepts(count));
        }
        assert_eq!(
            condition.waits(),
            predicates.iter().any(|(o, _)| matches!(o, Lt | Lte | Neq | Eq))
                && condition != Condition::at_least(condition.least)
        );
    }

    #[rstest]
    #[case(&[(Lt, 1)], None, "count of 0")]
    #[case(&[(Eq, 0)], None, "count of 0")]
    #[case(&[(Gt, 5), (Lt, 3)], None, "no count")]
    #[case(&[(Gte, 4)], Some(3), "no count")]
    #[case(&[(Gte, MAX_THRESHOLD + 1)], None, "out of range")]
    fn a_condition_that_nothing_satisfies_is_refused(
        #[case] predicates: &[(ConditionOperator, u64)],
        #[case] greatest: Option<i64>,
        #[case] reason: &str,
    ) {
        let refusal = condition(predicates, greatest).unwrap_err();
        assert!(refusal.reason.contains(reason), "{refusal:?}");
    }
}
