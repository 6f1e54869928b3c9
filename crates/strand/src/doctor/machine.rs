//! The machine: cores, devices, memory, disk, sockets.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use rustix::fs::statvfs;
use rustix::process::{Resource, getrlimit};

use super::{Finding, State};
use crate::launch::world;
use crate::table::bytes;

const GIB: u64 = 1 << 30;

pub fn cores() -> Finding {
    Finding::ok("cores", world::cores().to_string())
}

pub fn gpus() -> Finding {
    match strand_control::visible_gpus() {
        0 => Finding::ok("gpus", "none: ranks run on the CPU"),
        count => Finding::ok("gpus", count.to_string()),
    }
}

pub fn memory() -> Finding {
    match available_memory() {
        None => Finding::ok("memory", "unknown"),
        Some(free) if free < 2 * GIB => {
            let detail = format!("{} available", bytes(free));
            Finding::bad("memory", State::Warning, detail, "the demo takes about 2 GiB")
        }
        Some(free) => Finding::ok("memory", format!("{} available", bytes(free))),
    }
}

/// Bytes of this machine's memory that programs may take, where the system says.
pub fn available_memory() -> Option<u64> {
    available(&fs::read_to_string("/proc/meminfo").ok()?)
}

/// Bytes that /proc/meminfo calls available.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

pub fn shared_memory() -> Finding {
    let hint = "raise it (docker run --shm-size=1g): ranks on one machine may exchange data there";
    match free(Path::new("/dev/shm")) {
        Ok(free) if free < GIB / 4 => {
            Finding::bad("shared memory", State::Warning, format!("{} free", bytes(free)), hint)
        }
        Ok(free) => Finding::ok("shared memory", format!("{} free", bytes(free))),
        Err(error) => Finding::bad("shared memory", State::Warning, error, hint),
    }
}

pub fn disk() -> Finding {
    match free(Path::new(".")) {
        Ok(free) if free < 2 * GIB => {
            let detail = format!("{} free here", bytes(free));
            Finding::bad("disk", State::Warning, detail, "checkpoints go below the current folder")
        }
        Ok(free) => Finding::ok("disk", format!("{} free here", bytes(free))),
        Err(error) => Finding::bad("disk", State::Missing, error, "go to a folder that exists"),
    }
}

fn free(path: &Path) -> Result<u64, String> {
    let stat = statvfs(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(stat.f_bavail * stat.f_frsize)
}

pub fn open_files() -> Finding {
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < 1024 => {
            let detail = format!("{limit} at once");
            Finding::bad("open files", State::Warning, detail, "raise it: `ulimit -n 4096`")
        }
        Some(limit) => Finding::ok("open files", format!("{limit} at once")),
        None => Finding::ok("open files", "any number"),
    }
}

/// Ranks meet on a port of the loopback interface.
pub fn ports() -> Finding {
    match TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()) {
        Ok(_) => Finding::ok("ports", "127.0.0.1 can be listened on"),
        Err(error) => {
            let detail = format!("127.0.0.1: cannot listen: {error}");
            let hint = "ranks meet on a local port: allow sockets in this container";
            Finding::bad("ports", State::Missing, detail, hint)
        }
    }
}

/// Names only: values are secrets.
pub fn object_storage() -> Finding {
    let is_aws = |name: &String| name.starts_with("AWS_");
    let mut names: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(is_aws)
        .collect();
    names.sort();
    match names.as_slice() {
        [] => Finding::ok("object storage", "no AWS_* variables: s3:// needs them"),
        names => Finding::ok("object storage", format!("set: {}", names.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read() {
        let text = "MemTotal:  8000 kB\nMemAvailable:   4096 kB\n";
        assert_eq!(available(text), Some(4 << 20));
        assert_eq!(available(""), None);
    }

    #[test]
    fn free_space_is_known_where_there_is_a_folder() {
        assert!(free(Path::new("/")).is_ok());
        assert!(free(Path::new("/nowhere")).unwrap_err().contains("/nowhere"));
    }
}
