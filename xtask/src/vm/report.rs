//! Judges what a guest left, and writes the table of the matrix.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::guest::{Results, Step};

/// What a capture must hold, in the order of the table.
pub(crate) const EVENTS: [&str; 3] = ["cpu", "offcpu", "io"];

/// The disk of the guests answers no request sooner: see tests/vm/init.sh.
const DISK_LATENCY_NS: f64 = 5e6;

/// Exit codes of `profiler record` that leave a capture: complete, and partial, which a slow guest may well be.
const CAPTURED: [i32; 2] = [0, 3];

/// The outcome on one kernel; kept beside the kernel so that a run of some kernels can print all.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) release: String,
    /// By event: the rung in use; missing when there is none.
    pub(crate) rungs: BTreeMap<String, String>,
    /// By program: instructions the verifier looked at.
    pub(crate) instructions: BTreeMap<String, u64>,
    /// Whether a processor could go and come back during a capture; None where it cannot be tried.
    pub(crate) hotplug: Option<bool>,
    /// Why the kernel did not pass; empty when it did.
    pub(crate) failures: Vec<String>,
}

/// The part of `profiler doctor --output json` that is of use here.
#[derive(Deserialize)]
struct Doctor {
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    event: String,
    /// Best first.
    rungs: Vec<Rung>,
}

#[derive(Deserialize)]
struct Rung {
    mechanism: String,
    available: bool,
    #[serde(default)]
    verified_instructions: BTreeMap<String, u64>,
}

/// The part of `profiler top --output json` that is of use here.
#[derive(Deserialize)]
struct Top {
    samples: u64,
    weight_ns: u64,
    functions: Vec<serde_json::Value>,
    ledger: Vec<EventLedger>,
}

#[derive(Deserialize)]
struct EventLedger {
    event: String,
    balanced: bool,
}

impl Top {
    /// What is wrong with the samples of an event, if anything is.
    fn fault(&self, event: &str) -> Option<String> {
        if self.samples == 0 || self.functions.is_empty() {
            return Some("no samples".to_owned());
        }
        if !self
            .ledger
            .iter()
            .any(|of| of.event == event && of.balanced)
        {
            return Some("the ledger does not add up".to_owned());
        }
        let mean_ns = self.weight_ns as f64 / self.samples as f64;
        if event == "io" && mean_ns < DISK_LATENCY_NS {
            return Some(format!(
                "a request takes {mean_ns:.0} ns, sooner than the disk can"
            ));
        }
        None
    }
}

impl Outcome {
    /// Boots are judged by the release the guest reports.
    pub(crate) fn of_boot(release: &str, results: &Results) -> Self {
        let mut outcome = Self {
            release: release.to_owned(),
            ..Self::default()
        };
        match results.step("uname") {
            Some(step) if step.output.trim() == release => {}
            Some(step) => outcome.fail(format!("the guest runs {}", step.output.trim())),
            None => outcome.fail("the guest did not reach its script".to_owned()),
        }
        outcome
    }

    /// Everything the script did.
    pub(crate) fn of_smoke(release: &str, results: &Results) -> Self {
        let mut outcome = Self::of_boot(release, results);
        outcome.doctor(results.step("doctor"));
        outcome.captured("record", results.step("record"));
        for event in EVENTS {
            outcome.has_samples(event, results.step(&format!("top-{event}")));
        }
        outcome.hotplug(results);
        outcome
    }

    pub(crate) fn passed(&self) -> bool {
        self.failures.is_empty()
    }

    fn fail(&mut self, why: String) {
        self.failures.push(why);
    }

    fn doctor(&mut self, step: Option<Step>) {
        let Some(step) = step else {
            return self.fail("`profiler doctor` did not end".to_owned());
        };
        let doctor: Doctor = match serde_json::from_str(&step.output) {
            Ok(doctor) => doctor,
            Err(error) => {
                let said = first_line(&step.messages);
                return self.fail(format!("`profiler doctor`: {error}; {said}"));
            }
        };
        for Event { event, rungs } in doctor.events {
            if let Some(used) = rungs.into_iter().find(|rung| rung.available) {
                self.rungs.insert(event, used.mechanism);
                self.instructions.extend(used.verified_instructions);
            }
        }
        for event in EVENTS {
            if !self.rungs.contains_key(event) {
                self.fail(format!("{event}: no rung available"));
            }
        }
    }

    fn captured(&mut self, name: &str, step: Option<Step>) -> bool {
        match step {
            Some(step) if CAPTURED.contains(&step.code) => true,
            Some(step) => {
                let said = first_line(&step.messages);
                self.fail(format!("{name}: exit code {}; {said}", step.code));
                false
            }
            None => {
                self.fail(format!("{name} did not end"));
                false
            }
        }
    }

    fn has_samples(&mut self, event: &str, step: Option<Step>) -> bool {
        let Some(step) = step else {
            self.fail(format!("{event}: no samples"));
            return false;
        };
        let fault = match serde_json::from_str::<Top>(&step.output) {
            Ok(top) => top.fault(event),
            Err(error) => Some(format!("{error}; {}", first_line(&step.messages))),
        };
        let good = fault.is_none();
        if let Some(fault) = fault {
            self.fail(format!("{event}: {fault}"));
        }
        good
    }

    fn hotplug(&mut self, results: &Results) {
        let Some(online) = results.step("hotplug-online") else {
            return;
        };
        let captured = self.captured("capture during hotplug", results.step("hotplug"));
        let sampled = captured && self.has_samples("cpu", results.step("hotplug-top"));
        self.hotplug = Some(sampled && online.output.trim() == "1");
    }
}

fn first_line(messages: &str) -> &str {
    messages.lines().next().unwrap_or("no message")
}

/// tests/vm/README.md.
pub(crate) fn page(outcomes: &[Outcome]) -> String {
    format!(
        "# Kernel matrix\n\n\
         Written by `cargo xtask test-vm`: Debian's kernels for amd64 under qemu's emulation, two processors, the newest\n\
         of each line. In each guest `smoke.sh` runs `profiler doctor`, captures all three events for 3 s beside a busy\n\
         thread, a sleeper and a writer on a disk with 5 ms of latency, and takes a processor away and back during a\n\
         further capture. A kernel passes when every event has samples, the ledger adds up and no request seems faster\n\
         than the disk. Timings under emulation mean nothing otherwise.\n\n\
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
        "processor hotplug",
    ]);
    text += &row(["---"; 6]);
    for outcome in outcomes {
        let rung = |event: &str| outcome.rungs.get(event).map_or("none", String::as_str);
        let smoke = if outcome.passed() {
            "passed".to_owned()
        } else {
            format!("failed: {}", outcome.failures.join("; "))
        };
        let hotplug = match outcome.hotplug {
            Some(true) => "passed",
            Some(false) => "failed",
            None => "not possible",
        };
        let [cpu, offcpu, io] = EVENTS.map(rung);
        text += &row([&outcome.release, cpu, offcpu, io, &smoke, hotplug]);
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
    use std::fs;
    use tempfile::TempDir;

    const DOCTOR: &str = r#"{"checks": [], "events": [
        {"event": "cpu", "rungs": [
            {"mechanism": "cycles", "available": false, "reason": "no counters"},
            {"mechanism": "cpu-clock", "available": true, "verified_instructions": {"cpu_sample": 812}}]},
        {"event": "offcpu", "rungs": [{"mechanism": "btf", "available": true, "verified_instructions": {"switch": 0}}]},
        {"event": "io", "rungs": [{"mechanism": "btf", "available": true}]}]}"#;
    const TOP: &str = r#"{"samples": 9, "weight_ns": 46000000, "functions": [{"function": "main"}],
        "ledger": [{"event": "cpu", "balanced": true}, {"event": "offcpu", "balanced": true}, {"event": "io", "balanced": true}]}"#;

    /// What a guest leaves that passes, for a test to spoil.
    fn guest() -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        step(&folder, "uname", 0, "6.1.0-49-amd64\n");
        step(&folder, "doctor", 0, DOCTOR);
        step(&folder, "record", 3, "");
        for name in ["top-cpu", "top-offcpu", "top-io", "hotplug-top"] {
            step(&folder, name, 0, TOP);
        }
        step(&folder, "hotplug", 0, "");
        step(&folder, "hotplug-online", 0, "1\n");
        folder
    }

    fn step(folder: &TempDir, name: &str, code: i32, output: &str) {
        for (part, text) in [
            ("code", code.to_string().as_str()),
            ("out", output),
            ("err", "why\n"),
        ] {
            fs::write(folder.path().join(format!("{name}.{part}")), text).unwrap();
        }
    }

    fn outcome(folder: &TempDir) -> Outcome {
        Outcome::of_smoke("6.1.0-49-amd64", &Results::in_folder(folder.path()))
    }

    #[test]
    fn a_good_guest_passes_with_the_first_available_rung() {
        let outcome = outcome(&guest());
        assert_eq!(outcome.failures, Vec::<String>::new());
        assert_eq!(outcome.rungs["cpu"], "cpu-clock");
        assert_eq!(outcome.instructions["cpu_sample"], 812);
        assert_eq!(outcome.hotplug, Some(true));
    }

    #[test]
    fn an_event_without_samples_fails() {
        let folder = guest();
        step(
            &folder,
            "top-io",
            0,
            &TOP.replace("\"samples\": 9", "\"samples\": 0"),
        );
        assert_eq!(outcome(&folder).failures, ["io: no samples"]);
    }

    #[test]
    fn a_ledger_that_does_not_add_up_fails() {
        let folder = guest();
        step(&folder, "top-cpu", 0, &TOP.replacen("true", "false", 1));
        assert_eq!(
            outcome(&folder).failures,
            ["cpu: the ledger does not add up"]
        );
    }

    #[test]
    fn a_disk_faster_than_it_can_be_fails() {
        let folder = guest();
        step(&folder, "top-io", 0, &TOP.replace("46000000", "44000000"));
        let failures = outcome(&folder).failures;
        assert!(
            failures[0].starts_with("io: a request takes 4888889 ns"),
            "{failures:?}"
        );
    }

    #[test]
    fn a_failed_capture_fails_with_its_message() {
        let folder = guest();
        step(&folder, "record", 1, "");
        assert_eq!(outcome(&folder).failures, ["record: exit code 1; why"]);
    }

    #[test]
    fn an_event_without_a_rung_fails() {
        let folder = guest();
        step(
            &folder,
            "doctor",
            0,
            &DOCTOR.replace(
                r#""btf", "available": true}"#,
                r#""btf", "available": false}"#,
            ),
        );
        assert_eq!(outcome(&folder).failures, ["io: no rung available"]);
    }

    #[test]
    fn another_kernel_than_asked_for_fails() {
        let folder = guest();
        step(&folder, "uname", 0, "5.10\n");
        assert!(!outcome(&folder).passed());
    }

    #[test]
    fn a_guest_that_died_early_fails() {
        let folder = tempfile::tempdir().unwrap();
        let outcome = outcome(&folder);
        assert!(
            outcome
                .failures
                .contains(&"the guest did not reach its script".to_owned())
        );
        assert!(outcome.failures.contains(&"cpu: no samples".to_owned()));
    }

    #[test]
    fn a_processor_that_stays_away_fails_hotplug() {
        let folder = guest();
        step(&folder, "hotplug-online", 0, "0\n");
        assert_eq!(outcome(&folder).hotplug, Some(false));
    }

    #[test]
    fn the_page_shows_every_kernel_and_program() {
        let text = page(&[outcome(&guest())]);
        assert!(
            text.contains("| 6.1.0-49-amd64 | cpu-clock | btf | btf | passed | passed |"),
            "{text}"
        );
        assert!(text.contains("| `cpu_sample` | 812 |"), "{text}");
        assert!(text.contains("| `switch` | not told |"), "{text}");
    }
}
