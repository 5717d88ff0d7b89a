//! A page of events or findings: back through the window in slices until it is full.

use std::time::{Duration, Instant};

use tokio_postgres::Row;

use crate::cursor::{self, EventPosition};
use crate::params::Paging;
use crate::problem::Problem;
use crate::select::{Select, param};
use crate::slices::{Slice, Slices};
use crate::store::Scoped;

/// After this time a page is given as it is: an analyst rather sees some rows, and a walk makes progress however little
/// it finds.
const ENOUGH: Duration = Duration::from_secs(3);

/// Newest first, and never two alike.
const ORDER: &str = "time DESC, kpart DESC, koffset DESC, kindex DESC";

/// The rows of a page and the cursor of the next one. `select` makes the query without time, order and limit; `place`
/// tells where a row stands.
///
/// # Errors
/// As [`Scoped::fetch`].
pub(crate) async fn page(
    scoped: &Scoped<'_>,
    paging: &Paging<EventPosition>,
    select: impl Fn() -> Select,
    place: impl Fn(&Row) -> Result<EventPosition, Problem>,
) -> Result<(Vec<Row>, Option<String>), Problem> {
    let started = Instant::now();
    let limit = usize::from(paging.limit);
    // What shares its time with the last row of the page before belongs to the first slice.
    let to = paging.after.map_or(paging.window.to, |after| after.time.plus(1));
    let mut slices = Slices::new(paging.window.from, to);
    let mut after = paging.after;
    let mut rows = Vec::with_capacity(limit + 1);
    let mut reached = None;
    while let Some(slice) = slices.next() {
        let asked = Instant::now();
        // One more than the page holds tells whether there is another.
        let query = sliced(select(), slice, after.take(), limit + 1 - rows.len());
        let found = scoped.fetch(query).await?;
        let found_rows = found.len();
        rows.extend(found);
        if rows.len() > limit {
            rows.truncate(limit);
            reached = rows.last().map(&place).transpose()?;
            break;
        }
        slices.took(asked.elapsed(), found_rows, limit + 1 - rows.len());
        if started.elapsed() > ENOUGH && slice.from > paging.window.from {
            reached = Some(EventPosition::before(slice.from));
            break;
        }
    }
    let cursor = reached.map(|position| cursor::encode(paging.window.from, &position, paging.binding));
    Ok((rows, cursor))
}

/// Narrows a query to a slice of time and to what comes after a position.
pub(crate) fn sliced(select: Select, slice: Slice, after: Option<EventPosition>, rows: usize) -> Select {
    let mut select = select.and("time >= ? AND time < ?", [param(slice.from), param(slice.to)]);
    if let Some(EventPosition { time, partition, offset, index }) = after {
        select = select.and(
            "(time, kpart, koffset, kindex) < (?, ?, ?, ?)",
            [param(time), param(partition), param(offset), param(index)],
        );
    }
    select.order_by(ORDER).limit(rows)
}
