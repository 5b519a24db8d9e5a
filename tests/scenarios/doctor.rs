//! What programs read about an agent and a host.

use anyhow::{Context, Result, ensure};
use profiler_tests::{Agent, Lab, run};
use serde_json::Value;

pub(crate) fn doctor_json_has_its_fields(lab: &Lab) -> Result<()> {
    // Without an agent, one is started for it.
    let done = run(&mut lab.profiler(["doctor", "--output", "json"])?)?;
    done.expect_code(0)?;
    let answer: Value = serde_json::from_str(&done.stdout)?;
    let checks = answer["checks"].as_array().context("no checks")?;
    for check in checks {
        let text = |field: &str| {
            check[field]
                .as_str()
                .with_context(|| format!("no {field}: {check}"))
        };
        let (name, state, found, advice) = (
            text("name")?,
            text("state")?,
            text("found")?,
            text("advice")?,
        );
        println!("{name}: {state}: {found} {advice}");
        ensure!(
            ["ok", "degraded", "failed"].contains(&state),
            "{name} is {state}"
        );
        ensure!(
            state == "ok" || !advice.is_empty(),
            "{name} is {state} without advice"
        );
    }
    let has = |name: &str| checks.iter().any(|check| check["name"] == name);
    for name in [
        "kernel",
        "btf",
        "tracefs",
        "perf",
        "capabilities",
        "lockdown",
    ] {
        ensure!(has(name), "no check of {name}");
    }
    let events = answer["events"].as_array().context("no events")?;
    let names: Vec<_> = events
        .iter()
        .filter_map(|event| event["event"].as_str())
        .collect();
    ensure!(names == ["cpu", "offcpu", "io"], "events {names:?}");
    for event in events {
        check_event(event)?;
    }
    Ok(())
}

fn check_event(event: &Value) -> Result<()> {
    let rungs = event["rungs"].as_array().context("no rungs")?;
    ensure!(event["available"] == true, "{event} is not available");
    for rung in rungs {
        let available = rung["available"].as_bool().context("no availability")?;
        let reason = rung["reason"].as_str().context("no reason")?;
        println!(
            "{} {}: {available} {reason}",
            event["event"], rung["mechanism"]
        );
        ensure!(rung["mechanism"].is_string());
        ensure!(
            available == reason.is_empty(),
            "a reason and no failure, or the other way round: {rung}"
        );
        ensure!(!available || rung["verified_instructions"].is_object());
    }
    let first = rungs.iter().find(|rung| rung["available"] == true);
    ensure!(first.is_some_and(|rung| rung["mechanism"] == event["mechanism"]));
    Ok(())
}

pub(crate) fn doctor_tells_of_a_process(lab: &Lab) -> Result<()> {
    let ask = |pid: &str| run(&mut lab.profiler(["doctor", "--pid", pid, "--output", "json"])?);
    let own = std::process::id();
    let done = ask(&own.to_string())?;
    println!("{}", done.stdout);
    done.expect_code(0)?;
    let answer: Value = serde_json::from_str(&done.stdout)?;
    ensure!(answer["pid"] == own && answer["bits"] == 64 && answer["contained"] == false);
    let mappings = answer["mappings"].as_array().context("no mappings")?;
    let of = |path: &Value| mappings.iter().find(|mapping| mapping["path"] == *path);
    let program = of(&answer["executable"]).context("no mapping of the program")?;
    ensure!(program["unwind"]["state"] == "ok" && program["unwind"]["by"] == ".eh_frame");
    ensure!(program["names"]["from"][0] == ".symtab", "{program}");
    ensure!(of(&"[vdso]".into()).is_some_and(|vdso| vdso["unwind"]["state"] == "ok"));
    let none = ask("4194304")?;
    none.expect_code(1)?;
    ensure!(none.stderr.contains("there is no process 4194304"));
    Ok(())
}

pub(crate) fn status_json_has_its_fields(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let idle = agent.status(lab)?;
    ensure!(idle["pid"] == agent.pid(), "another agent answers: {idle}");
    ensure!(idle["captures_completed"] == 0);
    let out = lab.folder()?.join("x.capture");
    run(&mut agent.record(lab, &["-d", "300ms"], &out)?)?.expect_written()?;
    let status = agent.status(lab)?;
    println!("{}", serde_json::to_string(&status)?);
    for field in ["agent_version", "host", "kernel"] {
        ensure!(
            status[field].as_str().is_some_and(|text| !text.is_empty()),
            "no {field}"
        );
    }
    for field in ["uptime_ns", "cpu_ns", "rss_bytes"] {
        ensure!(status[field].as_u64() > Some(0), "no {field}");
    }
    ensure!(status["bpf_map_bytes"].is_u64() && status["captures_failed"] == 0);
    ensure!(status["captures_completed"] == 1);
    ensure!(
        status["sessions"].as_array().is_some_and(Vec::is_empty),
        "a session is left"
    );
    let ledger = status["ledger"].as_array().context("no ledger")?;
    ensure!(ledger.len() == 3 && ledger.iter().all(|event| event["balanced"] == true));
    Ok(())
}
