//! What the tests of whole runs share.

pub mod encoder;
pub mod harness;
pub mod s3_sim;
