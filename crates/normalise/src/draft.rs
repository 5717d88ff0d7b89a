//! An event in the making.

use std::borrow::Cow;

use schemas::Micros;

use crate::app::Reading;
use crate::attributes::Attributes;

/// What has been found so far; what is still none has not been stated by anything.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    pub time: Option<Micros>,
    pub class_uid: Option<i32>,
    pub activity_id: Option<i32>,
    pub severity_id: Option<i32>,
    pub host: Option<Cow<'a, str>>,
    pub user: Option<Cow<'a, str>>,
    pub src_ip: Option<Cow<'a, str>>,
    pub dst_ip: Option<Cow<'a, str>>,
    pub src_port: Option<i32>,
    pub dst_port: Option<i32>,
    pub source_type: Cow<'a, str>,
    pub message: Option<Cow<'a, str>>,
    pub repeat: i32,
    pub attributes: Attributes,
}

impl<'a> Draft<'a> {
    /// Nothing known but the kind of source.
    pub fn new(source_type: &'static str, attributes: Attributes) -> Self {
        Self {
            time: None,
            class_uid: None,
            activity_id: None,
            severity_id: None,
            host: None,
            user: None,
            src_ip: None,
            dst_ip: None,
            src_port: None,
            dst_port: None,
            source_type: Cow::Borrowed(source_type),
            message: None,
            repeat: 1,
            attributes,
        }
    }

    /// A draft that no longer borrows.
    pub fn into_owned<'b>(self) -> Draft<'b> {
        let owned = |text: Option<Cow<'a, str>>| text.map(|text| Cow::Owned(text.into_owned()));
        Draft {
            time: self.time,
            class_uid: self.class_uid,
            activity_id: self.activity_id,
            severity_id: self.severity_id,
            host: owned(self.host),
            user: owned(self.user),
            src_ip: owned(self.src_ip),
            dst_ip: owned(self.dst_ip),
            src_port: self.src_port,
            dst_port: self.dst_port,
            source_type: Cow::Owned(self.source_type.into_owned()),
            message: owned(self.message),
            repeat: self.repeat,
            attributes: self.attributes,
        }
    }

    /// Adds what a program's message says, where nothing else has said it before.
    pub fn fill(&mut self, reading: Reading<'a>) {
        if let Some(source_type) = reading.source_type {
            self.source_type = Cow::Borrowed(source_type);
        }
        self.time = self.time.or(reading.time);
        self.class_uid = self.class_uid.or(reading.class_uid);
        self.activity_id = self.activity_id.or(reading.activity_id);
        self.severity_id = self.severity_id.or(reading.severity_id);
        self.user = self.user.take().or(reading.user);
        if self.src_ip.is_none() && reading.src_ip.is_some() {
            self.src_ip = reading.src_ip;
            self.src_port = self.src_port.or(reading.src_port);
        }
        if self.dst_ip.is_none() && reading.dst_ip.is_some() {
            self.dst_ip = reading.dst_ip;
            self.dst_port = self.dst_port.or(reading.dst_port);
        }
        self.host = self.host.take().or(reading.host);
    }
}
