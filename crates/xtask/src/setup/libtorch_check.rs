//! Whether a folder is the libtorch that the build needs.

use std::fs;
use std::path::Path;

/// The version that the `tch` crate binds.
pub const VERSION: &str = "2.11.0";

/// Our shim compiles against this header; distributions built without Gloo lack it.
const GLOO_HEADER: &str = "include/torch/csrc/distributed/c10d/ProcessGroupGloo.hpp";

const VERSION_HEADER: &str = "include/torch/headeronly/version.h";

const LIBRARIES: [&str; 3] = ["libtorch.so", "libtorch_cpu.so", "libc10.so"];

/// Why `folder` will not do, or `Ok`.
pub fn check(folder: &Path) -> Result<(), String> {
    if !folder.is_dir() {
        return Err("there is no such folder".to_owned());
    }
    let version = version(folder)?;
    if version != VERSION {
        return Err(format!("it is libtorch {version}, and {VERSION} is needed"));
    }
    if !folder.join(GLOO_HEADER).exists() {
        return Err(format!("it has no {GLOO_HEADER}"));
    }
    match LIBRARIES.iter().find(|name| !folder.join("lib").join(name).exists()) {
        Some(name) => Err(format!("it has no lib/{name}")),
        None => Ok(()),
    }
}

fn version(folder: &Path) -> Result<String, String> {
    let header = fs::read_to_string(folder.join(VERSION_HEADER))
        .map_err(|error| format!("{VERSION_HEADER}: {error}"))?;
    let parts = ["MAJOR", "MINOR", "PATCH"].map(|part| number(&header, part));
    let [Some(major), Some(minor), Some(patch)] = parts else {
        return Err(format!("{VERSION_HEADER} tells no version"));
    };
    Ok(format!("{major}.{minor}.{patch}"))
}

fn number<'a>(header: &'a str, part: &str) -> Option<&'a str> {
    let define = format!("#define TORCH_VERSION_{part} ");
    header.lines().find_map(|line| line.strip_prefix(&define)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn header(minor: u32) -> String {
        format!(
            "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR {minor}\n\
             #define TORCH_VERSION_PATCH 0\n"
        )
    }

    #[test]
    fn a_folder_passes_only_when_whole_and_of_the_version() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert!(check(&folder.join("none")).unwrap_err().contains("no such folder"));
        assert!(check(folder).unwrap_err().contains(VERSION_HEADER));
        touch(&folder.join(VERSION_HEADER), &header(9));
        assert!(check(folder).unwrap_err().contains("2.9.0"));
        touch(&folder.join(VERSION_HEADER), &header(11));
        assert!(check(folder).unwrap_err().contains(GLOO_HEADER));
        touch(&folder.join(GLOO_HEADER), "");
        assert!(check(folder).unwrap_err().contains("lib/libtorch.so"));
        for name in LIBRARIES {
            touch(&folder.join("lib").join(name), "");
        }
        assert_eq!(check(folder), Ok(()));
    }
}
