//! Judges what a guest left.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::guest::{Results, Step};

/// What a capture must hold.
pub(crate) const EVENTS: [&str; 3] = ["cpu", "offcpu", "io"];

/// Captures of one target each: see tests/vm/smoke.sh.
const TARGETS: [&str; 3] = ["pid", "comm", "cgroup"];

/// The disk of the guests answers no request sooner: see tests/vm/init.sh.
const DISK_LATENCY_NS: f64 = 5e6;

/// Runs on the processor that went and came back, and on no other: see tests/vm/smoke.sh.
const RETURNED: &str = "returned;";

/// Most instructions that the verifier may look at in one program: half of what kernels allow, so that a newer one
/// which looks more closely still takes it.
const MOST_INSTRUCTIONS: u64 = 500_000;

/// What a stack of the program without frame pointers holds when it is whole, and what says that it is one of
/// those: see tests/workloads/deep.c.
const WHOLE_STACK: [&str; 2] = [
    ";_start;",
    ";main;drive;level_0;level_1;level_2;level_3;level_4;level_0;",
];
const IN_PART: &str = ";part_";
/// Of 100 such stacks.
const LEAST_WHOLE: f64 = 95.0;

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
    /// Percent of the stacks of a program without frame pointers that are whole; None where it was not tried.
    #[serde(default)]
    pub(crate) whole_percent: Option<f64>,
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
            let name = format!("top-{event}");
            outcome.has_samples(event, &name, results.step(&name));
        }
        for target in TARGETS {
            outcome.captured(target, results.step(target));
            for event in ["cpu", "offcpu"] {
                let name = format!("{target}-{event}");
                outcome.has_samples(event, &name, results.step(&name));
            }
        }
        outcome.unwinding(results);
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
        for (program, count) in self.instructions.clone() {
            if count > MOST_INSTRUCTIONS {
                self.fail(format!(
                    "{program}: the verifier looks at {count} instructions, more than {MOST_INSTRUCTIONS}"
                ));
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

    fn has_samples(&mut self, event: &str, name: &str, step: Option<Step>) {
        let fault = match top(step) {
            Ok(top) => top.fault(event),
            Err(error) => Some(error),
        };
        if let Some(fault) = fault {
            self.fail(format!("{name}: {fault}"));
        }
    }

    fn unwinding(&mut self, results: &Results) {
        let Some(step) = results.step("unwind") else {
            return;
        };
        let folded = results.step("unwind-folded").map(|step| step.output);
        let percent = whole_percent(&folded.unwrap_or_default());
        self.whole_percent = Some(percent);
        if percent < LEAST_WHOLE {
            let said = first_line(&step.messages);
            self.fail(format!(
                "unwind: {percent:.1} % of the stacks without frame pointers are whole; exit code {}; {said}",
                step.code
            ));
        }
    }

    fn hotplug(&mut self, results: &Results) {
        let Some(step) = results.step("hotplug") else {
            return;
        };
        let folded = results.step("hotplug-folded").map(|step| step.output);
        let sampled = folded.is_some_and(|text| text.lines().any(|l| l.starts_with(RETURNED)));
        self.hotplug = Some(sampled);
        if !sampled {
            let said = first_line(&step.messages);
            self.fail(format!(
                "hotplug: no sample of the processor that came back; exit code {}; {said}",
                step.code
            ));
        }
    }
}

/// Of the samples in folded stacks that are in one of the parts.
fn whole_percent(folded: &str) -> f64 {
    let (mut all, mut whole) = (0, 0);
    for line in folded.lines().filter(|line| line.contains(IN_PART)) {
        let samples = line.rsplit(' ').next().and_then(|text| text.parse().ok());
        let samples: u64 = samples.unwrap_or(0);
        all += samples;
        if WHOLE_STACK.iter().all(|part| line.contains(part)) {
            whole += samples;
        }
    }
    100.0 * whole as f64 / all.max(1) as f64
}

fn top(step: Option<Step>) -> Result<Top, String> {
    let step = step.ok_or("`profiler top` did not end")?;
    serde_json::from_str(&step.output)
        .map_err(|error| format!("{error}; {}", first_line(&step.messages)))
}

fn first_line(messages: &str) -> &str {
    messages.lines().next().unwrap_or("no message")
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
        "ledger": [{"event": "cpu", "balanced": true}, {"event": "offcpu", "balanced": true},
            {"event": "io", "balanced": true}]}"#;

    const FOLDED: &str = "deep;_start;__libc_start_main;main;drive;level_0;level_1;level_2;level_3;level_4;level_0;\
        level_1;part_small 97\ndeep;_start;main;drive;span_begin 50\ndeep;[cut];level_1;part_small ";

    /// What a guest leaves that passes, for a test to spoil.
    fn guest() -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        step(&folder, "uname", 0, "6.1.0-49-amd64\n");
        step(&folder, "doctor", 0, DOCTOR);
        step(&folder, "record", 3, "");
        for name in ["top-cpu", "top-offcpu", "top-io"] {
            step(&folder, name, 0, TOP);
        }
        for target in TARGETS {
            step(&folder, target, 0, "");
            step(&folder, &format!("{target}-cpu"), 0, TOP);
            step(&folder, &format!("{target}-offcpu"), 0, TOP);
        }
        step(&folder, "unwind", 0, "");
        step(&folder, "unwind-folded", 0, &format!("{FOLDED}1\n"));
        step(&folder, "hotplug", 124, "");
        step(
            &folder,
            "hotplug-folded",
            0,
            "sh;main 3\nreturned;main;loop 90\n",
        );
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
        assert_eq!(outcome(&folder).failures, ["top-io: no samples"]);
    }

    #[test]
    fn a_target_that_is_not_found_fails() {
        let folder = guest();
        step(
            &folder,
            "comm-cpu",
            0,
            &TOP.replace("\"samples\": 9", "\"samples\": 0"),
        );
        assert_eq!(outcome(&folder).failures, ["comm-cpu: no samples"]);
    }

    #[test]
    fn a_ledger_that_does_not_add_up_fails() {
        let folder = guest();
        step(&folder, "top-cpu", 0, &TOP.replacen("true", "false", 1));
        assert_eq!(
            outcome(&folder).failures,
            ["top-cpu: the ledger does not add up"]
        );
    }

    #[test]
    fn a_disk_faster_than_it_can_be_fails() {
        let folder = guest();
        step(&folder, "top-io", 0, &TOP.replace("46000000", "44000000"));
        let failures = outcome(&folder).failures;
        assert!(
            failures[0].starts_with("top-io: a request takes 4888889 ns"),
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
        assert!(
            outcome
                .failures
                .contains(&"top-cpu: `profiler top` did not end".to_owned())
        );
    }

    #[test]
    fn a_processor_that_is_not_sampled_again_fails() {
        let folder = guest();
        step(&folder, "hotplug-folded", 0, "sh;returned;main 3\n");
        let outcome = outcome(&folder);
        assert_eq!(outcome.hotplug, Some(false));
        assert_eq!(
            outcome.failures,
            ["hotplug: no sample of the processor that came back; exit code 124; why"]
        );
    }

    #[test]
    fn a_program_that_takes_the_verifier_too_long_fails() {
        let folder = guest();
        step(&folder, "doctor", 0, &DOCTOR.replace("812", "500001"));
        let failures = outcome(&folder).failures;
        assert!(
            failures[0].starts_with("cpu_sample: the verifier looks at 500001"),
            "{failures:?}"
        );
    }

    #[test]
    fn stacks_that_are_not_whole_fail() {
        let whole = outcome(&guest()).whole_percent.unwrap();
        assert!((whole - 100.0 * 97.0 / 98.0).abs() < 0.01, "{whole}");
        let folder = guest();
        step(&folder, "unwind-folded", 0, &format!("{FOLDED}6\n"));
        let failures = outcome(&folder).failures;
        assert!(
            failures[0].starts_with("unwind: 94.2 % of the stacks"),
            "{failures:?}"
        );
    }

    #[test]
    fn a_machine_without_hotplug_is_not_judged() {
        let folder = guest();
        fs::remove_file(folder.path().join("hotplug.code")).unwrap();
        let outcome = outcome(&folder);
        assert_eq!((outcome.hotplug, outcome.passed()), (None, true));
    }
}
