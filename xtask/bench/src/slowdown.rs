//! How much slower programs get while they are profiled.

use anyhow::Result;
use profiler_tests::Agent;

use crate::figure::{Figure, Series, Unit::Percent};
use crate::lab::Bench;
use crate::workload::{Workload, rate};

/// Frequencies of the captures, beside windows without one.
const FREQUENCIES: [&str; 2] = ["99", "999"];

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let mut series = Series::default();
    compare(bench, "workers", &bench.start_deep()?, &mut series)?;
    compare(bench, "ping-pong", &bench.start_ping_pong()?, &mut series)?;
    Ok(series.figures())
}

/// Every round has a window without a capture before and after those with one: what they lose is against the mean of
/// the two, so that a slow change of the machine's speed cancels out.
fn compare(bench: &Bench, name: &str, workloads: &[Workload], series: &mut Series) -> Result<()> {
    let agent = Agent::start(&bench.lab, &[])?;
    let window = bench.pace.slowdown_window;
    let mut before = rate(workloads, window)?;
    for round in 0..bench.pace.slowdown_rounds {
        let mut frequencies = FREQUENCIES;
        frequencies.rotate_left(round % FREQUENCIES.len());
        let mut with = Vec::new();
        for frequency in frequencies {
            let capture = bench.capture(&agent, &["-F", frequency])?;
            with.push((frequency, rate(workloads, window)?));
            capture.end()?;
        }
        let after = rate(workloads, window)?;
        let without = f64::midpoint(before, after);
        let percent_slower = |rate: f64| 100.0 * (1.0 - rate / without);
        with.sort_by_key(|(frequency, _)| frequency.len());
        for (frequency, rate) in with {
            series
                .add(
                    &format!("slowdown of {name} at {frequency} Hz"),
                    Percent,
                    percent_slower(rate),
                )
                .note(format!("all events; {without:.0} units/s without"));
        }
        series
            .add(
                &format!("  the same between two windows without, {name}"),
                Percent,
                100.0 * (1.0 - after / before),
            )
            .note("noise: 0 on a quiet machine");
        before = after;
    }
    Ok(())
}
