//! What rules see of an event: fields by name, resolved to columns and attributes as late as possible.

use std::borrow::Cow;
use std::cell::OnceCell;

use ahash::AHashMap;
use schemas::{Event, Finding, ScanActivity};

use crate::attributes::{self, Attributes, NameId, Names};
use crate::columns::{Column, FINDING, SCAN, SCAN_CLASS};
use crate::taxonomy::Taxonomy;
use crate::value::Value;

/// A field name known to a set of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldId(u32);

/// Where a field's value may stand.
#[derive(Debug, Clone, PartialEq)]
enum Place {
    Column(Column),
    Attribute(NameId),
    Path(NameId, Vec<Box<str>>),
}

/// The field names that a set of rules uses, each with the places its value may stand in, best first.
#[derive(Debug, Default)]
pub struct Fields {
    ids: AHashMap<Box<str>, FieldId>,
    places: Vec<Box<[Place]>>,
    attributes: Names,
}

impl Fields {
    /// The id of `name`, given one if it has none yet. Places: the column of that name, the attribute of that name, then
    /// what the taxonomy says.
    pub(crate) fn intern(&mut self, name: &str, taxonomy: &Taxonomy) -> FieldId {
        if let Some(&id) = self.ids.get(name) {
            return id;
        }
        let mut places = Vec::new();
        self.add_places(name, &mut places);
        for alias in taxonomy.aliases(name) {
            self.add_places(alias, &mut places);
        }
        let id = FieldId(u32::try_from(self.places.len()).unwrap_or(u32::MAX));
        self.places.push(places.into());
        self.ids.insert(name.into(), id);
        id
    }

    /// The id of `name`, if any rule uses it.
    pub fn id(&self, name: &str) -> Option<FieldId> {
        self.ids.get(name).copied()
    }

    /// Whether a rule that names a field not known yet would never find it.
    pub(crate) fn is_full(&self) -> bool {
        self.attributes.is_full()
    }

    fn add_places(&mut self, name: &str, places: &mut Vec<Place>) {
        let mut add = |place: Option<Place>| {
            if let Some(place) = place.filter(|place| !places.contains(place)) {
                places.push(place);
            }
        };
        add(Column::from_name(name).map(Place::Column));
        add(self.attributes.intern(name).map(Place::Attribute));
        for (first, steps) in attributes::split_path(name) {
            add(self.attributes.intern(first).map(|first| Place::Path(first, steps)));
        }
    }

    fn places(&self, field: FieldId) -> &[Place] {
        self.places.get(field.0 as usize).map_or(&[], |places| places)
    }
}

/// What a rule is matched against.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// A log event.
    Event(&'a Event<'a>),
    /// A scan finding.
    Finding(&'a Finding<'a>),
    /// A state of a scan.
    Scan(&'a ScanActivity<'a>),
}

impl<'a> Subject<'a> {
    /// `source_type` of an event; `finding` for a finding, `scan` for a state of a scan.
    pub fn source_type(self) -> &'a str {
        match self {
            Subject::Event(event) => &event.source_type,
            Subject::Finding(_) => FINDING,
            Subject::Scan(_) => SCAN,
        }
    }

    /// OCSF class.
    pub fn class_uid(self) -> i32 {
        match self {
            Subject::Event(event) => event.class_uid,
            Subject::Finding(finding) => finding.class_uid,
            Subject::Scan(_) => SCAN_CLASS,
        }
    }

    /// Whose it is.
    pub fn org(self) -> &'a str {
        match self {
            Subject::Event(event) => &event.org,
            Subject::Finding(finding) => &finding.org,
            Subject::Scan(scan) => &scan.org,
        }
    }

    fn column(self, column: Column) -> Option<Value<'a>> {
        match self {
            Subject::Event(event) => column.of_event(event),
            Subject::Finding(finding) => column.of_finding(finding),
            Subject::Scan(scan) => column.of_scan(scan),
        }
    }

    fn attributes(self) -> Option<&'a str> {
        match self {
            Subject::Event(event) => event.attributes.as_deref(),
            Subject::Finding(finding) => finding.attributes.as_deref(),
            Subject::Scan(scan) => scan.attributes.as_deref(),
        }
    }
}

/// One event as rules see it. Its attributes are parsed at the first question that no column answers, once.
#[derive(Debug)]
pub struct View<'a> {
    subject: Subject<'a>,
    fields: &'a Fields,
    attributes: OnceCell<Attributes<'a>>,
}

impl<'a> View<'a> {
    /// A view of `subject` for rules that use `fields`.
    pub fn new(subject: Subject<'a>, fields: &'a Fields) -> Self {
        Self { subject, fields, attributes: OnceCell::new() }
    }

    /// What is viewed.
    pub fn subject(&self) -> Subject<'a> {
        self.subject
    }

    fn attributes(&self) -> &Attributes<'a> {
        self.attributes.get_or_init(|| Attributes::parse(self.subject.attributes(), &self.fields.attributes))
    }

    /// The field's value; none where the event does not have it.
    pub fn get(&self, field: FieldId) -> Option<Value<'_>> {
        self.fields.places(field).iter().find_map(|place| match place {
            Place::Column(column) => self.subject.column(*column),
            Place::Attribute(name) => self.attributes().get(*name).map(Value::reborrow),
            Place::Path(name, steps) => self.attributes().path(*name, steps).map(Value::reborrow),
        })
    }

    /// The field's value with the column or attribute it stands in, for a person.
    pub(crate) fn found(&self, field: FieldId) -> Option<(String, Value<'_>)> {
        let names = &self.fields.attributes;
        let attribute = |name: NameId| format!("attribute {}", names.name(name).unwrap_or_default());
        self.fields.places(field).iter().find_map(|place| match place {
            Place::Column(column) => {
                let value = self.subject.column(*column)?;
                Some((format!("column {}", column.name()), value))
            }
            Place::Attribute(name) => {
                Some((attribute(*name), self.attributes().get(*name).map(Value::reborrow)?))
            }
            Place::Path(name, steps) => {
                let value = self.attributes().path(*name, steps).map(Value::reborrow)?;
                Some((format!("{}.{}", attribute(*name), steps.join(".")), value))
            }
        })
    }

    /// The value of the field called `name`, if any rule uses that name.
    pub fn by_name(&self, name: &str) -> Option<Value<'_>> {
        self.get(self.fields.id(name)?)
    }

    /// The field as text that outlives the view; see [`Value::text`].
    pub fn text(&self, field: FieldId) -> Option<Cow<'a, str>> {
        self.fields.places(field).iter().find_map(|place| match place {
            Place::Column(column) => self.subject.column(*column).and_then(|value| value.text()),
            Place::Attribute(name) => self.attributes().get(*name).and_then(Value::text),
            Place::Path(name, steps) => self.attributes().path(*name, steps).and_then(Value::text),
        })
    }

    /// The message, and the attributes as JSON text.
    pub(crate) fn strings(&self) -> (Option<&'a str>, Option<&'a str>) {
        let message = match self.subject {
            Subject::Event(event) => event.message.as_deref(),
            Subject::Finding(finding) => finding.message.as_deref(),
            Subject::Scan(scan) => scan.message.as_deref(),
        };
        (message, self.subject.attributes())
    }

    /// Calls `visit` with the message and every string of the attributes; stops at the first `true` and returns it.
    pub fn any_string(&self, visit: &mut dyn FnMut(&str) -> bool) -> bool {
        let (message, attributes) = self.strings();
        message.is_some_and(&mut *visit) || attributes::any_string(attributes, visit)
    }
}
