//! The calls of librdkafka that its safe binding lacks, or that panic there. All unsafe code of the crate.
#![allow(unsafe_code)] // the one audited module: every block says why it is sound

use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::{self, NonNull};
use std::slice;
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::message::BorrowedMessage;
use rdkafka_sys as sys;
use uuid::Uuid;

use crate::error::{Class, Error};

/// Given to the answer's queue on top of the request's own timeout.
const ANSWER_GRACE: Duration = Duration::from_secs(1);

/// An object of librdkafka that is destroyed with this.
struct Owned<T> {
    object: NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    /// # Safety
    /// `object` is null, or valid and owned by the caller, and `destroy` is the function that frees it.
    unsafe fn new(object: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Option<Self> {
        Some(Self { object: NonNull::new(object)?, destroy })
    }

    fn as_ptr(&self) -> *mut T {
        self.object.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: by `new`, the object is valid, ours and freed by this function; it is dropped once.
        unsafe { (self.destroy)(self.object.as_ptr()) }
    }
}

/// Ids of those of the topics that exist. Blocks until a broker answers, at most `timeout` and a second.
///
/// # Errors
/// No answer in time, or a refusal for a reason other than absence.
pub(crate) fn topic_ids<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<HashMap<String, Uuid>, Error> {
    let action = || format!("asking for the ids of {}", topics.join(", "));
    let refused = |reason: &str| Error::other(action(), reason, Class::Fatal);
    let millis = |time: Duration| c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX);

    // The library refuses repeated and empty names.
    let distinct: BTreeSet<&str> = topics.iter().copied().filter(|topic| !topic.is_empty()).collect();
    let names = distinct
        .into_iter()
        .map(CString::new)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| refused("a name holds a NUL"))?;
    let mut names: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    if names.is_empty() {
        return Ok(HashMap::new());
    }
    let handle = client.native_ptr();

    // SAFETY: `names` holds `names.len()` pointers to strings that end with NUL and outlive the call, which copies
    // them. The caller owns the result.
    let collection = unsafe {
        Owned::new(
            sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len()),
            sys::rd_kafka_TopicCollection_destroy,
        )
    };
    // SAFETY: `handle` is the live client behind `client`, here and below. The caller owns both results.
    let (options, queue) = unsafe {
        (
            Owned::new(
                sys::rd_kafka_AdminOptions_new(
                    handle,
                    sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
                ),
                sys::rd_kafka_AdminOptions_destroy,
            ),
            Owned::new(sys::rd_kafka_queue_new(handle), sys::rd_kafka_queue_destroy),
        )
    };
    let (Some(collection), Some(options), Some(queue)) = (collection, options, queue) else {
        return Err(refused("librdkafka made no request"));
    };
    let mut reason: [c_char; 256] = [0; 256];
    // SAFETY: the options are valid; the buffer has the length given.
    let set = unsafe {
        sys::rd_kafka_AdminOptions_set_request_timeout(
            options.as_ptr(),
            millis(timeout),
            reason.as_mut_ptr(),
            reason.len(),
        )
    };
    if set != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Err(Error::from_code(action(), set.into()));
    }
    // SAFETY: everything is valid and belongs to `handle`; the call copies the collection and the options, and counts
    // its reference to the queue, so that an answer after this function has gone is dropped with it.
    let event = unsafe {
        sys::rd_kafka_DescribeTopics(handle, collection.as_ptr(), options.as_ptr(), queue.as_ptr());
        Owned::new(
            sys::rd_kafka_queue_poll(queue.as_ptr(), millis(timeout + ANSWER_GRACE)),
            sys::rd_kafka_event_destroy,
        )
    };
    let Some(event) = event else { return Err(Error::from_code(action(), Code::OperationTimedOut)) };

    // SAFETY: the event is valid.
    let code: Code = unsafe { sys::rd_kafka_event_error(event.as_ptr()) }.into();
    if code != Code::NoError {
        return Err(Error::from_code(action(), code));
    }
    // SAFETY: the event is valid; an event of another type gives null. The result lives as long as the event.
    let result = unsafe { sys::rd_kafka_event_DescribeTopics_result(event.as_ptr()) };
    if result.is_null() {
        return Err(refused("librdkafka answered another question"));
    }
    let mut count = 0;
    // SAFETY: the result is valid; the array, of `count` pointers, lives as long as the event.
    let described = unsafe {
        let array = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if array.is_null() { &[][..] } else { slice::from_raw_parts(array, count) }
    };
    let mut ids = HashMap::with_capacity(described.len());
    for &topic in described {
        // A topic that the answer left out.
        if topic.is_null() {
            continue;
        }
        // SAFETY: the description is valid while the event lives, and so is what it gives: a name that ends with NUL,
        // an error or null (which has the code "no error"), and an id.
        let (name, code, high, low) = unsafe {
            let id = sys::rd_kafka_TopicDescription_topic_id(topic);
            (
                CStr::from_ptr(sys::rd_kafka_TopicDescription_name(topic)).to_string_lossy().into_owned(),
                Code::from(sys::rd_kafka_error_code(sys::rd_kafka_TopicDescription_error(topic))),
                sys::rd_kafka_Uuid_most_significant_bits(id),
                sys::rd_kafka_Uuid_least_significant_bits(id),
            )
        };
        match code {
            Code::NoError => {
                let id = Uuid::from_u64_pair(high.cast_unsigned(), low.cast_unsigned());
                if id.is_nil() {
                    return Err(refused("the broker knows no topic ids; Kafka has them since 2.8"));
                }
                ids.insert(name, id);
            }
            Code::UnknownTopicOrPartition | Code::UnknownTopic => {}
            code => return Err(Error::from_code(format!("asking for the id of {name}"), code)),
        }
    }
    Ok(ids)
}

/// Adds brokers, `host:port` with commas between, to those that a client knows. One that it knows already is left as it is.
pub(crate) fn add_brokers<C: ClientContext>(client: &Client<C>, list: &str) {
    // A list with a NUL would not have got through the configuration.
    let Ok(list) = CString::new(list) else { return };
    // SAFETY: the handle is that of the live client; the string ends with NUL and is copied by the call.
    unsafe { sys::rd_kafka_brokers_add(client.native_ptr(), list.as_ptr()) };
}

/// A message's headers: names with what is not UTF-8 replaced (the safe binding panics there), and values.
pub(crate) fn headers(message: &BorrowedMessage<'_>) -> Vec<(String, Vec<u8>)> {
    let mut headers = ptr::null_mut();
    // SAFETY: the message is valid while it is borrowed; the headers stay its own.
    let code = unsafe { sys::rd_kafka_message_headers(message.ptr(), &raw mut headers) };
    if code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || headers.is_null() {
        return Vec::new();
    }
    // SAFETY: the headers are valid while the message is borrowed, here and below.
    let count = unsafe { sys::rd_kafka_header_cnt(headers) };
    let mut found = Vec::with_capacity(count);
    for index in 0..count {
        let (mut name, mut value, mut bytes) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the three places are written when, and only when, the call succeeds.
        let code = unsafe {
            sys::rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut bytes)
        };
        if code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
            continue;
        }
        // SAFETY: a name ends with NUL; a value that is not null has `bytes` bytes. Both belong to the headers.
        let (name, value) = unsafe {
            let value =
                if value.is_null() { &[][..] } else { slice::from_raw_parts(value.cast::<u8>(), bytes) };
            (CStr::from_ptr(name).to_string_lossy().into_owned(), value.to_vec())
        };
        found.push((name, value));
    }
    found
}
