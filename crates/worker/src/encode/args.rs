//! The arguments of `strand-worker encode`, which only `strand` writes.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// Type of the computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compute {
    Fp32,
    Bf16,
    Fp16,
}

impl Compute {
    /// The word in the arguments.
    pub fn as_str(self) -> &'static str {
        match self {
            Compute::Fp32 => "fp32",
            Compute::Bf16 => "bf16",
            Compute::Fp16 => "fp16",
        }
    }
}

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first GPU if there is one.
    Auto,
    Cpu,
    Cuda(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Auto => f.write_str("auto"),
            Place::Cpu => f.write_str("cpu"),
            Place::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// `FOLDER [--dtype fp32|bf16|fp16] [--device auto|cpu|cuda|cuda:N] [--batch N] [--threads N]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Args {
    pub folder: PathBuf,
    pub compute: Compute,
    pub device: Place,
    pub batch: usize,
    pub threads: Option<i32>,
}

impl Args {
    pub fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Args, String> {
        let folder = words.next().ok_or("encode: the folder of the model is missing")?;
        let mut args = Args {
            folder: folder.into(),
            compute: Compute::Fp32,
            device: Place::Auto,
            batch: 16,
            threads: None,
        };
        while let Some(flag) = words.next() {
            let flag = flag.to_string_lossy().into_owned();
            let value = words.next().and_then(|value| value.into_string().ok());
            let value = value.ok_or_else(|| format!("encode: {flag} has no value"))?;
            let known = args.set(&flag, &value);
            known.ok_or_else(|| format!("encode: `{flag} {value}` is not understood"))?;
        }
        Ok(args)
    }

    fn set(&mut self, flag: &str, value: &str) -> Option<()> {
        match flag {
            "--dtype" => self.compute = compute(value)?,
            "--device" => self.device = place(value)?,
            "--batch" => self.batch = value.parse().ok().filter(|batch| *batch > 0)?,
            "--threads" => self.threads = Some(value.parse().ok().filter(|count| *count > 0)?),
            _ => return None,
        }
        Some(())
    }
}

fn compute(word: &str) -> Option<Compute> {
    [Compute::Fp32, Compute::Bf16, Compute::Fp16].into_iter().find(|kind| kind.as_str() == word)
}

fn place(word: &str) -> Option<Place> {
    match word {
        "auto" => Some(Place::Auto),
        "cpu" => Some(Place::Cpu),
        "cuda" => Some(Place::Cuda(0)),
        _ => word.strip_prefix("cuda:")?.parse().ok().map(Place::Cuda),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Args, String> {
        Args::parse(text.split_whitespace().map(OsString::from))
    }

    #[test]
    fn what_strand_writes_is_understood() {
        let args = parse("m --dtype bf16 --device cuda:3 --batch 8 --threads 2").expect("valid");
        let expected = Args {
            folder: "m".into(),
            compute: Compute::Bf16,
            device: Place::Cuda(3),
            batch: 8,
            threads: Some(2),
        };
        assert_eq!(args, expected);
        assert_eq!(parse("m --device cuda").map(|args| args.device), Ok(Place::Cuda(0)));
    }

    #[test]
    fn the_rest_is_named() {
        for (text, named) in [
            ("", "the folder of the model"),
            ("m --batch", "--batch has no value"),
            ("m --batch 0", "`--batch 0`"),
            ("m --dtype int8", "`--dtype int8`"),
            ("m --device tpu", "`--device tpu`"),
            ("m --depth 3", "`--depth 3`"),
        ] {
            assert!(parse(text).is_err_and(|error| error.contains(named)), "{text}");
        }
    }
}
