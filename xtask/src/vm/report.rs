//! Writes the table of the matrix.

use std::collections::BTreeSet;

use super::outcome::{EVENTS, Outcome};

/// tests/vm/README.md.
pub(crate) fn page(outcomes: &[Outcome]) -> String {
    format!(
        "# Kernel matrix\n\n\
         Written by `cargo xtask test-vm`: Debian's kernels for amd64 under qemu's emulation, two processors, the newest\n\
         of each line. In each guest `smoke.sh` runs `profiler doctor`, captures all three events for 3 s beside a busy\n\
         thread, a sleeper and a writer on a disk with 5 ms of latency, and takes a processor away and back during a\n\
         further capture. A program without frame pointers, 30 frames deep, is captured by itself. A kernel passes when\n\
         every event has samples, the ledger adds up, no request seems faster than the disk, 95 % of the stacks without\n\
         frame pointers are whole and no program takes the verifier more than 500,000 instructions. Timings under\n\
         emulation mean nothing otherwise.\n\n\
         ## Rungs in use\n\n{}\n\
         ## Instructions the verifier looked at\n\n\
         At most 1,000,000 are allowed. Kernels before 5.16 do not say how many there were.\n\n{}",
        rungs(outcomes),
        instructions(outcomes)
    )
}

fn rungs(outcomes: &[Outcome]) -> String {
    let mut text = row([
        "kernel",
        "cpu",
        "offcpu",
        "io",
        "smoke capture",
        "whole stacks without frame pointers",
        "processor hotplug",
    ]);
    text += &row(["---"; 7]);
    for outcome in outcomes {
        let rung = |event: &str| outcome.rungs.get(event).map_or("none", String::as_str);
        let smoke = if outcome.passed() {
            "passed".to_owned()
        } else {
            let failures = outcome.failures.iter().map(|failure| shortened(failure));
            format!("failed: {}", failures.collect::<Vec<_>>().join("; "))
        };
        let hotplug = match outcome.hotplug {
            Some(true) => "passed",
            Some(false) => "failed",
            None => "not possible",
        };
        let [cpu, offcpu, io] = EVENTS.map(rung);
        let whole = match outcome.whole_percent {
            Some(percent) => format!("{percent:.1} %"),
            None => "not tried".to_owned(),
        };
        text += &row([&outcome.release, cpu, offcpu, io, &smoke, &whole, hotplug]);
    }
    text
}

/// A failure may carry a page of the verifier's log; a table shows its beginning.
fn shortened(failure: &str) -> String {
    const SHOWN: usize = 100;
    let mut text: String = failure.chars().take(SHOWN).collect();
    if text.len() < failure.len() {
        text += " ...";
    }
    text
}

fn instructions(outcomes: &[Outcome]) -> String {
    let programs: BTreeSet<&String> = outcomes
        .iter()
        .flat_map(|o| o.instructions.keys())
        .collect();
    let releases = outcomes.iter().map(|outcome| outcome.release.as_str());
    let mut text = row(std::iter::once("program").chain(releases));
    text += &row(std::iter::repeat_n("---", outcomes.len() + 1));
    for program in programs {
        let counts = outcomes
            .iter()
            .map(|outcome| match outcome.instructions.get(program) {
                None => "not used".to_owned(),
                Some(0) => "not told".to_owned(),
                Some(count) => count.to_string(),
            });
        text += &row(std::iter::once(format!("`{program}`")).chain(counts));
    }
    text
}

fn row(cells: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let mut text = String::from("|");
    for cell in cells {
        // A bar would end the cell.
        text += &format!(" {} |", cell.as_ref().replace('|', "/"));
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        Outcome {
            release: "6.1.0-49-amd64".to_owned(),
            rungs: [("cpu", "cpu-clock"), ("io", "btf")]
                .map(|(event, rung)| (event.to_owned(), rung.to_owned()))
                .into(),
            instructions: [("cpu_sample", 812), ("switch", 0)]
                .map(|(program, count)| (program.to_owned(), count))
                .into(),
            hotplug: Some(true),
            whole_percent: Some(99.96),
            failures: Vec::new(),
        }
    }

    #[test]
    fn the_page_shows_every_kernel_and_program() {
        let text = page(&[outcome()]);
        for line in [
            "| 6.1.0-49-amd64 | cpu-clock | none | btf | passed | 100.0 % | passed |",
            "| program | 6.1.0-49-amd64 |",
            "| `cpu_sample` | 812 |",
            "| `switch` | not told |",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_failure_is_shown_shortened_and_cannot_break_the_table() {
        let mut outcome = outcome();
        outcome.failures = vec!["a | b".to_owned(), "x".repeat(200)];
        let text = rungs(&[outcome]);
        assert!(text.contains("| failed: a / b; xxx"), "{text}");
        assert!(text.contains("xxx ... |"), "{text}");
    }
}
