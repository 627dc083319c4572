//! Tests on a real adapter. Without one they fail.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod bands;
mod case;
#[path = "../host/data.rs"]
mod data;
mod device;
mod dims;
mod extremes;
mod layouts;
mod limits;
mod masks;
mod stages;
