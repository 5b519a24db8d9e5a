//! Processes that make work for whoever looks at them. Others lose nothing by them, and the agent stays in its bounds.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use profiler_proto::Event;
use profiler_tests::catalogue::{self, Work};
use profiler_tests::measure::{Measured, by_agent};
use profiler_tests::{Agent, Build, Lab};

const HERTZ: u32 = 499;
const TIME: Duration = Duration::from_secs(3);

/// Percent of the innocent process's samples that are whole.
const CLEAN: f64 = 97.0;
/// What the agent may grow by: half of the largest of the files.
const GROWTH: u64 = 256 << 20;

pub(crate) fn as_many_mappings_as_there_can_be(lab: &Lab) -> Result<()> {
    beside(lab, &catalogue::hostile("mappings", &[]))
}

pub(crate) fn a_perf_map_of_a_gibibyte(lab: &Lab) -> Result<()> {
    beside(lab, &catalogue::hostile("map", &[]))
}

pub(crate) fn children_that_come_and_go(lab: &Lab) -> Result<()> {
    beside(lab, &catalogue::hostile("children", &[]))
}

/// A program that works, and files that were its copy until something happened to them.
pub(crate) fn broken_programs_mapped_as_code(lab: &Lab) -> Result<()> {
    let folder = lab.folder()?;
    let whole = fs::read(lab.build("deep", Build::Frameless, &[])?)?;
    let mut files = Vec::new();
    let mut add = |name: String, bytes: &[u8]| -> Result<()> {
        let path = folder.join(name);
        fs::write(&path, bytes)?;
        files.push(path.to_string_lossy().into_owned());
        Ok(())
    };
    for part in [
        0,
        1,
        16,
        63,
        64,
        100,
        4096,
        whole.len() / 2,
        whole.len() - 1,
    ] {
        add(format!("cut-{part}"), &whole[..part])?;
    }
    for (name, at, with) in LIES {
        let mut lying = whole.clone();
        for (to, from) in lying[*at..].iter_mut().zip(*with) {
            *to = *from;
        }
        add(format!("lying-{name}"), &lying)?;
    }
    for section in [".eh_frame", ".eh_frame_hdr"] {
        for byte in [0x00, 0xff, 0x7f] {
            add(
                format!("filled-{}-{byte}", &section[1..]),
                &filled(&whole, section, byte)?,
            )?;
        }
    }
    let noise: Vec<u8> = (0..1_u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    add("noise".to_owned(), &noise)?;
    huge_and_empty(&folder.join("huge"), &whole)?;
    files.push(folder.join("huge").to_string_lossy().into_owned());
    beside(lab, &catalogue::hostile("files", &files))
}

/// Places in the header of an ELF file (`Elf64_Ehdr`), and what is written there.
const LIES: &[(&str, usize, &[u8])] = &[
    ("class", 4, &[1]),
    ("byte-order", 5, &[2]),
    ("machine", 18, &[0xff, 0xff]),
    ("program-headers", 32, &[0xff; 8]),
    (
        "section-headers",
        40,
        &[0xf0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    ),
    (
        "header-sizes",
        54,
        &[1, 0, 0xff, 0xff, 1, 0, 0xff, 0xff, 0xff, 0xff],
    ),
    ("counts", 56, &[0xff, 0xff]),
    ("names", 62, &[0xfe, 0xff]),
];

/// A copy in which a section is nothing but this byte.
fn filled(whole: &[u8], section: &str, byte: u8) -> Result<Vec<u8>> {
    let (offset, size) = section_of(whole, section)?;
    let mut bytes = whole.to_vec();
    bytes[offset..offset + size].fill(byte);
    Ok(bytes)
}

/// Offset and size of a section in a well-formed ELF file of 64 bits.
fn section_of(file: &[u8], name: &str) -> Result<(usize, usize)> {
    let number = |at: usize, size: usize| {
        let bytes = file[at..at + size].iter().rev();
        bytes.fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte))
    };
    let (headers, size) = (number(40, 8), number(58, 2));
    let (count, names) = (number(60, 2), number(62, 2));
    let header = |index: usize| headers + index * size;
    let names = number(header(names) + 24, 8);
    for index in 0..count {
        let at = names + number(header(index), 4);
        let wanted = [name.as_bytes(), b"\0"].concat();
        if file[at..].starts_with(&wanted) {
            return Ok((number(header(index) + 24, 8), number(header(index) + 32, 8)));
        }
    }
    anyhow::bail!("no section {name}")
}

/// A GiB with a header at its begin and holes behind it; the header says that sections are at its end.
fn huge_and_empty(path: &Path, whole: &[u8]) -> Result<()> {
    const SIZE: u64 = 1 << 30;
    let mut begin = whole[..4096].to_vec();
    begin[40..48].copy_from_slice(&(SIZE - (64 << 16)).to_le_bytes());
    fs::write(path, begin)?;
    fs::OpenOptions::new()
        .write(true)
        .open(path)?
        .set_len(SIZE)?;
    Ok(())
}

/// Captures the process beside an innocent one.
fn beside(lab: &Lab, hostile: &Work) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let innocent = catalogue::deep(25, Build::Frameless);
    let before = agent.holds()?;
    let works = [innocent.clone(), hostile.clone()];
    let measured = by_agent(lab, &agent, &works, HERTZ, TIME)?;
    for one in &measured {
        println!("{}", one.report());
    }
    let held = agent.holds()?;
    println!(
        "the agent: {} MB before, {} MB after",
        before.rss_bytes >> 20,
        held.rss_bytes >> 20
    );
    ensure!(
        held.rss_bytes <= before.rss_bytes + GROWTH,
        "the agent grew from {} to {} bytes",
        before.rss_bytes,
        held.rss_bytes
    );
    unharmed(&measured[0])?;
    // It still serves the next one.
    let after = by_agent(lab, &agent, &[innocent], HERTZ, TIME)?;
    println!("{}", after[0].report());
    unharmed(&after[0])
}

fn unharmed(innocent: &Measured) -> Result<()> {
    let all = innocent.score.all;
    let clean = all.percent(all.clean);
    ensure!(
        all.samples > 20,
        "{}: {} samples",
        innocent.name,
        all.samples
    );
    ensure!(clean >= CLEAN, "{}: {clean:.2} % are clean", innocent.name);
    Ok(())
}

/// What lives beside a storm of processes keeps its name and its stacks, and the ledger adds up.
pub(crate) fn a_storm_of_processes(lab: &Lab) -> Result<()> {
    let agent = Agent::start(lab, &[])?;
    let storm = catalogue::fork_storm(200).start(lab)?;
    let innocent = by_agent(
        lab,
        &agent,
        &[catalogue::deep(25, Build::Frameless)],
        HERTZ,
        TIME,
    )?;
    println!("{}", innocent[0].report());
    unharmed(&innocent[0])?;
    let host = agent.capture(lab, &["-e", "cpu", "-F", "499", "-d", "2s"])?;
    storm.finish()?;
    let ledger = host.ledger(Event::Cpu)?;
    println!(
        "{} samples of the whole host, ends: {:?}",
        ledger.delivered, ledger.user_stacks
    );
    Ok(())
}
