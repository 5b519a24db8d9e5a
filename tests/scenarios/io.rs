//! Block I/O: exact by device, and put down to the thread that asked for it.

use anyhow::{Context, Result, ensure};
use profiler_proto::{DeviceStatistics, Event};
use profiler_tests::{Agent, Lab, LoopDisk, Reading, Workload};

const EXACT: f64 = 0.01;
const WHOLE_CHAINS: f64 = 0.95;

pub(crate) fn bytes_requests_flushes_and_writer(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let disk = LoopDisk::new(&lab.folder()?, 64)?;
    let file = disk.path().join("data");
    let writer = Workload::start(lab, "disk_writer", &[&file.to_string_lossy()])?;
    let pid = writer.pid();
    let host = agent.capture(lab, &["-e", "io", "-d", "4s"])?;
    let process = agent.capture(lab, &["-e", "io", "-d", "2s", "-p", &pid.to_string()])?;
    let truth = writer.finish()?;

    for (reading, whose) in [(&host, "whole host"), (&process, "the writer alone")] {
        let written = truth.sum("write_block", reading.window);
        let synced = truth.sum("sync_file", reading.window);
        let writes = device(reading, disk.name(), "write")?;
        let flushes = device(reading, disk.name(), "flush")?;
        println!(
            "{whose}: {} wrote {} bytes in {} requests, the writer {} in {}; {} flushes, {} asked for",
            disk.name(),
            writes.bytes,
            writes.count,
            written.bytes,
            written.whole,
            flushes.count,
            synced.whole
        );
        close(writes.bytes, written.bytes, "bytes")?;
        close(writes.count, written.whole, "requests")?;
        close(flushes.count, synced.whole, "flushes")?;
        ensure!(writes.errors == 0 && flushes.errors == 0, "requests failed");
        let (queue, device) = (&writes.queue_histogram, &writes.device_histogram);
        ensure!(
            queue.buckets.iter().sum::<u64>() == writes.count,
            "queue histogram"
        );
        ensure!(
            device.buckets.iter().sum::<u64>() == writes.count,
            "device histogram"
        );
        ensure!(writes.device_ns > 0, "requests that take no time");
        check_samples(reading, pid, disk.name(), whose)?;
    }
    let others: Vec<_> = process
        .capture
        .devices
        .iter()
        .map(|one| process.capture.dictionary.string(one.device))
        .filter(|name| *name != disk.name())
        .collect();
    ensure!(others.is_empty(), "the writer did not write to {others:?}");
    Ok(())
}

fn device(reading: &Reading, device: &str, operation: &str) -> Result<DeviceStatistics> {
    let name = |id| reading.capture.dictionary.string(id);
    let devices = &reading.capture.devices;
    let found = devices
        .iter()
        .find(|one| name(one.device) == device && name(one.operation) == operation);
    found.cloned().with_context(|| {
        let all = devices
            .iter()
            .map(|one| (name(one.device), name(one.operation)));
        format!(
            "no {operation} on {device}, only {:?}",
            all.collect::<Vec<_>>()
        )
    })
}

/// Within one per cent; a request on either edge of the window may be counted or not.
fn close(measured: u64, truth: u64, what: &str) -> Result<()> {
    let tolerated = EXACT * truth as f64 + if what == "bytes" { 0.0 } else { 2.0 };
    ensure!(truth > 0, "the writer wrote nothing");
    ensure!(
        (measured as f64 - truth as f64).abs() <= tolerated,
        "{measured} {what} instead of {truth}"
    );
    Ok(())
}

/// Requests of the loop device come from the writer, in its functions.
fn check_samples(reading: &Reading, pid: u32, disk: &str, whose: &str) -> Result<()> {
    reading.ledger(Event::Io)?;
    let mut stacks = reading.stacks(Event::Io)?;
    stacks.retain(|stack| stack.device == disk);
    let sum = |operation: &str, chain: Option<&[&str]>| {
        let stacks = stacks.iter().filter(|stack| stack.operation == operation);
        let stacks =
            stacks.filter(|stack| chain.is_none_or(|chain| stack.pid == pid && stack.holds(chain)));
        stacks.map(|stack| stack.weight as f64).sum::<f64>()
    };
    for (operation, function) in [("write", "write_block"), ("flush", "sync_file")] {
        let all = sum(operation, None);
        let whole = sum(operation, Some(&["main", "write_blocks", function]));
        println!(
            "{whose}: {:.2} % of the latency of {operation}s on {disk} is in {function} of the writer",
            100.0 * whole / all
        );
        ensure!(all > 0.0, "no {operation} was sampled");
        ensure!(
            whole >= WHOLE_CHAINS * all,
            "{operation}s are put down to others"
        );
    }
    Ok(())
}
