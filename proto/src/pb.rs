//! The messages, the client and the server, generated from `proto/profiler/v1/*.proto`.

#![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]

tonic::include_proto!("profiler.v1");
