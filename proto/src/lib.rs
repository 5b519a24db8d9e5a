//! The profiler's API and the model that agent and command line share.
//!
//! A [`Capture`] is what one host was seen doing over one window: [`Profile`]s of samples, a
//! [`Dictionary`] of what they refer to, exact counts beside them, [`Facts`] about the host and a
//! [`Ledger`] that proves the whole. It travels and is stored as chunks ([`chunks`],
//! [`CaptureAssembler`]), each in a checksummed frame ([`encode_frame`], [`decode_frame`]); a file
//! is a header and frames ([`read_capture`], [`write_capture`]).
//!
//! [`pb`] holds the messages as they are on the wire. What comes in is turned into the types of
//! the model once, with every bound checked; a message that was not is never trusted.

#![forbid(unsafe_code)]

mod assembler;
mod canonical;
mod capture;
mod capture_file;
mod capture_spec;
mod chunk;
mod dictionary;
mod duration;
mod entries;
mod event;
mod facts;
mod frame;
mod histogram;
mod identity;
mod ledger;
mod ledger_wire;
mod merge;
pub mod pb;
mod profile;
mod relabel;
mod target;
mod wire_enum;
mod wire_tables;
mod wire_writer;

pub use assembler::{CaptureAssembler, ModelError};
pub use capture::{Capture, DeviceStatistics, ThreadAccount};
pub use capture_file::{
    CaptureFileError, CaptureFileReader, CaptureFileWriter, FORMAT_VERSION, MAX_CAPTURE_BYTES,
    read_capture, write_capture,
};
pub use capture_spec::{CaptureSpec, Frequency, SpecError};
pub use chunk::{chunks, client_chunk};
pub use dictionary::Dictionary;
pub use duration::CaptureDuration;
pub use entries::MAX_CHUNK_ENTRIES;
pub use event::{Event, UnknownEvent, UnknownEventName};
pub use facts::{CommandResult, EndReason, EventFacts, Facts, OwnCost, UnwindFacts};
pub use frame::{FrameError, MAX_CHUNK_BYTES, MAX_FRAME_BYTES, decode_frame, encode_frame};
pub use histogram::Histogram;
pub use ledger::{EventLedger, Imbalance, Ledger, LossReason, SkipReason};
pub use merge::MergeError;
pub use profile::{
    Attribute, AttributeKey, AttributeSet, AttributesId, Frame, FrameId, FrameKind, Line, Mapping,
    MappingId, Process, ProcessId, Profile, Sample, Stack, StackEnd, StackId, StrId, Thread,
    ThreadId, UnwindMethod,
};
pub use target::{Comm, Pid, Target};
