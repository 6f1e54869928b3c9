//! What the tests of whole runs share.

pub mod harness;
