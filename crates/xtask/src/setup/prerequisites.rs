//! The programs that have to be on the machine beforehand; all that miss are named at once.

use std::env;
use std::process::Command;

use crate::failure::{ENVIRONMENT, Failure};
use crate::process::answer;

/// Which prerequisites the work ahead has.
#[derive(Clone, Copy)]
pub struct Needs {
    /// A C++ compiler: libtorch's bindings are built from source.
    pub compiler: bool,
    /// Python with pip: wheels are to be fetched.
    pub pip: bool,
}

/// The package managers we can give a command for, in the order in which they are looked for.
const MANAGERS: [Manager; 5] = [
    Manager {
        program: "apt-get",
        install: "apt-get install -y",
        compiler: "g++",
        pip: "python3 python3-pip",
    },
    Manager {
        program: "dnf",
        install: "dnf install -y",
        compiler: "gcc-c++",
        pip: "python3 python3-pip",
    },
    Manager {
        program: "zypper",
        install: "zypper install -y",
        compiler: "gcc-c++",
        pip: "python3 python3-pip",
    },
    Manager {
        program: "pacman",
        install: "pacman -S --noconfirm",
        compiler: "gcc",
        pip: "python python-pip",
    },
    Manager {
        program: "yum",
        install: "yum install -y",
        compiler: "gcc-c++",
        pip: "python3 python3-pip",
    },
];

struct Manager {
    program: &'static str,
    install: &'static str,
    compiler: &'static str,
    pip: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Compiler,
    Pip,
    NewerPython,
}

/// Fails with everything that is missing and the commands that install it.
pub fn require(needs: Needs) -> Result<(), Failure> {
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    let manager = MANAGERS.iter().find(|manager| on_path(manager.program));
    Err(error(&missing, manager))
}

/// The C++ compiler that the `cc` crate would take.
pub fn compiler() -> String {
    env::var("CXX").unwrap_or_else(|_| "c++".to_owned())
}

fn missing(needs: Needs) -> Vec<Missing> {
    let mut missing = Vec::new();
    if needs.compiler && answer(Command::new(compiler()).arg("--version")).is_none() {
        missing.push(Missing::Compiler);
    }
    if needs.pip {
        missing.extend(python_trouble());
    }
    missing
}

fn python_trouble() -> Option<Missing> {
    let version = "import sys; print(sys.version_info >= (3, 10))";
    let recent = answer(Command::new("python3").args(["-c", version]));
    let pip = answer(Command::new("python3").args(["-m", "pip", "--version"]));
    match (recent.as_deref(), pip) {
        (Some("True"), Some(_)) => None,
        (Some("False"), _) => Some(Missing::NewerPython),
        _ => Some(Missing::Pip),
    }
}

fn on_path(program: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

fn error(missing: &[Missing], manager: Option<&Manager>) -> Failure {
    let lines: Vec<String> = missing
        .iter()
        .map(|one| format!("\n  {}\n      {}", one.what(), one.remedy(manager)))
        .collect();
    let message = format!("missing on this machine:{}", lines.concat());
    Failure::new(ENVIRONMENT, message)
        .hint("install what is listed, then run the same command again")
}

impl Missing {
    fn what(self) -> String {
        match self {
            Missing::Compiler => format!("a C++ compiler (`{}` does not run)", compiler()),
            Missing::Pip => "python3 with pip (`python3 -m pip --version` fails)".to_owned(),
            Missing::NewerPython => {
                "python3 at 3.10 or later (`python3 --version` is older)".to_owned()
            }
        }
    }

    fn remedy(self, manager: Option<&Manager>) -> String {
        let package = match (self, manager) {
            (Missing::Compiler, Some(manager)) => manager.compiler,
            (Missing::Pip, Some(manager)) => manager.pip,
            (Missing::Compiler, None) => return "install g++ or clang++, or set CXX".to_owned(),
            (Missing::Pip, None) => return "install python3 with pip".to_owned(),
            (Missing::NewerPython, _) => {
                return "install a newer python3 and put it first on PATH".to_owned();
            }
        };
        format!("{} {package}", manager.map_or("", |manager| manager.install))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_missing_is_named_with_its_command() {
        let text = error(&[Missing::Compiler, Missing::Pip], Some(&MANAGERS[0])).to_string();
        assert!(text.contains("a C++ compiler"), "{text}");
        assert!(text.contains("apt-get install -y g++"), "{text}");
        assert!(text.contains("apt-get install -y python3 python3-pip"), "{text}");
    }

    #[test]
    fn without_a_package_manager_there_is_still_advice() {
        let text = error(&[Missing::Compiler, Missing::NewerPython], None).to_string();
        assert!(text.contains("g++ or clang++"), "{text}");
        assert!(text.contains("newer python3"), "{text}");
    }
}
