//! Linux's own `perf`, which unwinds from copies of the stack: what the profiler's stacks are held against.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::chain::Frame;
use crate::score::Observed;
use crate::{Lab, Window, program, run};

/// Most that perf copies of a stack, in bytes.
const DEEP: u32 = 65_528;

/// The user part of one sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerfSample {
    /// Of its thread.
    pub comm: String,
    /// Of its process.
    pub pid: u32,
    /// When, CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// Root first; none where only the kernel was.
    pub frames: Vec<Frame>,
}

impl PerfSample {
    /// As the scorer takes it. perf does not say where a stack was cut.
    pub fn observed(&self) -> Observed {
        Observed {
            frames: self.frames.clone(),
            claims_whole: true,
            count: 1,
            weight: 0,
        }
    }
}

/// Samples of `perf record --call-graph dwarf`.
#[derive(Debug)]
pub struct PerfProfile {
    /// All of them, also those in which only the kernel was.
    pub samples: Vec<PerfSample>,
    /// From the first to the last.
    pub window: Window,
}

/// Whom perf is to look at.
#[derive(Clone, Debug)]
pub enum PerfTarget {
    /// These processes.
    Pids(Vec<u32>),
    /// Everything.
    Host,
}

/// Records for a while. Waits until that is over.
///
/// # Errors
/// Skips the test where perf is not here; fails where it does.
pub fn record(lab: &Lab, target: &PerfTarget, hertz: u32, time: Duration) -> Result<PerfProfile> {
    let perf = program("perf")?;
    let data = lab.folder()?.join("perf.data");
    let mut command = Command::new(&perf);
    command.args([
        "record",
        "-q",
        "-k",
        "CLOCK_MONOTONIC",
        "-e",
        "cpu-clock",
        "-F",
    ]);
    command.arg(hertz.to_string());
    // Room for some hundred such copies for each CPU.
    command.args([&format!("--call-graph=dwarf,{DEEP}"), "-m", "32M"]);
    match target {
        PerfTarget::Pids(pids) => {
            let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
            command.args(["-p", &pids.join(",")]);
        }
        PerfTarget::Host => {
            command.arg("-a");
        }
    }
    command.arg("-o").arg(&data).args(["--", "sleep"]);
    command.arg(time.as_secs_f64().to_string());
    run(&mut command)?.expect_code(0)?;
    read(perf, &data)
}

fn read(perf: PathBuf, data: &std::path::Path) -> Result<PerfProfile> {
    let mut script = Command::new(perf);
    script.args(["script", "--max-stack", "2048", "--no-inline", "-F"]);
    script
        .args(["comm,pid,tid,time,event,ip,sym,dso", "-i"])
        .arg(data);
    let done = run(&mut script)?;
    done.expect_code(0)?;
    let samples = parse(&done.stdout)?;
    let times = || samples.iter().map(|sample| sample.time_ns);
    let start_ns = times().min().context("perf took no sample")?;
    let window = Window {
        start_ns,
        end_ns: times().max().unwrap_or(start_ns),
    };
    Ok(PerfProfile { samples, window })
}

fn parse(text: &str) -> Result<Vec<PerfSample>> {
    let mut samples = Vec::new();
    for block in text.split("\n\n") {
        let mut lines = block.lines().filter(|line| !line.trim().is_empty());
        let Some(head) = lines.next() else {
            continue;
        };
        let (comm, pid, time_ns) = head_of(head).with_context(|| format!("perf says {head:?}"))?;
        let mut frames: Vec<_> = lines.filter_map(frame_of).collect();
        frames.reverse();
        samples.push(PerfSample {
            comm,
            pid,
            time_ns,
            frames,
        });
    }
    Ok(samples)
}

/// "many words  1234/1235  5123.123456:  cpu-clock:pppH:"
fn head_of(line: &str) -> Option<(String, u32, u64)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let ids = words.iter().rposition(|word| {
        let mut parts = word.split('/');
        // A thread that has gone is -1.
        let is_number = |part: &str| part.parse::<i32>().is_ok();
        parts.clone().count() == 2 && parts.all(is_number)
    })?;
    let pid: i32 = words[ids].split('/').next()?.parse().ok()?;
    let pid = u32::try_from(pid).unwrap_or(0);
    let (seconds, fraction) = words.get(ids + 1)?.trim_end_matches(':').split_once('.')?;
    let ns = format!("{fraction:0<9}").get(..9)?.parse::<u64>().ok()?;
    let time_ns = seconds.parse::<u64>().ok()? * 1_000_000_000 + ns;
    Some((words[..ids].join(" "), pid, time_ns))
}

/// "    7f1234 name of the function (/path/of/module)"; none for the kernel's.
fn frame_of(line: &str) -> Option<Frame> {
    let (_, rest) = line.trim().split_once(' ')?;
    let (function, module) = rest.rsplit_once(" (")?;
    let module = module.trim_end_matches(')');
    let function = if function == "[unknown]" {
        ""
    } else {
        function
    };
    let in_kernel = module.starts_with("[kernel") || module.starts_with("[guest.kernel");
    (!in_kernel).then(|| Frame::new(function, module))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_samples() {
        let text = "\
deep 2 w  1234/1235  5123.000456:  cpu-clock:pppH: \n\
\tffffffff810 do_syscall_64+0x1 ([kernel.kallsyms])\n\
\t    7f01 app::f(int, char (*)[2]) (/tmp/a b/deep)\n\
\t    7f02 [unknown] (/lib/libc.so.6)\n\
\n\
x  7/7  1.5: cpu-clock: \n\
\tffffffff810 do_idle ([kernel.kallsyms])\n\
\n";
        let samples = parse(text).unwrap();
        assert_eq!(samples.len(), 2);
        assert!(samples[1].frames.is_empty());
        let one = &samples[0];
        assert_eq!((one.comm.as_str(), one.pid), ("deep 2 w", 1234));
        assert_eq!(one.time_ns, 5_123_000_456_000);
        let shown: Vec<_> = one.frames.iter().map(Frame::to_string).collect();
        assert_eq!(shown, ["@libc.so.6", "app::f"]);
        assert_eq!(one.frames[1].module, "deep");
        parse("nonsense\n").unwrap_err();
    }
}
