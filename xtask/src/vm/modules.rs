//! Kernel modules a guest needs: found with what they depend on, decompressed, numbered in the order to load.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The file share, and a disk whose latency is known.
const WANTED: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "null_blk"];

/// What `modules.dep` says: for each file, those it depends on.
struct Dependencies {
    of: HashMap<String, Vec<String>>,
}

impl Dependencies {
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let words = |list: &str| list.split_whitespace().map(str::to_owned).collect();
        Self {
            of: lines
                .map(|(file, list)| (file.to_owned(), words(list)))
                .collect(),
        }
    }

    fn file(&self, module: &str) -> Option<&str> {
        let mut files = self.of.keys();
        files.find(|file| name(file) == module).map(String::as_str)
    }

    /// Adds a file after everything it depends on.
    fn add(&self, file: &str, order: &mut Vec<String>) {
        if order.iter().any(|known| known == file) {
            return;
        }
        for dependency in self.of.get(file).into_iter().flatten() {
            self.add(dependency, order);
        }
        order.push(file.to_owned());
    }
}

/// Copies the wanted modules out of the folder of one release; names get a number that is their turn.
pub(crate) fn extract(release: &Path, into: &Path) -> Result<()> {
    let text =
        fs::read_to_string(release.join("modules.dep")).context("cannot read modules.dep")?;
    let built_in = fs::read_to_string(release.join("modules.builtin"))
        .context("cannot read modules.builtin")?;
    let order = load_order(&Dependencies::parse(&text), &built_in)?;
    fs::create_dir_all(into).with_context(|| format!("cannot make {}", into.display()))?;
    for (turn, file) in order.iter().enumerate() {
        let target = into.join(format!("{turn:02}-{}.ko", name(file)));
        let content = decompressed(&release.join(file))?;
        fs::write(&target, content)
            .with_context(|| format!("cannot write {}", target.display()))?;
    }
    Ok(())
}

/// The extracted modules in the order to load them.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut files = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

fn load_order(dependencies: &Dependencies, built_in: &str) -> Result<Vec<String>> {
    let mut order = Vec::new();
    for module in WANTED {
        match dependencies.file(module) {
            Some(file) => dependencies.add(file, &mut order),
            None if built_in.lines().any(|file| name(file) == module) => {}
            None => bail!("module {module} is neither in the packages nor built in"),
        }
    }
    Ok(order)
}

/// The module's name as the kernel spells it: "9pnet_virtio" of "kernel/net/9p/9pnet-virtio.ko.xz".
fn name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split(".ko").next().unwrap_or(base).replace('-', "_")
}

fn decompressed(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(file).with_context(|| format!("cannot read {}", file.display())),
    };
    let output = Command::new(program)
        .args(["--decompress", "--stdout"])
        .arg(file)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!("{program} cannot decompress {}", file.display());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/a/virtio_pci.ko.xz: kernel/a/virtio_ring.ko.xz kernel/a/virtio.ko.xz\n\
        kernel/a/virtio_ring.ko.xz: kernel/a/virtio.ko.xz\nkernel/a/virtio.ko.xz:\n\
        kernel/n/9pnet-virtio.ko: kernel/n/9pnet.ko\nkernel/n/9pnet.ko:\n\
        kernel/f/9p.ko.zst: kernel/n/9pnet.ko\n";

    #[test]
    fn dependencies_come_first_and_once() {
        let order = load_order(&Dependencies::parse(DEP), "kernel/b/null_blk.ko\n").unwrap();
        let names: Vec<String> = order.iter().map(|file| name(file)).collect();
        assert_eq!(
            names,
            [
                "virtio",
                "virtio_ring",
                "virtio_pci",
                "9pnet",
                "9pnet_virtio",
                "9p"
            ]
        );
    }

    #[test]
    fn a_module_that_is_nowhere_is_an_error() {
        let error = load_order(&Dependencies::parse(DEP), "").unwrap_err();
        assert!(error.to_string().contains("null_blk"), "{error}");
    }
}
