//! Who depends on whom, from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process;

/// What the command line must not link, not even through another crate.
const KERNEL_SIDE: [&str; 5] = ["aya", "aya-log", "aya-obj", "profiler-abi", "blazesym"];

/// Every crate of the project, and the project crates it may use in its normal dependencies.
const MAY_USE: [(&str, &[&str]); 7] = [
    ("profiler-abi", &[]),
    ("profiler-proto", &[]),
    ("profiler-agent", &["profiler-abi", "profiler-proto"]),
    ("profiler-cli", &["profiler-proto"]),
    // The tests see what a user sees, and read captures through the model.
    ("profiler-tests", &["profiler-proto"]),
    ("xtask", &[]),
    ("profiler-bench", &["profiler-proto", "profiler-tests"]),
];

/// The normal dependencies (neither build nor development) of every package, by name.
pub(crate) struct Graph {
    members: BTreeSet<String>,
    uses: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// None for a normal dependency, else "build" or "dev".
    kind: Option<String>,
}

impl Graph {
    /// The graph of this workspace, with every feature that cargo would turn on.
    pub(crate) fn of_workspace() -> Result<Self> {
        let metadata = process::read(process::cargo().args(["metadata", "--format-version", "1"]))?;
        Self::parse(&metadata)
    }

    fn parse(metadata: &str) -> Result<Self> {
        let metadata: Metadata =
            serde_json::from_str(metadata).context("cannot read the output of cargo metadata")?;
        let names: BTreeMap<&str, &str> = metadata
            .packages
            .iter()
            .map(|package| (package.id.as_str(), package.name.as_str()))
            .collect();
        let name = |id: &str| names.get(id).map_or(id, |name| *name).to_owned();
        let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in &metadata.resolve.nodes {
            // Two versions of a crate share a name and are looked at as one.
            uses.entry(name(&node.id))
                .or_default()
                .extend(normal(node).map(name));
        }
        let members = metadata.workspace_members.iter().map(|id| name(id));
        Ok(Self {
            members: members.collect(),
            uses,
        })
    }

    fn used_by(&self, package: &str) -> impl Iterator<Item = &str> {
        self.uses
            .get(package)
            .into_iter()
            .flatten()
            .map(String::as_str)
    }

    /// A shortest chain of normal dependencies from one package to another.
    fn chain(&self, from: &str, to: &str) -> Option<Vec<String>> {
        let mut chains = vec![vec![from.to_owned()]];
        let mut seen = BTreeSet::from([from.to_owned()]);
        while !chains.is_empty() {
            let mut longer = Vec::new();
            for chain in chains {
                for next in chain.last().into_iter().flat_map(|last| self.used_by(last)) {
                    let mut extended = chain.clone();
                    extended.push(next.to_owned());
                    if next == to {
                        return Some(extended);
                    }
                    if seen.insert(next.to_owned()) {
                        longer.push(extended);
                    }
                }
            }
            chains = longer;
        }
        None
    }
}

fn normal(node: &Node) -> impl Iterator<Item = &str> {
    let is_normal =
        |dependency: &&Dependency| dependency.dep_kinds.iter().any(|k| k.kind.is_none());
    node.deps.iter().filter(is_normal).map(|d| d.pkg.as_str())
}

pub(crate) fn cli_reaches_no_kernel_side(graph: &Graph) -> Result<Vec<String>> {
    let chains = KERNEL_SIDE
        .iter()
        .filter_map(|forbidden| graph.chain("profiler-cli", forbidden));
    Ok(chains.map(|chain| chain.join(" -> ")).collect())
}

pub(crate) fn direction(graph: &Graph) -> Result<Vec<String>> {
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.into_iter().collect();
    let mut breaches = Vec::new();
    for member in &graph.members {
        let Some(allowed) = allowed.get(member.as_str()) else {
            breaches.push(format!("{member} is not in the table of {}", file!()));
            continue;
        };
        for used in graph.used_by(member) {
            if graph.members.contains(used) && !allowed.contains(&used) {
                breaches.push(format!("{member} -> {used}"));
            }
        }
    }
    Ok(breaches)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A graph of `user -> used` lines; `kind` is that of every edge.
    fn graph(edges: &[(&str, &str)], kind: &str) -> Graph {
        let mut uses: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (user, used) in edges {
            uses.entry(user).or_default().push(used);
            uses.entry(used).or_default();
        }
        let packages = uses
            .keys()
            .map(|n| serde_json::json!({"id": format!("id {n}"), "name": n}));
        let nodes = uses.iter().map(|(user, used)| {
            let deps = used.iter().map(|used| {
                let kind: Option<&str> = Some(kind).filter(|kind| *kind != "normal");
                serde_json::json!({"pkg": format!("id {used}"), "dep_kinds": [{"kind": kind}]})
            });
            serde_json::json!({"id": format!("id {user}"), "deps": deps.collect::<Vec<_>>()})
        });
        let members = uses.keys().filter(|n| n.starts_with("profiler-"));
        let metadata = serde_json::json!({
            "packages": packages.collect::<Vec<_>>(),
            "workspace_members": members.map(|n| format!("id {n}")).collect::<Vec<_>>(),
            "resolve": {"nodes": nodes.collect::<Vec<_>>()},
        });
        Graph::parse(&metadata.to_string()).unwrap()
    }

    #[test]
    fn a_hidden_way_to_the_kernel_side_is_shown() {
        let graph = graph(
            &[
                ("profiler-cli", "profiler-proto"),
                ("profiler-proto", "helper"),
                ("helper", "aya"),
            ],
            "normal",
        );
        assert_eq!(
            cli_reaches_no_kernel_side(&graph).unwrap(),
            ["profiler-cli -> profiler-proto -> helper -> aya"]
        );
    }

    #[test]
    fn development_dependencies_are_free() {
        let graph = graph(
            &[("profiler-cli", "aya"), ("profiler-proto", "profiler-abi")],
            "dev",
        );
        assert!(cli_reaches_no_kernel_side(&graph).unwrap().is_empty());
        assert!(direction(&graph).unwrap().is_empty());
    }

    #[test]
    fn a_wrong_direction_and_an_unknown_crate_are_shown() {
        let graph = graph(
            &[
                ("profiler-agent", "profiler-proto"),
                ("profiler-proto", "profiler-abi"),
                ("profiler-new", "serde"),
            ],
            "normal",
        );
        let breaches = direction(&graph).unwrap();
        assert_eq!(breaches.len(), 2, "{breaches:?}");
        assert!(breaches[0].starts_with("profiler-new is not in the table"));
        assert_eq!(breaches[1], "profiler-proto -> profiler-abi");
    }

    #[test]
    fn cycles_end_the_search() {
        let graph = graph(&[("profiler-cli", "a"), ("a", "b"), ("b", "a")], "normal");
        assert!(cli_reaches_no_kernel_side(&graph).unwrap().is_empty());
    }

    #[test]
    fn the_real_metadata_can_be_read() {
        let graph = Graph::of_workspace().unwrap();
        assert!(graph.members.contains("xtask"));
        assert!(graph.used_by("xtask").any(|used| used == "clap"));
    }
}
