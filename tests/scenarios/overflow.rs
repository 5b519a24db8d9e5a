//! What does not fit is counted.

use anyhow::{Result, ensure};
use profiler_proto::{Event, LossReason};
use profiler_tests::{Agent, Lab, Reading, Workload, run};

/// Exit code of a partial capture.
const PARTIAL: i32 = 3;

pub(crate) fn ring_overflow_adds_up(lab: &Lab) -> Result<()> {
    // One page: it holds some 40 samples, and this asks for thousands between two looks of the agent.
    let agent = Agent::start(lab, &["--ring-bytes", "4096"])?;
    let _busy = [
        Workload::start(lab, "cpu_split", &[])?,
        Workload::start(lab, "waits", &[])?,
    ];
    let out = lab.folder()?.join("overflow.capture");
    let done = run(&mut agent.record(lab, &["-F", "4999", "-d", "2s"], &out)?)?;
    done.expect_code(PARTIAL)?;
    let reading = Reading::open(&out)?;
    for event in Event::ALL {
        let ledger = reading.ledger(event)?;
        println!(
            "{event}: {} counted = {} delivered + {} lost {:?}",
            ledger.counted,
            ledger.delivered,
            ledger.lost(),
            ledger.losses
        );
        let unexplained = ledger.losses.get(&LossReason::Unexplained).copied();
        ensure!(
            unexplained.unwrap_or(0) == 0,
            "{event}: losses without a reason"
        );
    }
    let cpu = reading.ledger(Event::Cpu)?;
    let ring = cpu.losses.get(&LossReason::RingBufferFull).copied();
    ensure!(ring > Some(0), "nothing was lost: the test is no test");
    ensure!(
        done.stdout.contains("ledger") && done.stdout.contains(LossReason::RingBufferFull.as_str()),
        "the summary does not show the losses: {}",
        done.stdout
    );
    let status = agent.status(lab)?;
    let lost: u64 = status["ledger"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|event| event["lost"].as_u64())
        .sum();
    ensure!(
        lost == reading.capture.ledger.lost(),
        "status tells {lost} lost, the capture {}",
        reading.capture.ledger.lost()
    );
    Ok(())
}
