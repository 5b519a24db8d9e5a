//! What can go wrong with the kernel programs.

use std::io;

use aya::{EbpfError, maps::MapError};
use profiler_proto::EventFacts;

use super::{btf::BtfError, offsets::TargetError};

/// What a caller is told apart from the sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A permission or capability is missing.
    Denied,
    /// The target does not exist.
    InvalidTarget,
    /// This kernel cannot do it.
    Unavailable,
    /// A bug, or a resource that ran out.
    Internal,
}

/// What failed on what.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The kernel does not describe itself.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The same, as aya reads it.
    #[error("parse this kernel's BTF: {}", chain(.0))]
    KernelBtf(#[source] aya::BtfError),
    /// The target asked for.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Creating the maps and loading the object.
    #[error("load the kernel programs: {}", chain(.0))]
    Load(#[source] EbpfError),
    /// The embedded object is not the one this agent was written for.
    #[error("the embedded kernel object has no {0}")]
    Object(&'static str),
    /// A map operation.
    #[error("map {name}: {}", chain(source))]
    Map {
        /// Name in the object.
        name: &'static str,
        /// What aya says.
        source: Box<MapError>,
    },
    /// The fork tracepoint.
    #[error("follow the target's children: {0}")]
    FollowForks(String),
    /// The exec tracepoint.
    #[error("follow processes that call exec: {0}")]
    FollowExecs(String),
    /// The task iterator.
    #[error("read the threads' accounts: {0}")]
    Accounts(#[source] io::Error),
    /// A descriptor.
    #[error("duplicate the descriptor of a map: {0}")]
    Descriptor(#[source] io::Error),
    /// Not one event.
    #[error("{reasons}")]
    NothingAvailable {
        /// Each event with its reason.
        reasons: String,
        /// Whether permission is what lacks.
        denied: bool,
    },
}

impl BpfError {
    /// For `map_err` on operations on the map `name`.
    pub(super) fn map(name: &'static str) -> impl FnOnce(MapError) -> Self {
        move |source| Self::Map {
            name,
            source: Box::new(source),
        }
    }

    pub(super) fn nothing_available(events: &[EventFacts]) -> Self {
        let reasons: Vec<String> = events
            .iter()
            .map(|facts| format!("{} cannot be measured: {}", facts.event, facts.reason))
            .collect();
        Self::NothingAvailable {
            denied: events.iter().all(|facts| is_denial(&facts.reason)),
            reasons: reasons.join("; "),
        }
    }

    /// What a caller should make of it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Target(TargetError::Btf(_)) | Self::Btf(_) | Self::KernelBtf(_) => {
                ErrorKind::Unavailable
            }
            Self::Target(_) => ErrorKind::InvalidTarget,
            Self::NothingAvailable { denied: true, .. } => ErrorKind::Denied,
            Self::NothingAvailable { .. } => ErrorKind::Unavailable,
            error if is_denial(&error.to_string()) => ErrorKind::Denied,
            _ => ErrorKind::Internal,
        }
    }
}

/// Whether a sentence ends in the kernel's EPERM or EACCES: aya wraps the
/// number too deep to be matched on.
fn is_denial(sentence: &str) -> bool {
    sentence.contains("Operation not permitted") || sentence.contains("Permission denied")
}

/// An error with its causes, in one line. A verifier's log is cut to its end,
/// where the reason stands.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    const LONGEST: usize = 600;
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !sentence.contains(&text) {
            sentence.push_str(": ");
            sentence.push_str(&text);
        }
        cause = error.source();
    }
    let sentence = sentence.trim().replace('\n', " | ");
    match sentence.char_indices().nth_back(LONGEST) {
        Some((start, _)) => format!("... {}", &sentence[start..]),
        None => sentence,
    }
}
