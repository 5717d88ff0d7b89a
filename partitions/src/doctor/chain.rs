//! Whether the ledger of a partition is one chain: every range begins where the one before ended, from the very beginning
//! to the position. Where an operator has moved the position, a row of `sink_accepted` is the link.

use crate::place::Place;

use super::check::Check;

/// A place in a partition: next offset, next raw offset. The latter is none for `incidents`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) offset: i64,
    pub(super) source: Option<i64>,
}

/// A row of the ledger, as far as its order goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) generation: i32,
    pub(super) epoch: i64,
    pub(super) from: Point,
    pub(super) to: Point,
}

/// A move of the position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Move {
    /// The generation that begins with it.
    pub(super) generation: i32,
    pub(super) from: Point,
    pub(super) to: Point,
}

/// Where the chain of a partition has got to.
#[derive(Debug)]
pub(super) struct Chain<'a> {
    place: Place,
    moves: &'a [Move],
    at: Point,
    generation: i32,
    epoch: i64,
}

impl<'a> Chain<'a> {
    /// The beginning. `moves` by generation.
    pub(super) fn new(place: Place, moves: &'a [Move]) -> Self {
        let source = place.topic.stream().map(|_| 0);
        Self { place, moves, at: Point { offset: 0, source }, generation: 0, epoch: 0 }
    }

    /// Steps over a row of the ledger.
    pub(super) fn step(&mut self, link: &Link, check: &mut Check) {
        self.move_to(link.generation, check);
        self.joins(link.from, "the next range of the ledger begins", check);
        if link.to.offset <= link.from.offset || link.to.source < link.from.source {
            check
                .found(self.place, format!("a range of the ledger ends before it begins: {}", between(link)));
        }
        if link.epoch < self.epoch {
            check.found(
                self.place,
                format!("epoch {} after epoch {} at {}", link.epoch, self.epoch, between(link)),
            );
        }
        self.at = link.to;
        self.epoch = self.epoch.max(link.epoch);
    }

    /// Compares the end with the position.
    pub(super) fn end(&mut self, position: Option<(Point, i32, i64)>, check: &mut Check) {
        let Some((point, generation, epoch)) = position else {
            return check.found(self.place, "the ledger has ranges, sink_partition has no row");
        };
        self.move_to(generation, check);
        self.joins(point, "sink_partition goes on", check);
        if epoch < self.epoch {
            check.found(
                self.place,
                format!("sink_partition has epoch {epoch}, the ledger {} already", self.epoch),
            );
        }
    }

    /// Follows the operator's moves up to this generation.
    fn move_to(&mut self, generation: i32, check: &mut Check) {
        if generation < self.generation {
            check.found(self.place, format!("generation {generation} after generation {}", self.generation));
        }
        while self.generation < generation {
            self.generation += 1;
            match self.moves.iter().find(|moved| moved.generation == self.generation) {
                Some(moved) => {
                    self.joins(moved.from, "an accepted move starts", check);
                    self.at = moved.to;
                }
                None => {
                    check.found(
                        self.place,
                        format!("generation {} has no row in sink_accepted", self.generation),
                    );
                }
            }
        }
    }

    fn joins(&self, point: Point, what: &str, check: &mut Check) {
        let axes = [
            ("offset", Some(self.at.offset), Some(point.offset)),
            ("raw offset", self.at.source, point.source),
        ];
        for (axis, ended, begins) in axes {
            if ended == begins {
                continue;
            }
            let text = |offset: Option<i64>| offset.map_or("none".to_owned(), |offset| offset.to_string());
            let between = match begins.cmp(&ended) {
                std::cmp::Ordering::Greater => "nothing accounts for what lies between",
                _ => "what lies between is there twice",
            };
            check.found(
                self.place,
                format!("the ledger is at {axis} {}, {what} at {}: {between}", text(ended), text(begins)),
            );
        }
    }
}

fn between(link: &Link) -> String {
    format!("offsets {} to {}", link.from.offset, link.to.offset)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn point(offset: i64, source: i64) -> Point {
        Point { offset, source: Some(source) }
    }

    fn link(from: (i64, i64), to: (i64, i64)) -> Link {
        Link { generation: 0, epoch: 1, from: point(from.0, from.1), to: point(to.0, to.1) }
    }

    fn problems(links: &[Link], moves: &[Move], end: (i64, i64), generation: i32) -> Vec<String> {
        let mut check = Check::new("chain", "");
        let mut chain = Chain::new("events/3".parse().unwrap(), moves);
        links.iter().for_each(|link| chain.step(link, &mut check));
        chain.end(Some((point(end.0, end.1), generation, 9)), &mut check);
        check.problems.into_iter().map(|problem| problem.what).collect()
    }

    #[test]
    fn ranges_that_follow_one_another_up_to_the_position_are_a_chain() {
        // The second one holds repeats only.
        let links = [link((0, 0), (5, 7)), link((5, 7), (8, 7)), link((8, 7), (9, 8))];
        assert_eq!(problems(&links, &[], (9, 8), 0), [""; 0]);
        assert_eq!(problems(&[], &[], (0, 0), 0), [""; 0]);
    }

    #[rstest]
    #[case::first_row_missing(&[link((5, 7), (8, 9))], (8, 9), &["offset 0", "raw offset 0"])]
    #[case::row_missing(&[link((0, 0), (5, 7)), link((6, 7), (8, 9))], (8, 9), &["offset 5, the next range of the ledger begins at 6"])]
    #[case::raw_missing(&[link((0, 0), (5, 7)), link((5, 8), (8, 9))], (8, 9), &["raw offset 7"])]
    #[case::overlap(&[link((0, 0), (5, 7)), link((4, 7), (8, 9))], (8, 9), &["is there twice"])]
    #[case::position_moved(&[link((0, 0), (5, 7))], (5, 9), &["sink_partition goes on at 9"])]
    #[case::backwards(&[link((0, 0), (5, 7)), link((5, 7), (5, 7))], (5, 7), &["ends before it begins"])]
    fn breaks_are_named(#[case] links: &[Link], #[case] end: (i64, i64), #[case] expected: &[&str]) {
        let problems = problems(links, &[], end, 0);
        assert_eq!(problems.len(), expected.len(), "{problems:?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn an_epoch_that_falls_is_named() {
        let links = [Link { epoch: 4, ..link((0, 0), (1, 1)) }, Link { epoch: 3, ..link((1, 1), (2, 2)) }];
        assert_eq!(problems(&links, &[], (2, 2), 0), ["epoch 3 after epoch 4 at offsets 1 to 2"]);
    }

    #[test]
    fn an_accepted_move_is_a_link() {
        let moves = [Move { generation: 1, from: point(5, 7), to: point(0, 9) }];
        let next = Link { generation: 1, ..link((0, 9), (4, 12)) };
        assert_eq!(problems(&[link((0, 0), (5, 7)), next], &moves, (4, 12), 1), [""; 0]);
        // One that nothing has followed yet.
        assert_eq!(problems(&[link((0, 0), (5, 7))], &moves, (0, 9), 1), [""; 0]);
        // One that started elsewhere, and one that nobody wrote down.
        assert_eq!(problems(&[link((0, 0), (5, 6))], &moves, (0, 9), 1).len(), 1);
        let unwritten = problems(&[link((0, 0), (5, 7)), next], &[], (4, 12), 1);
        assert!(unwritten[0].contains("no row in sink_accepted"), "{unwritten:?}");
    }
}
