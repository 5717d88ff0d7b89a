//! What a rule asks of an event, told apart from any engine: for people and for checks of rules.

/// A detection rule's selections and conditions.
#[derive(Debug, Clone, PartialEq)]
pub struct Outline {
    /// By name.
    pub selections: Vec<Selection>,
    /// The rule matches if one of them holds.
    pub conditions: Vec<Stated>,
}

/// A named selection.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// As conditions call it.
    pub name: String,
    /// What it asks.
    pub part: Part,
}

/// A condition as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated {
    /// Its text.
    pub text: String,
    /// Whether it holds, where an event was asked.
    pub holds: Option<bool>,
}

/// Tests joined by "and" and "or".
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// Every one.
    All(Vec<Part>),
    /// At least one.
    Any(Vec<Part>),
    /// A single test.
    Test(Test),
}

/// A field compared with values, or values looked for anywhere in the event.
#[derive(Debug, Clone, PartialEq)]
pub struct Test {
    /// None for keywords.
    pub field: Option<String>,
    /// `contains`, `re` … in the order they are written.
    pub modifiers: Vec<String>,
    /// As they are written; of a test inside an array, its form.
    pub wanted: Vec<String>,
    /// How it went, where an event was asked.
    pub verdict: Option<Verdict>,
}

/// How a test went.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Whether it holds.
    pub holds: bool,
    /// Which of the wanted values hold by themselves, by position.
    pub hits: Vec<usize>,
    /// What stands in the field.
    pub found: Option<Found>,
}

/// A field's value in an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Column or attribute it stands in.
    pub place: String,
    /// As JSON.
    pub value: String,
}

impl Part {
    /// Whether it holds, where an event was asked.
    pub fn holds(&self) -> Option<bool> {
        match self {
            Self::All(parts) => parts.iter().try_fold(true, |so_far, part| Some(so_far & part.holds()?)),
            Self::Any(parts) => parts.iter().try_fold(false, |so_far, part| Some(so_far | part.holds()?)),
            Self::Test(test) => test.verdict.as_ref().map(|verdict| verdict.holds),
        }
    }

    /// Calls `visit` with every test in it.
    pub fn tests<'a>(&'a self, visit: &mut dyn FnMut(&'a Test)) {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.tests(visit)),
            Self::Test(test) => visit(test),
        }
    }
}

impl Outline {
    /// Whether the rule matches, where an event was asked.
    pub fn holds(&self) -> Option<bool> {
        self.conditions.iter().try_fold(false, |so_far, condition| Some(so_far | condition.holds?))
    }
}
