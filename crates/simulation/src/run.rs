//! Running schedules, and what is said of them.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use crate::Schedule;

/// Lines of a broken schedule that are told; the last ones.
const MAX_TOLD: usize = 400;
const NOT_AGAIN: &str = "it broke once and not again: it depends on more than its seed";

/// A simulation by its name and how many schedules it is run with.
#[derive(Debug, Clone, Copy)]
pub struct Simulation {
    name: &'static str,
    schedules: u64,
}

impl Simulation {
    /// A simulation of this name. `schedules` should take a few seconds.
    pub const fn new(name: &'static str, schedules: u64) -> Self {
        Self { name, schedules }
    }

    /// Runs every schedule and prints how fast; or the one of `TIDEWATCH_SIM_SEED`, step by step.
    ///
    /// # Panics
    /// A schedule broke something: it returned an error or panicked. Its seed is in the message, and its steps.
    pub fn holds(self, schedule: impl Fn(&mut Schedule) -> Result<(), String>) {
        match number("TIDEWATCH_SIM_SEED") {
            Some(seed) => self.one(seed, schedule),
            None => {
                let schedules = number("TIDEWATCH_SIM_SCHEDULES").unwrap_or(self.schedules);
                Self { schedules, ..self }.all(schedule);
            }
        }
    }

    #[expect(clippy::panic, reason = "how a test fails")]
    fn one(self, seed: u64, schedule: impl Fn(&mut Schedule) -> Result<(), String>) {
        let (broken, told) = tell(&schedule, seed);
        say(&format!("{}, seed {seed}:\n  {}", self.name, told.join("\n  ")));
        if let Err(reason) = broken {
            panic!("{}: seed {seed}: {reason}", self.name);
        }
    }

    #[expect(clippy::panic, reason = "how a test fails")]
    fn all(self, schedule: impl Fn(&mut Schedule) -> Result<(), String>) {
        let Self { name, schedules } = self;
        let (started, mut steps) = (Instant::now(), 0);
        for seed in 1..=schedules {
            let mut one = Schedule::of(seed);
            if attempt(&schedule, &mut one).is_err() {
                let (broken, told) = tell(&schedule, seed);
                let reason = broken.err().unwrap_or_else(|| NOT_AGAIN.to_owned());
                let told = told.get(told.len().saturating_sub(MAX_TOLD)..).unwrap_or_default().join("\n  ");
                panic!("{name}: seed {seed}: {reason}\n  {told}\nagain: TIDEWATCH_SIM_SEED={seed}");
            }
            steps += one.steps();
        }
        let seconds = started.elapsed().as_secs_f64();
        say(&format!(
            "{name}: {schedules} schedules of {} steps in {seconds:.1} s, {:.0} schedules/s",
            steps / schedules.max(1),
            schedules as f64 / seconds.max(1e-9),
        ));
    }

    /// A control: with a guard taken away, some schedule must break something. Runs until one does.
    ///
    /// # Panics
    /// None does: the simulation would not notice that the guard is missing.
    #[expect(clippy::panic, reason = "how a test fails")]
    pub fn breaks(self, without: &str, schedule: impl Fn(&mut Schedule) -> Result<(), String>) {
        let Self { name, schedules } = self;
        for seed in 1..=schedules {
            if let Err(reason) = attempt(&schedule, &mut Schedule::of(seed)) {
                let reason = reason.lines().next().unwrap_or_default();
                say(&format!("{name}, {without}: noticed by schedule {seed}: {reason}"));
                return;
            }
        }
        panic!("{name}, {without}: none of {schedules} schedules noticed");
    }
}

/// A panic is an error too.
fn attempt(schedule: impl Fn(&mut Schedule) -> Result<(), String>, one: &mut Schedule) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| schedule(one))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panicked: {}", text.unwrap_or_default()))
    })
}

fn tell(
    schedule: impl Fn(&mut Schedule) -> Result<(), String>,
    seed: u64,
) -> (Result<(), String>, Vec<String>) {
    let mut one = Schedule::told_of(seed);
    let broken = attempt(schedule, &mut one);
    (broken, one.into_told())
}

#[expect(clippy::panic, reason = "how a test fails")]
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text}")))
}

/// Past the test harness, which shows what a test prints only when it fails.
fn say(line: &str) {
    // Nobody may be reading.
    let _ = writeln!(std::io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list that two writers take turns to append to; the second forgets its place now and then.
    fn forgetful(schedule: &mut Schedule, forgets: bool) -> Result<(), String> {
        let mut list = Vec::new();
        for _ in 0..20 {
            let forgotten = schedule.chance(3) && forgets;
            schedule.step(|| format!("append {}", list.len()));
            list.push(if forgotten { 0 } else { list.len() });
        }
        if list.iter().enumerate().all(|(at, value)| at == *value) {
            Ok(())
        } else {
            Err(format!("{list:?}"))
        }
    }

    #[test]
    fn a_seed_decides_everything() {
        let choices = |seed| {
            let mut schedule = Schedule::of(seed);
            (0..50)
                .map(|_| (schedule.below(7), schedule.within(-3, 3), schedule.chance(50)))
                .collect::<Vec<_>>()
        };
        assert_eq!(choices(5), choices(5));
        assert_ne!(choices(5), choices(6));
    }

    #[test]
    fn a_broken_schedule_is_named_with_its_steps() {
        Simulation::new("list", 200).all(|schedule| forgetful(schedule, false));
        Simulation::new("list", 200).breaks("remembering", |schedule| forgetful(schedule, true));
        let run = || Simulation::new("list", 200).all(|schedule| forgetful(schedule, true));
        let panic = catch_unwind(run).unwrap_err();
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(text.contains("again: TIDEWATCH_SIM_SEED=") && text.contains("append 19"), "{text}");
    }

    #[test]
    fn a_control_that_nothing_notices_fails() {
        let run = || Simulation::new("list", 5).breaks("nothing", |schedule| forgetful(schedule, false));
        assert!(catch_unwind(run).is_err());
    }

    #[test]
    fn a_panic_breaks_a_schedule() {
        let broken = attempt(|_| panic!("on purpose"), &mut Schedule::of(1));
        assert_eq!(broken, Err("panicked: on purpose".to_owned()));
    }
}
