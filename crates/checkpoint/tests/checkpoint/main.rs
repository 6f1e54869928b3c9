//! Checkpoints on local disk: any layout reads what another wrote, damage is found, a full disk commits nothing.

mod common;
mod damage;
mod full_disk;
mod layouts;
