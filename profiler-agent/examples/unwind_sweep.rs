//! Builds the unwind table of every ELF file under the given paths and compares
//! each row with gimli's own evaluation:
//! `cargo run --release -p profiler-agent --example unwind_sweep -- /usr/bin /usr/lib`.
//! `--no-compare` measures building alone; `--each` prints a line per file.

use std::{
    collections::BTreeMap,
    error::Error,
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use profiler_agent::unwind::table::{BuildLimits, Table, Unsupported, build};

#[path = "../tests/unwind/reference.rs"]
mod reference;

use reference::{Comparison, compare};

#[derive(Default)]
struct Totals {
    files: u64,
    functions: u64,
    rows: u64,
    rules: u64,
    bytes: u64,
    malformed: u64,
    crowded_pages: u64,
    unsupported: [u64; Unsupported::ALL.len()],
    frame_pointers_lost: u64,
    sources: BTreeMap<String, u64>,
    refused: BTreeMap<String, u64>,
    time: Duration,
    compared: Comparison,
}

fn main() -> Result<(), Box<dyn Error>> {
    let (options, paths): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|a| a.starts_with("--"));
    let has = |name: &str| options.iter().any(|option| option == name);
    let mut files = BTreeMap::new();
    for path in &paths {
        find(Path::new(path), &mut files);
    }
    let mut totals = Totals::default();
    for path in files.values() {
        one(path, !has("--no-compare"), has("--each"), &mut totals)?;
    }
    print(&totals);
    assert_eq!(totals.compared.different, 0, "rows differ");
    Ok(())
}

/// ELF files by device and inode, so that links count once.
fn find(path: &Path, files: &mut BTreeMap<(u64, u64), PathBuf>) {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return;
    };
    if metadata.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            find(&entry.path(), files);
        }
    } else if metadata.is_file() && has_code(path) {
        files.insert((metadata.dev(), metadata.ino()), path.into());
    }
}

/// Whether it is an executable or a library.
fn has_code(path: &Path) -> bool {
    let mut header = [0; 18];
    let read = File::open(path)
        .and_then(|file| std::os::unix::fs::FileExt::read_exact_at(&file, &mut header, 0));
    read.is_ok() && header.starts_with(b"\x7fELF") && matches!(header[16], 2 | 3)
}

fn one(
    path: &Path,
    is_compared: bool,
    is_printed: bool,
    totals: &mut Totals,
) -> Result<(), Box<dyn Error>> {
    let Ok(file) = File::open(path) else {
        return Ok(());
    };
    totals.files += 1;
    let start = Instant::now();
    let table = build(&file, &BuildLimits::default());
    let time = start.elapsed();
    totals.time += time;
    match table {
        Ok(table) => {
            add(&table, totals);
            if is_printed {
                println!(
                    "{:>9.1} ms {:>9} rows {:>10} bytes {:>5} rules  {}",
                    time.as_secs_f64() * 1e3,
                    table.report.rows,
                    table.bytes(),
                    table.rules.len(),
                    path.display()
                );
            }
            if is_compared {
                merge(path, compare(&file, &table)?, &mut totals.compared);
            }
        }
        Err(error) => *totals.refused.entry(error.to_string()).or_default() += 1,
    }
    Ok(())
}

fn add(table: &Table, totals: &mut Totals) {
    let report = &table.report;
    totals.functions += report.functions;
    totals.rows += report.rows;
    totals.rules += table.rules.len() as u64;
    totals.bytes += table.bytes() as u64;
    totals.malformed += report.malformed;
    totals.crowded_pages += report.crowded_pages;
    totals.frame_pointers_lost += report.frame_pointers_lost;
    for (total, count) in totals.unsupported.iter_mut().zip(report.unsupported) {
        *total += count;
    }
    *totals
        .sources
        .entry(format!("{:?}", report.source))
        .or_default() += 1;
}

fn merge(path: &Path, one: Comparison, all: &mut Comparison) {
    all.rows += one.rows;
    all.unsupported += one.unsupported;
    all.frame_pointers_lost += one.frame_pointers_lost;
    all.overlapping += one.overlapping;
    all.others += one.others;
    all.different += one.different;
    for difference in one.differences {
        println!("{}: {difference}", path.display());
    }
}

fn print(totals: &Totals) {
    let Totals {
        files,
        functions,
        rows,
        rules,
        bytes,
        malformed,
        crowded_pages,
        unsupported,
        frame_pointers_lost,
        sources,
        refused,
        time,
        compared,
    } = totals;
    println!("files {files} {sources:?}, refused {refused:?}");
    println!(
        "functions {functions}, rows {rows}, rules {rules}, bytes {bytes}, malformed {malformed}, crowded pages {crowded_pages}"
    );
    let seconds = time.as_secs_f64();
    println!(
        "{seconds:.2} s, {:.0} rows/s, {:.2} bytes/row",
        *rows as f64 / seconds,
        *bytes as f64 / *rows as f64
    );
    for (reason, count) in Unsupported::ALL.iter().zip(unsupported) {
        println!("unsupported: {}: {count}", reason.name());
    }
    println!("frame pointers lost: {frame_pointers_lost}");
    println!("compared {compared:?}");
}
